"""Stage 6, evaluate: every method at every weight on held-out prompts, judged by the true rewards.

All methods decode alike, and with the same noise for the same prompt, so that differences are the methods'.
Writes `responses.jsonl` and `fronts.json`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from sipo.data import Row
from sipo.decoding import Generated, Request, answer, seed_of
from sipo.disk.tables import write_json, write_records
from sipo.errors import SipoError
from sipo.methods import Method
from sipo.pareto.fronts import hypervolume, percentile_interval, reference_below, resamples
from sipo.records import Response
from sipo.rewards import load_reward, score
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
    rows = [[name, f["hypervolume"], *f["hypervolume_interval"]] for name, f in fronts["methods"].items()]
    task.progress.table("hypervolume (larger is better)", ["method", "value", "95 % low", "high"], rows)
    return fronts


def test_rows(task: Task) -> list[Row]:
    """One row for each held-out prompt, a seeded choice of them where `evaluate.prompts` limits it."""
    rows = one_row_a_prompt(task.splits.test)
    rows.sort(key=lambda row: seed_of(task.config.seed, "test", row.key))
    return rows[: task.config.evaluate.prompts]


def _answers(task: Task, methods: list[Method], folder: Path) -> list[Response]:
    """All answers, method by method. Methods over the same adapters share batches, and what they have in common."""
    config = task.config
    plan = [
        (method, weight, row, index)
        for method in methods
        for weight in (task.weights if method.steerable else task.weights[:1])
        for row in test_rows(task)
        for index in range(config.evaluate.per_prompt)
    ]
    requests = [
        Request(task.prompt_tokens(row), method.mixture(weight), seed_of(config.seed, "evaluate", row.key, index))
        for method, weight, row, index in plan
    ]
    answers: dict[int, Generated] = {}
    for adapters in dict.fromkeys(method.adapters for method in methods):
        mine = [at for at, (method, *_) in enumerate(plan) if method.adapters == adapters]
        with task.bank.mounted(adapters):
            generated = answer(
                task.bank,
                [requests[at] for at in mine],
                config.decoding,
                config.data.max_response_tokens,
                task.codec.end,
                rows=config.execution.decode_rows,
                folder=folder,
                label=" ".join(method.name for method in methods if method.adapters == adapters),
                progress=task.progress,
            )
        answers.update(zip(mine, generated, strict=True))
    return [
        Response(
            method.name, named(task, weight) if method.steerable else None, row.key, row.text, index,
            task.codec.decode(answers[at].tokens), len(answers[at].tokens), answers[at].finished, {},
        )
        for at, (method, weight, row, index) in enumerate(plan)
    ]  # fmt: skip


def _judged(task: Task, responses: list[Response]) -> list[Response]:
    prompts, texts = [each.text for each in responses], [each.response for each in responses]
    columns = {}
    for objective in task.config.objectives:
        if objective.reward is None:
            raise SipoError(f"objectives: `{objective.name}` has no reward, which evaluate needs; name module:function")
        columns[objective.name] = score(load_reward(objective.reward), objective.reward, prompts, texts)
    return [
        Response(**{**vars(each), "rewards": {name: column[i] for name, column in columns.items()}})
        for i, each in enumerate(responses)
    ]


def fronts_of(task: Task, responses: list[Response]) -> dict[str, Any]:
    """Mean rewards, hypervolumes and bootstrap intervals over prompts; resamples are shared by all methods."""
    config = task.config
    maximise = [objective.direction == "maximize" for objective in config.objectives]
    places: dict[tuple[str, str], list[Response]] = {}
    for each in responses:
        places.setdefault((each.method, _shares(each.weights)), []).append(each)
    per_prompt = {place: _by_prompt(part, task.objectives) for place, part in places.items()}
    means = {place: rewards.mean(axis=0) for place, rewards in per_prompt.items()}
    every = np.stack(list(means.values()))
    stored = config.evaluate.reference_point
    if stored is not None and set(stored) != set(task.objectives):
        raise SipoError(f"evaluate.reference_point: give a number for each of {', '.join(task.objectives)}")
    reference = reference_below(every, maximise) if stored is None else np.array([stored[n] for n in task.objectives])

    draws = resamples(len(next(iter(per_prompt.values()))), config.evaluate.bootstrap, config.seed)
    # [place][times, N]: the mean reward vector of each resample
    drawn = {place: rewards[draws].mean(axis=1) for place, rewards in per_prompt.items()}
    methods: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    for name in dict.fromkeys(method for method, _ in places):
        mine = [place for place in places if place[0] == name]
        points = [
            {
                "weights": places[place][0].weights,
                "rewards": dict(zip(task.objectives, means[place].tolist(), strict=True)),
                "interval": {
                    objective: percentile_interval(drawn[place][:, i]) for i, objective in enumerate(task.objectives)
                },
                "length": float(np.mean([each.length for each in places[place]])),
            }
            for place in mine
        ]
        fronts = np.stack([drawn[place] for place in mine], axis=1)
        volumes[name] = np.array([hypervolume(front, reference, maximise) for front in fronts])
        methods[name] = {
            "points": points,
            "hypervolume": hypervolume(np.stack([means[place] for place in mine]), reference, maximise),
            "hypervolume_interval": percentile_interval(volumes[name]),
        }
    best = "sipo" if "sipo" in methods else None
    return {
        "objectives": [{"name": o.name, "direction": o.direction} for o in config.objectives],
        "reference_point": dict(zip(task.objectives, reference.tolist(), strict=True)),
        "prompts": len(draws[0]),
        "methods": methods,
        "differences": {
            f"{best} - {other}": {
                "hypervolume": methods[best]["hypervolume"] - methods[other]["hypervolume"],
                "hypervolume_interval": percentile_interval(volumes[best] - volumes[other]),
            }
            for other in methods
            if best and other != best
        },
    }


def _by_prompt(responses: list[Response], objectives: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
    """[prompts, N] mean rewards, in the prompts' sorted order, which all methods share."""
    by_prompt: dict[str, list[list[float]]] = {}
    for each in responses:
        by_prompt.setdefault(each.prompt, []).append([each.rewards[name] for name in objectives])
    return np.stack([np.mean(by_prompt[key], axis=0) for key in sorted(by_prompt)])


def _shares(weights: dict[str, float] | None) -> str:
    return "-" if weights is None else " ".join(f"{name}={share:g}" for name, share in weights.items())
