"""Stage evaluate: every method at every weight on held-out prompts, judged by the true rewards.

All methods decode alike, and with the same noise for the same prompt at the same weight, so that differences are the
methods'. One that no weight steers is drawn from once for each weight too: chance alone spreads several points, and
would lift their front above a single one. Greedy decoding leaves nothing to draw, and such a method one point.
Writes `responses.jsonl` and `fronts.json`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from sipo.data import Row
from sipo.decoding import Generated, Request, answer, seed_of
from sipo.disk.tables import write_json, write_records
from sipo.engines import opened
from sipo.errors import SipoError
from sipo.methods.interface import Method
from sipo.pareto.bootstrap import Array
from sipo.pareto.compare import compare
from sipo.records import Response, comparable, known
from sipo.report.fronts import in_short
from sipo.rewards import Item, score_responses
from sipo.stages.sample import named, one_row_a_prompt
from sipo.task import Task


def evaluate(task: Task, methods: list[Method], folder: Path) -> dict[str, Any]:
    """The fronts, as in `fronts.json`."""
    responses = _judged(task, _answers(task, methods, folder))
    write_records(folder / "responses.jsonl", responses)
    fronts = fronts_of(task, responses)
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
    return fronts


def test_rows(task: Task) -> list[Row]:
    """One row for each held-out prompt, a seeded choice of them where `evaluate.prompts` limits it."""
    rows = one_row_a_prompt(task.splits.test)
    rows.sort(key=lambda row: seed_of(task.config.seed, "test", row.key))
    return rows[: task.config.evaluate.prompts]


def _answers(task: Task, methods: list[Method], folder: Path) -> list[Response]:
    """All answers, method by method. Models over the same adapters share batches, and what they have in common."""
    config = task.config
    models = [
        (method, weight, method.at(weight))
        for method in methods
        for weight in (task.weights if method.steerable or config.decoding.temperature > 0 else task.weights[:1])
    ]
    plan = [
        (method, weight, aligned, row, index)
        for method, weight, aligned in models
        for row in test_rows(task)
        for index in range(config.evaluate.per_prompt)
    ]
    requests = [
        Request(task.prompt_tokens(row), aligned.mixture, seed_of(config.seed, "evaluate", row.key, weight, index))
        for _, weight, aligned, row, index in plan
    ]
    answers: dict[int, Generated] = {}
    with opened(config.execution) as engine:
        for number, adapters in enumerate(dict.fromkeys(aligned.adapters for _, _, aligned in models)):
            mine = [at for at, (_, _, aligned, *_) in enumerate(plan) if aligned.adapters == adapters]
            names = dict.fromkeys(method.name for method, _, aligned in models if aligned.adapters == adapters)
            with task.bank.mounted(adapters):
                generated = answer(
                    task.bank,
                    [requests[at] for at in mine],
                    config.decoding,
                    config.data.max_response_tokens,
                    task.codec.stops,
                    rows=config.execution.decode_rows,
                    folder=folder,
                    label=f"{number} {' '.join(names).replace(':', '-')}",
                    progress=task.progress,
                    engine=engine,
                )
            answers.update(zip(mine, generated, strict=True))
    return [
        Response(
            method.name, named(task, weight) if method.steerable else None, row.key, row.text, index,
            task.codec.decode(answers[at].tokens), len(answers[at].tokens), answers[at].finished, {},
            0 if method.steerable else task.weights.index(weight),
        )
        for at, (method, weight, _, row, index) in enumerate(plan)
    ]  # fmt: skip


def _judged(task: Task, responses: list[Response]) -> list[Response]:
    config = task.config
    for objective in config.objectives:
        if objective.reward is None:
            raise SipoError(f"objectives: `{objective.name}` has no reward, which evaluate needs; name module:function")
    prompts = {row.key: row.prompt for row in test_rows(task)}
    items = [Item(prompts[each.prompt], each.response) for each in responses]
    columns = score_responses(config.objectives, items, config.execution, task.progress, moment=task.moment)
    return [
        Response(**{**vars(each), "rewards": {name: known(column[i]) for name, column in columns.items()}})
        for i, each in enumerate(responses)
    ]


def fronts_of(task: Task, responses: list[Response]) -> dict[str, Any]:
    """The methods compared (`sipo.pareto.compare`), with the mean length at each point, in tokens. `left_out` counts
    the prompts that are not, for any method, since a judge refused a response to them, and `refused` those responses.
    """
    config, everything = task.config, responses
    responses = comparable(everything)
    if not responses:
        raise SipoError("evaluate: a judge refused a response to every held-out prompt; ask another judge")
    stored = config.evaluate.reference_point
    if stored is not None and set(stored) != set(task.objectives):
        raise SipoError(f"evaluate.reference_point: give a number for each of {', '.join(task.objectives)}")
    rewards: dict[str, Array] = {}
    lengths: dict[str, list[float]] = {}
    unsteered: list[str] = []
    for method in dict.fromkeys(each.method for each in responses):
        mine = [each for each in responses if each.method == method]
        if mine[0].weights is None:
            unsteered.append(method)
            parts = [[each for each in mine if each.draw == draw] for draw in sorted({each.draw for each in mine})]
        else:
            parts = [[each for each in mine if each.weights == named(task, weight)] for weight in task.weights]
        rewards[method] = np.stack([_by_prompt(part, task.objectives) for part in parts])
        lengths[method] = [float(np.mean([each.length for each in part])) for part in parts]
    compared = compare(
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


def _by_prompt(responses: list[Response], objectives: tuple[str, ...]) -> Array:
    """[prompts, N] mean rewards, in the prompts' sorted order, which all methods share."""
    by_prompt: dict[str, list[list[float | None]]] = {}
    for each in responses:
        by_prompt.setdefault(each.prompt, []).append([each.rewards[name] for name in objectives])
    return np.stack([np.mean(np.array(by_prompt[key], dtype=float), axis=0) for key in sorted(by_prompt)])


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
