"""Studies that compare fronts: arms over seeds, indicators with intervals, and the paper's comparisons."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from sipo.config import Config
from sipo.config.file import parse_config
from sipo.errors import SipoError
from sipo.methods.registry import find
from sipo.pareto.bootstrap import Array, Resamples, corrected, percentile_interval, resampled_means
from sipo.pareto.compare import MEASURES, dominated_shares, front_indicators
from sipo.pareto.control import NARROW, ranges, start_of
from sipo.pareto.hypervolume import hypervolumes, standard_error
from sipo.pareto.indicators import beyond, mean_utility, unit_ranges
from sipo.pareto.verdicts import OPPOSED, Difference, decide, holm, mean_difference, moving, undecided
from sipo.progress import Progress
from sipo.report.plots import attainment_png, front_png
from sipo.studies.arms import Arm, Front, run_arms
from sipo.studies.ground import Ground, Settings, reference_point
from sipo.studies.intervals import BOOTSTRAP, Interval, outcome, over_seeds, shown, tested
from sipo.studies.study import Conclusion, Finding, Table
from sipo.weights import grid


@dataclass(frozen=True)
class Claim:
    """The paper has `better` above `worse`; or, where `none`, not above it."""

    better: str
    worse: str
    statement: str = ""
    none: bool = False
    ours: bool = False

    @property
    def words(self) -> str:
        return self.statement or f"{self.better} is above {self.worse}"


@dataclass(frozen=True)
class FrontStudy:
    name: str
    question: str
    arms: Callable[[Settings], Sequence[Arm]]
    claims: Sequence[Claim]
    pictured: tuple[str, ...] = ()
    """A picture for each of these words, of the arms whose labels begin with it; without any, one of all arms."""
    only: tuple[str, ...] = ()
    """Labels of the arms that are measured, and that all is corrected for; none stands for all."""

    def of(self, labels: Sequence[str]) -> "FrontStudy":
        """The same of these arms alone."""
        return replace(self, only=tuple(labels))

    def compared(self, settings: Settings) -> list[Arm]:
        """The arms that these settings have, as far as they are asked for."""
        arms = list(self.arms(settings))
        if unknown := [label for label in self.only if label not in {arm.label for arm in arms}]:
            known = ", ".join(arm.label for arm in arms)
            raise SipoError(f"--arms: `{unknown[0]}` is no arm of `{self.name}` here; they are {known}")
        return [arm for arm in arms if not self.only or arm.label in self.only]

    def claimed(self, arms: Collection[str]) -> list[Claim]:
        """What is claimed of the arms that there are; some may fit other settings alone."""
        return [claim for claim in self.claims if claim.better in arms and claim.worse in arms]

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        """Points, lengths and indicators of every arm, with bootstrap draws over prompts; and what a seed alone says
        of every claim.
        """
        settings = ground.settings(seed, progress)
        arms = self.compared(settings)
        fronts = run_arms(arms, settings, ground.folder / "fronts", progress)
        config = parse_config(settings, self.name)
        reference = reference_point(config, np.concatenate([each.points for each in fronts.values()]), folder)
        measured = indicators_of(fronts, config, np.array([reference[name] for name in config.names]))
        return {
            "objectives": [{"name": each.name, "direction": each.direction} for each in config.objectives],
            "reference_point": reference,
            "weights": [dict(zip(config.names, weight, strict=True)) for weight in grid(config.weights, config.names)],
            "prompts": next(iter(fronts.values())).rewards_M_P_N.shape[1],
            "arms": {arm.label: {**measured[arm.label], "steered": find(arm.method).steered} for arm in arms},
            "claims": [
                within_seed(fronts[claim.better].rewards_M_P_N, fronts[claim.worse].rewards_M_P_N, config)
                for claim in self.claimed(fronts)
            ],
        }

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        objectives = seeds[0]["objectives"]
        labels = list(seeds[0]["arms"])
        names = [objective["name"] for objective in objectives]
        arms = {label: [seed["arms"][label] for seed in seeds] for label in labels}
        measured = [
            [label, *(shown(_interval(mine, measure)) for measure in MEASURES), _kept(label, arms, names), length]
            for label, mine in arms.items()
            for length in [_mean(mine, "length")]
        ]
        shapes = [
            [
                label,
                *map(float, np.mean([np.mean(each["points"], axis=0) for each in mine], axis=0)),
                *map(float, np.mean([each["ranges"] for each in mine], axis=0)),
                *(_mean(mine, measure) for measure in ("epsilon", "igd_plus", "dominated")),
            ]
            for label, mine in arms.items()
        ]
        means, moved = [f"mean {name}" for name in names], [f"range of {name}" for name in names]
        unit = f"{len(seeds)} seeds, 95 % t intervals" if len(seeds) > 1 else "one seed, 95 % intervals over prompts"
        outside = sum(each["beyond"] for seed in seeds for each in seed["arms"].values())
        corner = ", ".join(f"{name} {value:.3g}" for name, value in seeds[0]["reference_point"].items())
        note = f"; {outside} points lie beyond the reference and add nothing to it" if outside else ""
        error = max(each.get("hypervolume_error", 0.0) for seed in seeds for each in seed["arms"].values())
        sampled = f", estimated to a standard error of {error:.1g}," if error else ""
        title = f"Fronts, hypervolume{sampled} above {corner} ({unit}{note})"
        tables = [
            Table(title, ["arm", *MEASURES, "least range kept", "tokens"], measured),
            Table("Their shapes", ["arm", *means, *moved, "epsilon", "IGD+", "dominated"], shapes),
        ]
        return Conclusion(tables, findings_of(self.claimed(labels), seeds), self._pictures(seeds, objectives, labels))

    def _pictures(
        self, seeds: Sequence[dict[str, Any]], objectives: list[dict[str, str]], labels: Sequence[str]
    ) -> dict[str, bytes]:
        if len(objectives) != 2:
            return {}
        pictured = {word: [each for each in labels if each.split()[0] == word] for word in self.pictured}
        pictured = pictured or {"fronts": list(labels)}
        return {f"{name}.png": _picture(seeds, objectives, mine) for name, mine in pictured.items()}


def indicators_of(fronts: Mapping[str, Front], config: Config, corner_N: Array) -> dict[str, dict[str, Any]]:
    """Of every arm. Epsilon and IGD+ are against the union of the arms' fronts, in units of the objectives' ranges;
    `draws` are the same bootstrap resamples of the prompts for all arms.
    """
    points = {label: front.points for label, front in fronts.items()}
    draws = Resamples(next(iter(fronts.values())).rewards_M_P_N.shape[1], BOOTSTRAP, config.seed)
    sampled = {label: resampled_means(front.rewards_M_P_N, draws) for label, front in fronts.items()}
    weights, scale = np.array(grid(config.weights, config.names)), unit_ranges(np.concatenate(list(points.values())))
    values, drawn = (
        front_indicators(versions, weights, config.maximise, corner_N, scale)
        for versions in ({label: mine[None] for label, mine in points.items()}, sampled)
    )
    dominated = dominated_shares(points, config.maximise)
    return {
        label: {
            "points": mine.tolist(),
            "hypervolume": float(values[label]["hypervolume"][0]),
            "hypervolume_error": standard_error(hypervolumes(mine[None], corner_N, config.maximise)[0]),
            "utility": float(values[label]["utility"][0]),
            "epsilon": float(values[label]["additive_epsilon"][0]),
            "igd_plus": float(values[label]["igd_plus"][0]),
            "dominated": dominated[label],
            "ranges": ranges(mine, weights, config.maximise).tolist(),
            "length": float(fronts[label].lengths_M.mean()),
            "beyond": int(beyond(mine, corner_N, config.maximise).any(axis=1).sum()),
            "interval": [
                [percentile_interval(sampled[label][:, m, i]) for i in range(mine.shape[1])] for m in range(len(mine))
            ],
            "draws": {name: drawn[label][name].tolist() for name in MEASURES},
        }
        for label, mine in points.items()
    }


def within_seed(better_M_P_N: Array, worse_M_P_N: Array, config: Config) -> dict[str, Any]:
    """The difference in utility over one seed's prompts, and the objectives that forbid to say more of it."""
    weights = np.array(grid(config.weights, config.names))
    utilities = [mean_utility(each.swapaxes(0, 1), weights, config.maximise) for each in (better_M_P_N, worse_M_P_N)]
    found = mean_difference(utilities[0] - utilities[1], float(np.abs(utilities).max()))
    moved = moving(better_M_P_N, worse_M_P_N, weights)
    few = undecided(better_M_P_N, worse_M_P_N, weights, found.value)
    return {
        "utility": asdict(found),
        "still": [name for name, moves in zip(config.names, moved, strict=True) if not moves],
        "rare": [name for name, open_ in zip(config.names, few, strict=True) if open_],
    }


def findings_of(claims: Sequence[Claim], seeds: Sequence[dict[str, Any]]) -> list[Finding]:
    """Paired differences by seed, or by prompt for one seed. Utility decides, by t tests with Holm's correction over
    all claims, unless hypervolume says the opposite.
    """
    alone = len(seeds) == 1
    within = seeds[0]["claims"] if alone else [_over_seeds(claim, seeds) for claim in claims]
    utilities = [Difference(**each["utility"]) for each in within]
    adjusted = holm([each.p for each in utilities])
    findings = []
    for claim, utility, p, mine in zip(claims, utilities, adjusted, within, strict=True):
        hypervolume = _hypervolume([(seed["arms"][claim.better], seed["arms"][claim.worse]) for seed in seeds])
        word, because = decide(
            utility,
            p,
            hypervolume[1:],
            mine["still"],
            mine["rare"],
            prompts=seeds[0]["prompts"] if alone else inf,
            family=len(claims),
        )
        found = outcome(word, because)
        if claim.none and because != OPPOSED:
            found = "the reverse holds" if found == "holds" else "is not contradicted"
        measured = f"utility {tested(utility, p, len(claims))}; hypervolume {shown(hypervolume, '+.3f')}"
        findings.append(Finding(claim.words, measured, found, claim.ours, because))
    return findings


def _over_seeds(claim: Claim, seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `within_seed` says, paired by seed."""
    better, worse = (
        {key: np.array([seed["arms"][label][key] for seed in seeds]) for key in ("utility", "points")}
        for label in (claim.better, claim.worse)
    )
    largest = float(np.abs([better["utility"], worse["utility"]]).max())
    weights = np.array([list(each.values()) for each in seeds[0]["weights"]])
    moved = moving(better["points"].swapaxes(0, 1), worse["points"].swapaxes(0, 1), weights)
    names = [each["name"] for each in seeds[0]["objectives"]]
    return {
        "utility": asdict(mean_difference(better["utility"] - worse["utility"], largest)),
        "still": [name for name, moves in zip(names, moved, strict=True) if not moves],
        "rare": [],
    }


def _hypervolume(pairs: Sequence[tuple[dict[str, Any], ...]]) -> Interval:
    """Of one arm's, or of the first's less the second's, by seed; without what the noise over prompts adds."""
    by_seed = []
    for arms in pairs:
        signs = (1.0, -1.0)[: len(arms)]
        value = sum(sign * each["hypervolume"] for sign, each in zip(signs, arms, strict=True))
        drawn = sum(sign * np.array(each["draws"]["hypervolume"]) for sign, each in zip(signs, arms, strict=True))
        by_seed.append(corrected(value, np.asarray(drawn)))
    return by_seed[0] if len(by_seed) == 1 else over_seeds([estimate for estimate, *_ in by_seed])


def _interval(arms: Sequence[dict[str, Any]], measure: str) -> Interval:
    if measure == "hypervolume":
        return _hypervolume([(each,) for each in arms])
    return over_seeds([each[measure] for each in arms], arms[0]["draws"][measure])


def _mean(arms: Sequence[dict[str, Any]], measure: str) -> float:
    return float(np.mean([each[measure] for each in arms]))


def _kept(label: str, arms: Mapping[str, Sequence[dict[str, Any]]], names: Sequence[str]) -> str:
    """Of the objective whose range an arm keeps least of, the share of the start's, by the means over seeds."""
    start = start_of(arms)
    if start is None or not arms[label][0].get("steered", True):
        return "-"
    mine, theirs = (np.mean([seed["ranges"] for seed in arms[each]], axis=0) for each in (label, start))
    shares = {name: a / b for name, a, b in zip(names, mine, theirs, strict=True) if b > 0}
    least = min(shares, key=lambda name: shares[name], default=None)
    return "-" if least is None else f"{shares[least]:.0%} of {least}" + ", shrunk" * bool(shares[least] < NARROW)


def _picture(seeds: Sequence[dict[str, Any]], objectives: list[dict[str, str]], labels: Sequence[str]) -> bytes:
    if len(seeds) > 1:
        fronts = {label: [np.array(seed["arms"][label]["points"]) for seed in seeds] for label in labels}
        return attainment_png(fronts, objectives)
    arms = {label: seeds[0]["arms"][label] for label in labels}
    return front_png(_as_fronts({**seeds[0], "arms": arms}))


def _as_fronts(seed: dict[str, Any]) -> dict[str, Any]:
    """In the form that the report draws."""
    names = [objective["name"] for objective in seed["objectives"]]

    def point(arm: dict[str, Any], m: int) -> dict[str, Any]:
        return {
            "weights": seed["weights"][m] if len(arm["points"]) > 1 else None,
            "rewards": dict(zip(names, arm["points"][m], strict=True)),
            "interval": dict(zip(names, arm["interval"][m], strict=True)),
        }

    methods = {
        label: {"points": [point(arm, m) for m in range(len(arm["points"]))]} for label, arm in seed["arms"].items()
    }
    return {"objectives": seed["objectives"], "methods": methods}
