"""How much each stage of the self-improvement let through, and why the rest fell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sipo.data import Row
from sipo.declare.parts import CHOSE_NOTHING
from sipo.filters.registry import find
from sipo.report.inputs import Inputs
from sipo.report.parts import Cell, Table, share
from sipo.report.truth import Truth
from sipo.task import Task
from sipo.words import listed, quantity

REASONS = 10
GATE = "better than both originals for every judge"


def yields(task: Task, inputs: Inputs, rows: list[Row]) -> Table:
    """From the training rows to the pairs trained on; `rows` are those that were worked on."""
    samples, refinements, candidates = inputs.samples, inputs.refinements, inputs.candidates
    chosen = inputs.chosen
    sources = Counter(each.source for each in chosen.values())
    train = task.splits.train
    conflicting = sum(row.conflicting(task.objectives) for row in train)
    trained = min(sum(row.id in chosen for row in train), task.config.realign.rows or len(train))

    def line(stage: str, what: str, part: int, whole: int | None = None, of: str = "") -> list[Cell]:
        return [stage, what, part, None if whole is None else f"{share(part, whole)} of {of}"]

    cut = sum(not each.rewrite_finished for each in refinements)
    better = [(name, sum(each.gains[name] > 0 for each in refinements)) for name in task.objectives]
    refined = [
        line("refine", "rewrites", len(refinements)),
        line("", "cut by the length limit", cut, len(refinements), "rewrites"),
        *(line("", f"implicitly better on {name}", count, len(refinements), "rewrites") for name, count in better),
        line("", "rewrites kept", sum(e.kept == "rewrite" for e in refinements), len(refinements), "rewrites"),
    ]
    beating = sum(not each.reasons for each in candidates)
    margins = inputs.filter.get("margins")
    gate = "no worse for any judge than both originals, beyond the margin" if margins else GATE
    dominating = [line("", gate, beating, len(candidates), "candidates")]
    rule = find(inputs.filter["rule"])
    return Table(
        ["stage", "what", "count", "share"],
        [
            line("data", "training rows", len(train)),
            line("", "of them in conflict", conflicting, len(train), "training rows"),
            line("sample", "rows worked on", len(rows), len(train), "training rows"),
            line("", "prompts sampled", len({each.prompt for each in samples})),
            line("", "samples", len(samples)),
            line("", "cut by the length limit", sum(not e.finished for e in samples), len(samples), "samples"),
            *(refined if refinements else []),
            line("filter", "candidates judged (each against its row)", len(candidates)),
            *(dominating if rule.explains else []),
            line("", "rows with a chosen response", len(chosen), len(rows), "rows worked on"),
            *(line("", f"{name}s chosen", sources[name], len(chosen), "chosen") for name in ("sample", "rewrite")),
            line("realign", "rows learned from, for each objective at most", trained),
        ],
        lead=2,
    )  # fmt: skip


def judges(inputs: Inputs) -> Table | None:
    """Where the filter fitted judges: what they saw, and how often they agreed with labels of other folds."""
    fitted = inputs.filter.get("judge") or {}
    rows: list[list[Cell]] = [
        [name, " + ".join(each["features"]), f"{each['accuracy']:.2f}", f"{each['error']:.2f}", taken]
        for name, tried in fitted.get("tried", {}).items()
        for each in tried
        for taken in ["yes" if each["taken"] else "no"]
    ]
    if not rows:
        return None
    blind = [name for name, tried in fitted["tried"].items() if not any(each["beats_chance"] for each in tried)]
    caption = (
        "What the filter's judges see of a response, and how often they agree with labels of folds that they were not "
        "fitted on; a half is chance. Of those within a standard error of the best, the one of the fewest numbers is "
        "taken."
    )
    if blind:
        caption += f" Nothing tells the labels of {listed(blind)} better than chance: the choice is blind there."
    return Table(["objective", "features", "accuracy", "standard error", "taken"], rows, caption, lead=2)


def trust(inputs: Inputs, truth: Truth) -> str:
    """How far to trust the filter's choice, in words: by true rewards where they are known, else by an estimate."""
    found, known = inputs.filter, truth.shares()
    parts = [f"The responses were chosen by the rule “{found['rule']}”."]
    if known:
        chosen, everything = known
        parts.append(
            f"By the true rewards {chosen.said} of the chosen responses are at least as good as both originals in "
            f"every objective, and better than each in one; of all candidates {everything.said} are."
        )
    if found["accuracy"]:
        right = ", ".join(f"{name} {100 * value:.0f} %" for name, value in found["accuracy"].items())
        parts.append(f"On {found['held_out']} its judges agree with the given labels in: {right}.")
    if found["estimated_precision"] is not None and not known:
        chosen_share, of_all = 100 * found["estimated_precision"], 100 * found["estimated_share_of_all"]
        parts.append(
            f"From that, {chosen_share:.0f} % of the chosen responses are estimated to be better than both originals "
            f"in every objective, and {of_all:.0f} % of all candidates. That is rough: the same judges picked what "
            "they rank first, which lifts it, the labels were given for other responses than these, and where "
            "align.checkpoint is best the validation rows have chosen the epoch, too."
        )
    silent = found.get("no_opinion") or []
    if silent:
        parts.append(
            f"The policy of {' and '.join(silent)} stayed the reference, since no epoch was better on validation: it "
            "has no opinion, and the chosen responses are not known to be better there."
        )
    return " ".join(parts)


def stayed(training: Mapping[str, Sequence[Mapping[str, Any]]], best: bool) -> str:
    """Which trainings of align and of the methods by weight no epoch improved, in words; empty where all did."""
    told = []
    for stage, steps in training.items():
        if stage == "sft" or stage.endswith("realign"):  # they keep their last epoch
            continue
        for name in dict.fromkeys(each["objective"] for each in steps):
            mine = [each for each in steps if each["objective"] == name]
            start = mine[0].get("start_validation_loss")
            losses = [each["validation_loss"] for each in mine if "validation_loss" in each]
            if start is not None and losses and min(losses) >= start:
                told.append(f"{name} ({stage}): {min(losses):.4f} at best, {start:.4f} before")
    if not told:
        return ""
    what = "The start was kept: there the model is the reference" if best else "The last epoch was kept all the same"
    return f"No epoch was better on validation than the start of {'; '.join(told)}. {what}."


def chose_nothing(inputs: Inputs, ways_out: str) -> str:
    """What follows where the filter let nothing through, in words; empty where it let something through."""
    if not inputs.filter or inputs.chosen:
        return ""
    commonest = Counter(each.fate for each in inputs.candidates).most_common(1)
    most = (
        f" Most of the {quantity(len(inputs.candidates), 'candidate')} fell so: {commonest[0][0]}." if commonest else ""
    )
    return f"{CHOSE_NOTHING}{most} To change that, {ways_out}."


def why_fallen(inputs: Inputs) -> Table:
    """The commonest reasons; a candidate that fell for several counts in each."""
    chosen = inputs.chosen
    fallen = [each for each in inputs.candidates if each is not chosen.get(each.row)]
    counts = Counter(reason for each in fallen for reason in each.reasons or [each.fate])
    rows: list[list[Cell]] = [
        [reason, count, share(count, len(inputs.candidates))] for reason, count in counts.most_common(REASONS)
    ]
    caption = "Why candidates fell; one with several reasons counts in each."
    return Table(["reason", "candidates", "share"], rows, caption)
