"""How much each stage of the self-improvement let through, and why the rest fell."""

from collections import Counter

from sipo.data import Row
from sipo.report.inputs import Inputs
from sipo.report.parts import Cell, Table, share
from sipo.task import Task

REASONS = 10


def yields(task: Task, inputs: Inputs, rows: list[Row]) -> Table:
    """From the training rows to the pairs trained on; `rows` are those that were worked on."""
    samples, refinements, candidates = inputs.samples, inputs.refinements, inputs.candidates
    chosen = inputs.chosen
    dominating = [each for each in candidates if not each.reasons]
    sources = Counter(each.source for each in chosen.values())
    train = task.splits.train
    conflicting = sum(row.conflicting(task.objectives) for row in train)
    trained = sum(row.id in chosen for row in train)

    def line(stage: str, what: str, part: int, whole: int | None = None, of: str = "") -> list[Cell]:
        return [stage, what, part, None if whole is None else f"{share(part, whole)} of {of}"]

    cut = sum(not each.rewrite_finished for each in refinements)
    better = [(name, sum(each.gains[name] > 0 for each in refinements)) for name in task.objectives]
    return Table(
        ["stage", "what", "count", "share"],
        [
            line("data", "training rows", len(train)),
            line("", "of them in conflict", conflicting, len(train), "training rows"),
            line("sample", "rows worked on", len(rows), conflicting, "rows in conflict"),
            line("", "prompts sampled", len({each.prompt for each in samples})),
            line("", "samples", len(samples)),
            line("", "cut by the length limit", sum(not e.finished for e in samples), len(samples), "samples"),
            line("refine", "rewrites", len(refinements)),
            line("", "cut by the length limit", cut, len(refinements), "rewrites"),
            *(line("", f"implicitly better on {name}", count, len(refinements), "rewrites") for name, count in better),
            line("", "rewrites kept", sum(e.kept == "rewrite" for e in refinements), len(refinements), "rewrites"),
            line("filter", "candidates judged (each against its row)", len(candidates)),
            line("", "better than both originals for every judge", len(dominating), len(candidates), "candidates"),
            line("", "rows with a Pareto-optimal response", len(chosen), len(rows), "rows worked on"),
            *(line("", f"{name}s chosen", sources[name], len(chosen), "chosen") for name in ("sample", "rewrite")),
            line("realign", "pairs trained on, for each objective", 2 * trained),
        ],
        lead=2,
    )  # fmt: skip


def why_fallen(inputs: Inputs) -> Table:
    """The commonest reasons; a candidate that fell for several counts in each."""
    chosen = inputs.chosen
    fallen = [each for each in inputs.candidates if each is not chosen.get(each.row)]
    counts = Counter(reason for each in fallen for reason in each.reasons or [each.fate])
    rows: list[list[Cell]] = [
        [reason, count, share(count, len(inputs.candidates))] for reason, count in counts.most_common(REASONS)
    ]
    return Table(["reason", "candidates", "share"], rows)
