"""Studies that compare fronts: arms over seeds, indicators with intervals, and the paper's comparisons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sipo.config import Config
from sipo.configfile import parse_config
from sipo.pareto.bootstrap import Array, percentile_interval, resampled_means, resamples
from sipo.pareto.compare import DIFFERENCES, dominated_shares, front_indicators, unit_ranges
from sipo.pareto.indicators import beyond, objective_ranges
from sipo.progress import Progress
from sipo.report.plots import attainment_png, front_png
from sipo.studies.arms import Arm, Front, run_arms
from sipo.studies.ground import Ground, Settings, reference_point
from sipo.studies.intervals import BOOTSTRAP, Interval, outcome, over_seeds, shown
from sipo.studies.study import Conclusion, Finding, Outcome, Table
from sipo.weights import grid


@dataclass(frozen=True)
class Claim:
    """The paper has `better` above `worse`; or, where `none`, not above it."""

    better: str
    worse: str
    statement: str = ""
    measures: tuple[str, ...] = DIFFERENCES
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

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        """Points, lengths and indicators of every arm, with bootstrap draws over prompts for a seed alone."""
        settings = ground.settings(seed, progress)
        fronts = run_arms(self.arms(settings), settings, ground.folder / "fronts", progress)
        config = parse_config(settings, self.name)
        reference = reference_point(config, np.concatenate([each.points for each in fronts.values()]), folder)
        return {
            "objectives": [{"name": each.name, "direction": each.direction} for each in config.objectives],
            "reference_point": reference,
            "weights": [dict(zip(config.names, weight, strict=True)) for weight in grid(config)],
            "arms": indicators_of(fronts, config, np.array([reference[name] for name in config.names])),
        }

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        objectives = seeds[0]["objectives"]
        labels = list(seeds[0]["arms"])
        names = [objective["name"] for objective in objectives]
        arms = {label: [seed["arms"][label] for seed in seeds] for label in labels}
        measured = [
            [label, *(shown(_interval(mine, measure)) for measure in DIFFERENCES), _mean(mine, "length")]
            for label, mine in arms.items()
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
        means, ranges = [f"mean {name}" for name in names], [f"range of {name}" for name in names]
        unit = f"{len(seeds)} seeds, 95 % t intervals" if len(seeds) > 1 else "one seed, 95 % intervals over prompts"
        outside = sum(each["beyond"] for seed in seeds for each in seed["arms"].values())
        corner = ", ".join(f"{name} {value:.3g}" for name, value in seeds[0]["reference_point"].items())
        note = f"; {outside} points lie beyond the reference and add nothing to it" if outside else ""
        title = f"Fronts, hypervolume above {corner} ({unit}{note})"
        findings = [finding(claim, seeds) for claim in self.claims]
        tables = [
            Table(title, ["arm", *DIFFERENCES, "tokens"], measured),
            Table("Their shapes", ["arm", *means, *ranges, "epsilon", "IGD+", "dominated"], shapes),
        ]
        return Conclusion(tables, findings, self._pictures(seeds, objectives, labels))

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
    draws = resamples(next(iter(fronts.values())).rewards_M_P_N.shape[1], BOOTSTRAP, config.seed)
    sampled = {label: resampled_means(front.rewards_M_P_N, draws) for label, front in fronts.items()}
    weights, scale = np.array(grid(config)), unit_ranges(np.concatenate(list(points.values())))
    values, drawn = (
        front_indicators(versions, weights, config.maximise, corner_N, scale)
        for versions in ({label: mine[None] for label, mine in points.items()}, sampled)
    )
    dominated = dominated_shares(points, config.maximise)
    return {
        label: {
            "points": mine.tolist(),
            "hypervolume": float(values[label]["hypervolume"][0]),
            "utility": float(values[label]["utility"][0]),
            "epsilon": float(values[label]["additive_epsilon"][0]),
            "igd_plus": float(values[label]["igd_plus"][0]),
            "dominated": dominated[label],
            "ranges": objective_ranges(mine).tolist(),
            "length": float(fronts[label].lengths_M.mean()),
            "beyond": int(beyond(mine, corner_N, config.maximise).any(axis=1).sum()),
            "interval": [
                [percentile_interval(sampled[label][:, m, i]) for i in range(mine.shape[1])] for m in range(len(mine))
            ],
            "draws": {name: drawn[label][name].tolist() for name in DIFFERENCES},
        }
        for label, mine in points.items()
    }


def finding(claim: Claim, seeds: Sequence[dict[str, Any]]) -> Finding:
    """Paired differences by seed, or of bootstrap draws for one seed; the first measure decides, unless another says
    the opposite.
    """
    differences = {name: _difference(claim, seeds, name) for name in claim.measures}
    outcomes = [_outcome(each, claim.none) for each in differences.values()]
    opposed = {"holds", "the reverse holds"} <= set(outcomes)
    measured = "; ".join(f"{name} {shown(each, '+.3f')}" for name, each in differences.items())
    return Finding(claim.words, measured, "depends on the measure" if opposed else outcomes[0], claim.ours)


def _outcome(difference: Interval, none: bool) -> Outcome:
    found = outcome(difference)
    if not none:
        return found
    return "the reverse holds" if found == "holds" else "is not contradicted"


def _difference(claim: Claim, seeds: Sequence[dict[str, Any]], measure: str) -> Interval:
    """Paired by seed, or by resample of one seed's prompts."""
    pairs = [(seed["arms"][claim.better], seed["arms"][claim.worse]) for seed in seeds]
    better, worse = (np.array(each["draws"][measure]) for each in pairs[0])
    return over_seeds([a[measure] - b[measure] for a, b in pairs], better - worse)


def _interval(arms: Sequence[dict[str, Any]], measure: str) -> Interval:
    return over_seeds([each[measure] for each in arms], arms[0]["draws"][measure])


def _mean(arms: Sequence[dict[str, Any]], measure: str) -> float:
    return float(np.mean([each[measure] for each in arms]))


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
