"""Is the filter right? The precision of every rule by the true rewards, and the fronts it leads to at equal steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sipo.config.file import parse_config
from sipo.declare.parts import CANDIDATES, CHOICE
from sipo.disk.tables import read_checked, write_checked
from sipo.filters.contest import CHOSEN
from sipo.finished.built import task_of
from sipo.pareto.bootstrap import Array
from sipo.pareto.dominance import truly_better
from sipo.progress import Progress
from sipo.records import Candidate
from sipo.rewards import Item, signed_rewards
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.studies.arms import Arm, digest, turned
from sipo.studies.catalogue import always
from sipo.studies.fronts import Claim, FrontStudy
from sipo.studies.ground import Ground, Settings
from sipo.studies.intervals import over_seeds, shown
from sipo.studies.study import Conclusion, Table
from sipo.studies.variants import choices
from sipo.task import Task

FEATURES = ("logratios", "logratios-per-token", "length", "reference-per-token")


def _calibrated(pool: str, features: Sequence[str] | Literal["auto"] = FEATURES) -> dict[str, Any]:
    asked = features if features == "auto" else list(features)
    return {"filter.rule": "calibrated", "filter.pool": pool, "filter.features": asked}


RULES: dict[str, dict[str, Any]] = {
    "paper": {"filter.rule": "paper"},
    "paper, rewrites": {"filter.rule": "paper", "filter.pool": "rewrites"},
    "paper, with a margin": {"filter.rule": "paper", "filter.margin": 1.64},
    "paper, rewrites, with a margin": {"filter.rule": "paper", "filter.pool": "rewrites", "filter.margin": 1.64},
    "paper, without reference": {"filter.rule": "paper", "filter.reference": False},
    "paper, per token": {"filter.rule": "paper", "filter.per_token": True},
    "calibrated": _calibrated("all"),
    "calibrated, rewrites": _calibrated("rewrites"),
    **{
        f"calibrated, rewrites, without {name}": _calibrated("rewrites", [each for each in FEATURES if each != name])
        for name in FEATURES
    },
    "calibrated, rewrites, log-ratios alone": _calibrated("rewrites", FEATURES[:1]),
    **{
        f"calibrated, rewrites, {name}": _calibrated("rewrites", features)
        for name, features in {"surface alone": ["surface"], "with embedding": [*FEATURES, "embedding"]}.items()
    },
    "calibrated, rewrites, auto": {
        **_calibrated("rewrites", "auto"),
        "filter.tries": [*FEATURES, "surface", "embedding"],
    },
    "random": {"filter.rule": "random", "filter.pool": "all"},
    "random, rewrites": {"filter.rule": "random", "filter.pool": "rewrites"},
    "longest, rewrites": {"filter.rule": "longest", "filter.pool": "rewrites"},
    "shortest, rewrites": {"filter.rule": "shortest", "filter.pool": "rewrites"},
    "oracle": {"filter.rule": "rewards"},
}
VARIED = "calibrated, rewrites"
"""The rule whose judges are also tried as an ensemble and with a reward head."""
REALIGNED = (
    *("paper", "calibrated", "calibrated, rewrites", "random", "random, rewrites"),
    *("longest, rewrites", "shortest, rewrites", "oracle"),
)


@dataclass(frozen=True)
class FilterStudy:
    name: str = "filters"
    question: str = (
        "Which share of the chosen responses truly is at least as good as both originals in every objective, and "
        "better than each in one; and what do fronts look like when every rule gets equally many rows?"
    )
    only: tuple[str, ...] = ()

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        settings = ground.settings(seed, progress)
        precision = {}
        for label, changes in RULES.items():
            progress.say(f"seed {seed}: {label}")
            path = folder / "precision" / f"{digest(settings, Arm(label, 'sipo', changes))}.json"
            if not path.exists():
                write_checked(path, _precision(turned(settings, changes), varied=label == VARIED))
            precision[label] = read_checked(path)
        # At equal steps; a rule that chose nothing leaves the policies as they were.
        rows = min([precision[label]["chosen"] for label in REALIGNED if precision[label]["chosen"]], default=1)
        fronts = _fronts(rows).measure(ground, seed, folder, progress)
        return {"precision": precision, "rows": rows, "fronts": fronts}

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        rows = []
        for label in RULES:
            mine = [seed["precision"][label] for seed in seeds]
            chosen = float(np.mean([each["chosen"] for each in mine]))
            rows.append(
                [label, chosen, *(_shown([each[name] for each in mine]) for name in ("precision", "estimated"))]
            )
        for variant in seeds[0]["precision"][VARIED]["variants"]:
            mine = [seed["precision"][VARIED]["variants"][variant] for seed in seeds]
            chosen = float(np.mean([each["chosen"] for each in mine]))
            rows.append([f"{VARIED}, with {variant}", chosen, _shown([each["precision"] for each in mine]), "-"])
        shares = {name: [seed["precision"]["paper"][name] for seed in seeds] for name in ("all", "samples", "rewrites")}
        rows += [[f"({name})", "-", _shown(values), "-"] for name, values in shares.items()]
        title = "Precision by the true rewards, and as estimated without them; in brackets all candidates of a kind"
        table = Table(title, ["rule", "rows chosen", "precision", "estimated"], rows)
        fronts = _fronts(0).conclude(ground, [seed["fronts"] for seed in seeds])
        return Conclusion([table, *fronts.tables], fronts.findings, fronts.pictures)


def _fronts(rows: int) -> FrontStudy:
    """The same realignment for every rule, on `rows` rows."""
    arms = [Arm(label, "sipo", {**RULES[label], "realign.rows": rows}) for label in REALIGNED]
    claims = [
        Claim("paper", "random", "the paper's filter is better than none"),
        Claim("calibrated", "paper", "a calibrated filter is better than the paper's", ours=True),
        Claim("calibrated, rewrites", "paper", "the same among rewrites", ours=True),
        Claim("calibrated, rewrites", "random, rewrites", "and better than a random rewrite", ours=True),
        Claim("calibrated, rewrites", "longest, rewrites", "and than the longest rewrite", ours=True),
        Claim("oracle", "calibrated, rewrites", "there is room above the calibrated filter", ours=True),
    ]
    return FrontStudy("filters", "", always(Arm("mod", "mod"), *arms), claims)


def _precision(settings: Settings, varied: bool) -> dict[str, Any]:
    """Of one rule: rows chosen, precision, its estimate, and the shares of truly better candidates."""
    config = parse_config({**settings, "methods": ["sipo"]}, "filters")
    folder = run(config, until="filter", quiet=True)
    task = task_of(folder, config)
    candidates = Outputs(folder, config).read("filter", CANDIDATES)
    better = _truly_better(task, [(each.row, each.response) for each in candidates])
    return {
        **_of_chosen(better.get((each.row, each.response)) for each in candidates if each.fate == CHOSEN),
        "estimated": Outputs(folder, config).read("filter", CHOICE)["estimated_precision"],
        "all": float(np.mean(list(better.values()))) if better else None,
        **{f"{kind}s": _share(candidates, better, kind) for kind in ("sample", "rewrite")},
        "variants": {
            label: _of_chosen(_truly_better(task, list(chosen.items())).values())
            for label, chosen in (choices(folder, task) if varied else {}).items()
        },
    }


Better = dict[tuple[str, str], bool]
"""By row id and response."""


def _of_chosen(better: Iterable[bool | None]) -> dict[str, Any]:
    chosen = list(better)
    known = [each for each in chosen if each is not None]
    return {"chosen": len(chosen), "precision": float(np.mean(known)) if known else None}


def _share(candidates: Sequence[Candidate], better: Better, source: str) -> float | None:
    mine = ((each.row, each.response) for each in candidates if each.source == source)
    values = [better[each] for each in mine if each in better]
    return float(np.mean(values)) if values else None


def _truly_better(task: Task, responses: Sequence[tuple[str, str]]) -> Better:
    """By the true rewards, against both originals of the row; without what a judge refused to compare."""
    config, rows = task.config, {row.id: row for row in task.splits.train}
    given = {row: task.texts(rows[row]) for row, _ in responses}
    texts = dict.fromkeys((row, text) for row, mine in responses for text in (*given[row], mine))
    items = [Item(rows[row].prompt, text) for row, text in texts]
    signed = signed_rewards(config.objectives, items, config.execution, moment=task.moment)
    rewards: dict[tuple[str, str], Array] = dict(zip(texts, signed, strict=True))
    originals = {row: np.stack([rewards[row, y] for y in given[row]]) for row in given}
    return {
        (row, mine): bool(truly_better(rewards[row, mine][None], originals[row])[0])
        for row, mine in responses
        if np.isfinite(rewards[row, mine]).all() and np.isfinite(originals[row]).all()
    }


def _shown(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) > 1:
        return shown(over_seeds(known))
    return f"{known[0]:.3f}" if known else "-"
