"""What was run, on what, and what it cost."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sipo.data import conflict_statistics
from sipo.report.fronts import better
from sipo.report.parts import Cell, Table, share
from sipo.rewards.objective import Objective, file_of
from sipo.settings import Decoding
from sipo.task import Task
from sipo.words import quantity


def facts(task: Task) -> list[tuple[str, str]]:
    """Terms and what they are."""
    config, splits, data = task.config, task.splits, task.config.data
    model, lora = config.model, config.lora
    conflicts = sum(row.conflicting(task.objectives) for row in splits.train)
    return [
        ("model", f"{model.path}{f' at {model.revision}' if model.revision else ''}, dtype {model.dtype}"),
        ("data", f"{data.path.name}: {quantity(len(task.rows), 'row')}"),
        (
            "splits",
            f"{len(splits.train)} train ({conflicts} in conflict), "
            f"{len(splits.validation)} validation, {len(splits.test)} test",
        ),
        *((f"objective {each.name}", f"{each.better} {_measured(each)}") for each in config.objectives),
        ("weights", quantity(len(task.weights), "point")),
        ("policies", "whole models") if config.policies == "full" else ("LoRA", f"r {lora.r}, alpha {lora.alpha:g}"),
        ("decoding", f"{_decoding(config.decoding)}, at most {quantity(data.max_response_tokens, 'token')}"),
        ("seed", str(config.seed)),
    ]


def _measured(objective: Objective) -> str:
    if objective.reward is None:
        return "Without a reward: held-out labels measure it."
    in_file = file_of(objective.reward) if isinstance(objective.reward, str) else None
    reward = f"{in_file[0].name}:{in_file[1]}" if in_file else objective.reward  # where it lies is nobody's business
    return f"Measured by {reward}, {better(objective.direction)}."


def _decoding(settings: Decoding) -> str:
    if settings.temperature == 0:
        return "greedy"
    top_k = f", top-k {settings.top_k}" if settings.top_k else ""
    top_p = f", top-p {settings.top_p:g}" if settings.top_p < 1 else ""
    return f"sampled at temperature {settings.temperature:g}{top_k}{top_p}"


def costs(run: Path, stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """When each stage ended, and where the time went."""
    ends = _ends(run / "metrics.jsonl")
    resumed = [name for name, each in stages.items() if each.get("resumed")]
    rows: list[list[Cell]] = [
        [
            f"{name}, resumed" if name in resumed else name,
            ends.get((name, each["seconds"], each["peak_memory_gib"])),
            f"{each['seconds']:,.1f}",
            each.get("tokens"),
            f"{each['tokens_per_second']:,.0f}" if each.get("tokens") else None,
            f"{each['peak_memory_gib']:.2f}",
        ]
        for name, each in stages.items()
    ]
    seconds, tokens = (sum(each.get(name, 0) for each in stages.values()) for name in ("seconds", "tokens"))
    peak = max(each["peak_memory_gib"] for each in stages.values())
    rows.append(["all", None, f"{seconds:,.1f}", tokens, None, f"{peak:.2f}"])
    caption = (
        "Where the time went. Tokens are those that the model computed, padding and every policy of a mixture "
        "included; reward models' are not among them, though their time is."
    )
    if resumed:
        caption += " A resumed stage has the numbers of the process that finished it, without those of earlier tries."
    return Table(["stage", "ended (UTC)", "seconds", "tokens", "tokens/s", "peak GiB"], rows, caption)


def _ends(metrics: Path) -> dict[tuple[Any, ...], str]:
    """Times by stage and the numbers it ended with, which tell this stage from one that it replaced."""
    ends = {}
    for line in metrics.read_text(encoding="utf-8").split("\n") if metrics.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # a line that a crash tore
            continue
        if "seconds" in record:
            when = datetime.fromtimestamp(record["time"], UTC)
            ends[record["stage"], record["seconds"], record.get("peak_memory_gib")] = f"{when:%Y-%m-%d %H:%M}"
    return ends


def conflicts(task: Task) -> list[Table]:
    """The labels of each objective, and how often two of them disagree."""
    found = conflict_statistics(task.rows, task.objectives)
    words = (("prompts", found.prompt_words), ("responses", found.response_words))
    caption = (
        f"{quantity(found.rows, 'row')} of {quantity(found.prompts, 'different prompt')}; "
        f"in {100 * found.conflict_ratio:.0f} % of the rows objectives disagree."
    )
    labels: list[list[Cell]] = [
        [name, *found.preferred[name], found.ties[name], share(found.ties[name], found.rows)]
        for name in found.objectives
    ]
    pairs: list[list[Cell]] = [
        [a, *(f"{100 * found.pairwise[a][b]:.0f} %" if a != b else None for b in found.objectives)]
        for a in found.objectives
    ]
    return [
        Table(
            ["objective", "prefers response 0", "prefers response 1", "ties", "share of ties"],
            labels,
            caption,
        ),
        Table(
            ["disagrees with", *found.objectives],
            pairs,
            "Rows in conflict, of all rows, by pair of objectives.",
        ),
        Table(
            ["words in", "min", "median", "max"],
            [[n, w.min, f"{w.median:g}", w.max] for n, w in words],
            "Lengths.",
        ),
    ]
