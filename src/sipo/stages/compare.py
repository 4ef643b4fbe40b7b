"""Stage compare: the fronts of all methods, and what of their differences is beyond noise. Writes `fronts.json`.

Rewards of the answers decide. Where an objective has none, held-out labels do, for all objectives alike: one front has
one measure. What rewards there are then stand beside, point by point, and so do labels where they are asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.disk.tables import write_json
from sipo.errors import SipoError
from sipo.pareto.bootstrap import (
    Array,
    Resamples,
    filled,
    known_prompts,
    percentile_interval,
    resampled_means,
)
from sipo.pareto.compare import compare as compare_rewards
from sipo.pareto.wins import at_equal_length, of_like_length, win_rate
from sipo.records import Measured, Ranking, Response, comparable, points_of, rewards_of
from sipo.report.fronts import in_short
from sipo.report.measure import LABELS, REWARDS, measure_of
from sipo.report.verdict import narrowed
from sipo.stages.judge import opponents
from sipo.task import Task

BASE = "base"


def compare(
    task: Task,
    judged: list[Response],
    folder: Path,
    *,
    ranked: Sequence[Ranking] = (),
    measured: Sequence[str] | None = None,
    strengths: Mapping[str, dict[str, Any]] | None = None,
    agreement: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The fronts, as in `fronts.json`. `measured` names the objectives that have rewards, None is all of them, and
    `ranked` has the methods' rankings. `strengths` are those that were tried, by the stage that took the best;
    `agreement` is that of judges with labels.
    """
    names = list(task.objectives if measured is None else measured)
    if len(names) == len(task.objectives):
        fronts = fronts_of(task, judged)
        beside = _beside(task, LABELS.name, ranked, task.objectives) if ranked else None
    else:
        fronts = fronts_by_labels(task, ranked, judged)
        beside = _beside(task, REWARDS.name, comparable(judged), names) if names else None
    fronts |= {"beside": beside} if beside else {}
    fronts["strengths"] = dict(strengths or {})
    if agreement is not None:
        fronts["judges"] = judges(task, comparable(judged), agreement)
    write_json(folder / "fronts.json", fronts)
    measure = measure_of(fronts)
    task.progress.table(
        "fronts on held-out prompts" if measure is REWARDS else measure.heading,
        ["method", "weights", *task.objectives, "tokens"],
        [
            [name, _shares(point["weights"]), *point["rewards"].values(), point["length"]]
            for name, front in fronts["methods"].items()
            for point in front["points"]
        ],
    )
    task.progress.table(*in_short(fronts["methods"]))
    for line in filter(None, (*measure.caveats(fronts), narrowed(fronts))):
        task.progress.say(line)
    return fronts


def fronts_of(task: Task, responses: list[Response]) -> dict[str, Any]:
    """The methods compared by their rewards (`sipo.pareto.compare`), with the mean length at each point, in tokens.
    `left_out` counts the prompts that are not, for any method, since a judge refused a response to them, and `refused`
    those responses.
    """
    config, everything = task.config, responses
    responses = comparable(everything)
    if not responses:
        raise SipoError("compare: a judge refused a response to every held-out prompt; ask another judge")
    return {
        "objectives": [{"name": o.name, "direction": o.direction} for o in config.objectives],
        "left_out": len({each.prompt for each in everything}) - len({each.prompt for each in responses}),
        "refused": sum(None in each.rewards.values() for each in everything),
        **_fronts(task, responses, {o.name: o.maximise for o in config.objectives}, responses),
    }


def fronts_by_labels(task: Task, rankings: Sequence[Ranking], answers: Sequence[Response]) -> dict[str, Any]:
    """The same by the labels that agree with how the methods' models rank held-out rows; more is better throughout.
    `labels` counts each objective's labelled rows, and the prompts that they are of. `unranked` names the methods that
    answer and are no model, which labels cannot score.
    """
    labelled = {
        name: {(each.row, each.prompt) for each in rankings if each.agreed[name] is not None}
        for name in task.objectives
    }
    lacking = [name for name, rows in labelled.items() if not rows]
    if lacking:
        raise SipoError(
            f"compare: `{lacking[0]}` has no label in any held-out row; raise data.test or evaluate.prompts"
        )
    methods = {each.method for each in rankings}
    return {
        "measure": LABELS.name,
        "objectives": [{"name": name, "direction": "maximize"} for name in task.objectives],
        "labels": {
            name: {"rows": len(rows), "prompts": len({prompt for _, prompt in rows})} for name, rows in labelled.items()
        },
        "unranked": [name for name in dict.fromkeys(each.method for each in answers) if name not in methods],
        **LABELS.within_ends(_fronts(task, rankings, dict.fromkeys(task.objectives, True), answers)),
    }


def _fronts(
    task: Task, measured: Sequence[Measured], maximise: Mapping[str, bool], answers: Sequence[Response]
) -> dict[str, Any]:
    config = task.config
    stored = config.evaluate.reference_point
    if stored is not None and set(stored) != set(task.objectives):
        raise SipoError(f"evaluate.reference_point: give a number for each of {', '.join(task.objectives)}")
    parts = points_of(measured, task.objectives, task.weights)
    compared = compare_rewards(
        {method: rewards_of(mine, task.objectives) for method, mine in parts.items()},
        np.array(task.weights),
        maximise,
        stored,
        unsteered=[method for method, mine in parts.items() if mine[0][0].weights is None],
        times=config.evaluate.bootstrap,
        seed=config.seed,
    )
    for method, mine in points_of(answers, task.objectives, task.weights).items():
        points = compared["methods"][method]["points"] if method in parts else []
        if len(points) == 1:  # of draws, which is what no weight steers
            mine = [[each for part in mine for each in part]]
        for point, part in zip(points, mine, strict=method in parts):
            point["length"] = float(np.mean([each.length for each in part]))
    if compared["beyond"]:
        task.progress.say(_warning(compared["beyond"]))
    return compared


def _beside(task: Task, measure: str, measured: Sequence[Measured], names: Sequence[str]) -> dict[str, Any] | None:
    """Every point by the other measure, with intervals, on as many `prompts` of each objective."""
    if not measured:
        return None
    points = points_of(measured, task.objectives, task.weights)
    values = {method: rewards_of(mine, names) for method, mine in points.items()}
    counts = np.min([known_prompts(each) for each in values.values()], axis=0).tolist()
    if not all(counts):
        return None
    draws = Resamples(next(iter(values.values())).shape[1], task.config.evaluate.bootstrap, task.config.seed)
    methods, clip = {}, (LABELS if measure == LABELS.name else REWARDS).clip
    for method, mine in points.items():
        complete = filled(values[method])
        means_M_N, sampled_T_M_N = complete.mean(axis=1), resampled_means(complete, draws)
        methods[method] = [
            {
                "weights": part[0].weights,
                "rewards": dict(zip(names, means_M_N[at].tolist(), strict=True)),
                "interval": {name: clip(percentile_interval(sampled_T_M_N[:, at, n])) for n, name in enumerate(names)},
            }
            for at, part in enumerate(mine)
        ]
    directions = {o.name: o.direction for o in task.config.objectives} if measure == REWARDS.name else {}
    return {
        "measure": measure,
        "objectives": [{"name": name, "direction": directions.get(name, "maximize")} for name in names],
        "prompts": dict(zip(names, counts, strict=True)),
        "methods": methods,
    }


def judges(
    task: Task, responses: Sequence[Response], agreement: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """By objective what is known of its judge, and of one that compares the `wins` over base of every method at every
    weight: `judged`, `corrected` for the judge's errors where there are labels, those of `like` length, and those at
    `equal` length; `taste` is what length is worth to it.
    """
    found = {name: {key: value for key, value in each.items() if key != "right"} for name, each in agreement.items()}
    groups: dict[tuple[str, str], list[tuple[Response, Response]]] = {}
    answers: dict[str, list[Response]] = {}
    for each in responses:
        answers.setdefault(each.method, []).append(each)
    base = answers.pop(BASE, [])
    for method, mine in answers.items():
        for each, other in zip(mine, opponents(mine, base), strict=True):
            groups.setdefault((method, _shares(each.weights)), []).append((each, other))
    for name, known in agreement.items():
        if known["compares"] and groups:
            found[name] |= _wins(name, groups, np.array(known["right"]))
    return found


def _wins(
    name: str, groups: Mapping[tuple[str, str], Sequence[tuple[Response, Response]]], right_K: Array
) -> dict[str, Any]:
    pairs = [pair for each in groups.values() for pair in each]
    number = [number for number, each in enumerate(groups.values()) for _ in each]
    won = np.array([mine.rewards[name] for mine, _ in pairs], dtype=float)
    longer = np.array([mine.length - other.length for mine, other in pairs], dtype=float)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(mine.prompt for mine, _ in pairs))}
    equal, taste = at_equal_length(won, longer, number, [places[mine.prompt] for mine, _ in pairs])
    wins = []
    for place, ((method, _), each) in enumerate(groups.items()):
        like = of_like_length(np.log([max(1, mine.length) / max(1, other.length) for mine, other in each]))
        alike = [pair for pair, fits in zip(each, like, strict=True) if fits]
        wins.append(
            {
                "method": method,
                "weights": each[0][0].weights,
                "judged": win_rate(_by_prompt(name, each)),
                "corrected": win_rate(_by_prompt(name, each), right_K) if len(right_K) else None,
                "like": win_rate(_by_prompt(name, alike)) if alike else None,
                "pairs": len(alike),
                "equal": equal[place],
            }
        )
    return {"wins": wins, "taste": taste}


def _by_prompt(name: str, pairs: Sequence[tuple[Response, Response]]) -> Array:
    """[P]"""
    of: dict[str, list[float]] = {}
    for mine, _ in pairs:
        of.setdefault(mine.prompt, []).append(float(mine.rewards[name] or 0.0))
    return np.array([np.mean(each) for each in of.values()])


def _warning(beyond: list[dict[str, Any]]) -> str:
    """One line about points that a stored reference point leaves out."""
    places = [(each, _shares(each["weights"]) if each["weights"] else "any weight") for each in beyond[:4]]
    shown = [f"{each['method']} at {place} ({', '.join(each['objectives'])})" for each, place in places]
    more = f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
    return (
        "warning: these points are no better than evaluate.reference_point and add no hypervolume: "
        f"{'; '.join(shown)}{more}. Choose a worse reference point to compare them."
    )


def _shares(weights: dict[str, float] | None) -> str:
    return "-" if weights is None else " ".join(f"{name}={share:g}" for name, share in weights.items())
