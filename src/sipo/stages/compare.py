"""Stage compare: the fronts of all methods, and what of their differences is beyond noise. Writes `fronts.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.disk.tables import write_json
from sipo.errors import SipoError
from sipo.pareto.bootstrap import Array
from sipo.pareto.compare import compare as compare_rewards
from sipo.pareto.wins import at_equal_length, of_like_length, win_rate
from sipo.records import Response, comparable, points_of, rewards_of
from sipo.report.fronts import in_short
from sipo.report.verdict import narrowed
from sipo.stages.judge import opponents
from sipo.task import Task

BASE = "base"


def compare(
    task: Task,
    judged: list[Response],
    folder: Path,
    *,
    strengths: Mapping[str, dict[str, Any]] | None = None,
    agreement: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The fronts, as in `fronts.json`. `strengths` are those that were tried, by the stage that took the best;
    `agreement` is that of judges with labels.
    """
    fronts = {**fronts_of(task, judged), "strengths": dict(strengths or {})}
    if agreement is not None:
        fronts["judges"] = judges(task, comparable(judged), agreement)
    write_json(folder / "fronts.json", fronts)
    task.progress.table(
        "fronts on held-out prompts",
        ["method", "weights", *task.objectives, "tokens"],
        [
            [name, _shares(point["weights"]), *point["rewards"].values(), point["length"]]
            for name, front in fronts["methods"].items()
            for point in front["points"]
        ],
    )
    task.progress.table(*in_short(fronts["methods"]))
    if warning := narrowed(fronts):
        task.progress.say(warning)
    return fronts


def fronts_of(task: Task, responses: list[Response]) -> dict[str, Any]:
    """The methods compared (`sipo.pareto.compare`), with the mean length at each point, in tokens. `left_out` counts
    the prompts that are not, for any method, since a judge refused a response to them, and `refused` those responses.
    """
    config, everything = task.config, responses
    responses = comparable(everything)
    if not responses:
        raise SipoError("compare: a judge refused a response to every held-out prompt; ask another judge")
    stored = config.evaluate.reference_point
    if stored is not None and set(stored) != set(task.objectives):
        raise SipoError(f"evaluate.reference_point: give a number for each of {', '.join(task.objectives)}")
    parts = points_of(responses, task.objectives, task.weights)
    rewards = {method: rewards_of(mine, task.objectives) for method, mine in parts.items()}
    lengths = {
        method: [float(np.mean([each.length for each in part])) for part in mine] for method, mine in parts.items()
    }
    unsteered = [method for method, mine in parts.items() if mine[0][0].weights is None]
    compared = compare_rewards(
        rewards,
        np.array(task.weights),
        {objective.name: objective.maximise for objective in config.objectives},
        stored,
        unsteered=unsteered,
        times=config.evaluate.bootstrap,
        seed=config.seed,
    )
    for method, front in compared["methods"].items():
        for point, length in zip(front["points"], lengths[method], strict=True):
            point["length"] = length
    if compared["beyond"]:
        task.progress.say(_warning(compared["beyond"]))
    return {
        "objectives": [{"name": o.name, "direction": o.direction} for o in config.objectives],
        "left_out": len({each.prompt for each in everything}) - len({each.prompt for each in responses}),
        "refused": sum(None in each.rewards.values() for each in everything),
        **compared,
    }


def judges(
    task: Task, responses: Sequence[Response], agreement: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """By objective what is known of its judge, and of one that compares the `wins` over base of every method at every
    weight: `judged`, `corrected` for the judge's errors where there are labels, those of `like` length, and the value
    at `equal` length; `taste` is what length is worth to it.
    """
    found = {name: {key: value for key, value in each.items() if key != "right"} for name, each in agreement.items()}
    groups: dict[tuple[str, str], list[tuple[Response, Response]]] = {}
    for method in dict.fromkeys(each.method for each in responses if each.method != BASE):
        mine = [each for each in responses if each.method == method]
        for each, other in zip(mine, opponents(mine, [y for y in responses if y.method == BASE]), strict=True):
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
    equal, taste = at_equal_length(won, longer, number)
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
                "equal": float(equal[place]),
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
