"""Looking before leaping: validate a run, show what it would read and learn from, and estimate its work."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sipo.bank.kinds import adapted_layers
from sipo.config import Config
from sipo.data import Row
from sipo.data.consistency import doubts, written_mark
from sipo.declare.work import Sizes
from sipo.disk.copies import refreshed
from sipo.disk.run import RunFolder
from sipo.errors import SipoError
from sipo.estimate.absent import Absent, find_absent
from sipo.estimate.pace import Pace, measured
from sipo.estimate.sizes import counted, planned, stated
from sipo.estimate.table import say_plan
from sipo.filters.chance import rows_kept
from sipo.filters.registry import find as find_rule
from sipo.graph.build import Graph
from sipo.graph.key import subject_of
from sipo.logprobs.packing import pack
from sipo.methods.registry import find, improves
from sipo.models.chat import Codec
from sipo.models.load import UNLIMITED
from sipo.progress import Progress
from sipo.prompts.template import load_template
from sipo.remarks import about_config, about_lengths, about_rewards, about_rows
from sipo.report.measure import CAVEAT
from sipo.runs.validate import validate
from sipo.settings import Weights
from sipo.stages.refine import encode
from sipo.task import Site, Task
from sipo.weights import between, grid, lattice_size
from sipo.words import listed, quantity


@dataclass(frozen=True)
class Checked:
    absent: Absent
    """What was taken on trust."""
    remarks: tuple[str, ...]
    """Lines on what does not stop the run and is worth a look."""
    rows: dict[str, int]
    """Of each split; empty where they are absent."""
    plan: list[dict[str, Any]]
    """Work and memory of each stage, at most; empty where the number of rows is not known."""
    kept: tuple[int, int] | None
    """How many rows the filter may be expected to keep a response for, from and to; None where nothing tells."""

    def as_json(self) -> dict[str, Any]:
        return {"well": not (self.absent or self.remarks), **asdict(self)}


TRAINED, CONTEXT = "green", "dim"
FEW_KEPT = 20
"""Rows to learn from."""


def check(
    config: Config,
    progress: Progress | None = None,
    *,
    gpu: float | None = None,
    tokens_per_second: float | Mapping[str, float] | None = None,
    measure: bool = False,
) -> Checked:
    """Print what a run of this configuration would do; trains nothing, writes nothing but rows of a `data.source` on
    this machine, downloads no rows and no known model.

    `gpu` (GiB) says which stages fit a device, `tokens_per_second` how long they take: of what goes through the
    backbone, one number, or one for each of reading, decoding, scoring and training. `measure` says how long on this
    machine. Raises SipoError, one line, for whatever would stop the run; returns what could not be looked at, and what
    is worth a look.
    """
    if gpu is not None and not 0 < gpu < math.inf:
        raise SipoError(f"--gpu {gpu:g}: give a number above 0")
    pace = None if tokens_per_second is None else Pace.of(tokens_per_second)
    progress = progress or Progress()
    task, absent = Task(config, progress, Site(config, progress, tokens=False)), find_absent(config)
    if not absent.rows:
        RunFolder(refreshed(config.run_dir)).check(subject_of(task))
    validate(task, absent=absent)
    _say_subject(task, absent)
    if not absent.rows:
        _say_rows(task)
    if not (absent.rows or absent.model):
        _say_lengths(task)
        _show_example(task)
    plan, kept = [], None
    if not absent.rows or stated(config):
        if measure:
            if absent.model or absent.rows or config.policies == "full":
                raise SipoError(
                    "--measure: wants model and rows on this machine, and adapters; take --tokens-per-second"
                )
            pace = measured(task)
        plan = say_plan(task, absent, gpu, pace)
        kept = _say_kept(task, planned(config) if absent.rows else counted(task))
    _say_absent(task, absent)
    remarks = _remarks(task, absent)
    _say_remarks(task, remarks)
    rows = {} if absent.rows else {name: len(part) for name, part in vars(task.splits).items()}
    return Checked(absent, tuple(remarks), rows, plan, kept)


def _say_subject(task: Task, absent: Absent) -> None:
    config, say = task.config, task.progress.say
    if absent.model:
        say(f"model      {config.model.path}, not on this machine")
    else:
        backbone = task.backbone
        dtype = str(backbone.model.dtype).removeprefix("torch.")
        context = (
            f"context of {backbone.context} tokens" if backbone.context != UNLIMITED else "a context without limit"
        )
        say(f"model      {config.model.path} on {backbone.device} in {dtype}, {context}")
        for slower in task.bank.routes.said:
            say(f"           {slower}")
        adapted = sorted({n.rsplit(".", 1)[-1] for n in adapted_layers(backbone.model, config.policies, config.lora)})
        say(f"adapters   of {', '.join(adapted)}" if adapted else "policies   whole models, all parameters")
        for line in about_chats(task.codec):
            say(f"chats      {line}")
    for objective in config.objectives:
        by = f"{objective.direction} {objective.reward}" if objective.reward is not None else "no reward"
        say(f"objective  {objective.name}: {by}; {objective.better}")
    _say_measure(config, say)
    for line in about_weights(config):
        say(line)
    say()


def _say_measure(config: Config, say: Callable[[str], None]) -> None:
    """What decides, where an objective has no reward."""
    if not config.by_labels:
        return
    lacking = [each.name for each in config.objectives if each.reward is None]
    have = [each.name for each in config.objectives if each.reward is not None]
    verb = "has" if len(lacking) == 1 else "have"
    say(f"measured   by held-out labels, for all objectives, since {listed(lacking)} {verb} no reward. {CAVEAT}")
    if have:
        say(f"           The rewards of {listed(have)} stand beside, in a table of their own.")
    out = [name for name in config.methods if not find(name).exported]
    if out:
        say(f"           Labels cannot score {listed(out)}, no model that is mixed or trained: left out there.")


def about_weights(config: Config) -> list[str]:
    """The weights that are measured, how many of them, and how many samples and judges there are at others."""
    names = config.names
    measured = grid(config.weights, names)
    shown = ", ".join("(" + " ".join(f"{share:.3g}" for share in weight) + ")" for weight in measured[:12])
    more = f", and {len(measured) - 12} more" if len(measured) > 12 else ""
    answered = config.evaluate.per_prompt * len(measured)
    count = quantity(len(measured), "weight")
    of_lattice = _part(config.weights, len(names), "weights")
    lines = [
        f"weights    of {', '.join(names)}: {shown}{more}",
        f"           {count}{of_lattice}: a method writes {quantity(answered, 'answer')} to a held-out prompt",
    ]
    if not improves(config.methods):
        return lines
    drawn, place = config.sample.weights, "sample.weights"
    sampled = len(between(grid(drawn, names, place)))
    rewritten = ", and as many rewrites" if config.refine.enabled else ""
    lines.append(
        f"samples    at {quantity(sampled, 'weight')} between the objectives{_part(drawn, len(names), place)}: "
        f"{sampled * config.sample.per_weight} a prompt{rewritten}"
    )
    rule = find_rule(config.filter.rule)
    if soups := rule.judging_soups(config):
        asked = rule.soups(config.filter)
        part = _part(asked, len(names), "filter.weights") if asked else ""
        lines.append(f"judges     {quantity(len(soups), 'soup')}{part}, beside the {len(names)} policies")
    return lines


def _part(weights: Weights, n: int, place: str) -> str:
    """Of which lattice they are a part; nothing where they are all of it, or a list."""
    whole = lattice_size(n, weights.divisions)
    part = weights.grid is None and whole > weights.at_most
    return f", well spread among the {whole} with steps of 1/{weights.divisions} ({place}.at_most)" if part else ""


def expected_rows(config: Config, rows: int) -> tuple[int, int] | None:
    """Of so many that SIPO works on, those that the filter may be expected to keep a response for, from and to."""
    keeps = find_rule(config.filter.rule).keeps
    if keeps is None or not improves(config.methods):
        return None
    drawn = between(grid(config.sample.weights, config.names, "sample.weights"))
    samples = len(drawn) * config.sample.per_weight
    least, most = keeps(config.filter, len(config.names), samples, samples * config.refine.enabled)
    return (
        (round(least * rows),) * 2 if least == most else rows_kept(rows, least, most)
    )  # a rule may keep a given share


def _say_kept(task: Task, sizes: Sizes) -> tuple[int, int] | None:
    found = expected_rows(task.config, sizes.worked)
    if found:
        least, most = found
        span = f"{least}" if least == most else f"{least} to {most}"
        task.progress.say()
        rows = quantity(sizes.worked, "row")
        task.progress.say(f"yield      the filter may keep a response for {span} of {rows}: a range, and no forecast")
        if least < FEW_KEPT:
            judges = (
                ", filter.judges: [policies]" if find_rule(task.config.filter.rule).judging_soups(task.config) else ""
            )
            task.progress.say(
                f"           fewer than {FEW_KEPT} hardly move a policy; what helps: more rows (sample.prompts, "
                f"sample.rows), more samples (sample.per_weight){judges}, filter: calibrated"
            )
    return found


def about_chats(codec: Codec) -> list[str]:
    """How answers begin and end, and what is unusual about the chat template."""

    def named(ids: Iterable[int]) -> str:
        return " ".join(repr(codec.tokenizer.decode([id])) for id in ids)

    lines = [f"a given response is closed with {named(codec.closing)}; decoding stops at {named(sorted(codec.stops))}"]
    if codec.beginning.changes:
        goes, comes = codec.beginning.goes, codec.beginning.comes
        end = f"with {comes!r}" + f" in place of {goes!r}" * bool(goes) if comes else f"without {goes!r}"
        lines.append(
            f"prompts end {end}, as before the template's own answers; with model.thinking: true the model "
            "thinks first, and responses hold their thoughts"
        )
    return lines + [f"the chat template {finding}" for finding in (codec.template.findings if codec.template else [])]


def _say_rows(task: Task) -> None:
    names, table = task.objectives, task.progress.table
    parts = [(name, getattr(task.splits, name)) for name in ("train", "validation", "test")]
    table(
        f"{quantity(len(task.rows), 'row')} of {task.config.data.path}",
        ["split", "rows", "prompts", "in conflict", "conflict ratio", *(f"{name} 0/1/neither" for name in names)],
        [
            [
                name,
                len(rows),
                len({row.key for row in rows}),
                *_conflicts(rows, names),
                *(_labels(rows, n) for n in names),
            ]
            for name, rows in [*parts, ("total", task.rows)]
        ],
    )
    task.progress.say()


def _conflicts(rows: Sequence[Row], names: Sequence[str]) -> tuple[int, str]:
    conflicts = sum(row.conflicting(names) for row in rows)
    return conflicts, f"{conflicts / len(rows):.1%}" if rows else "-"


def _labels(rows: Sequence[Row], name: str) -> str:
    labels = [row.preferred[name] for row in rows]
    return f"{labels.count(0)}/{labels.count(1)}/{labels.count(None)}"


def _say_lengths(task: Task) -> None:
    data = task.config.data
    lengths = task.lengths(row for part in vars(task.splits).values() for row in part)
    prompts, whole = lengths[:, 0], lengths[:, 3:].ravel()
    cut = int((whole > data.max_response_tokens).sum())
    limits = [(data.max_prompt_tokens, "-"), (data.max_response_tokens, f"{cut} of {len(whole)}")]
    task.progress.table(
        "tokens, with those of the chat format and the end",
        ["text", "min", "median", "max", "limit", "cut"],
        [
            [text, int(each.min()), f"{np.median(each):g}", int(each.max()), *about]
            for text, each, about in zip(("prompts", "responses"), (prompts, whole), limits, strict=True)
        ],
    )
    if cut:
        _say_cut(task, int(whole.max()))
    task.progress.say()


def _say_cut(task: Task, longest: int) -> None:
    """How many responses of each split are cut, and what follows."""
    parts, alike = [], 0
    for name, rows in vars(task.splits).items():
        beyond = task.lengths(rows)[:, 3:] > task.config.data.max_response_tokens
        alike += sum(len(set(task.texts(rows[at]))) == 1 for at in np.flatnonzero(beyond.any(axis=1)))
        parts += [f"{beyond.sum()} of {beyond.size} in {name}"] if beyond.any() else []
    left = quantity(alike, "row is", "rows are")
    same = f" {left} left with the same text twice, of which nothing is learned." if alike else ""
    task.progress.say(
        f"cut: {', '.join(parts)}. The labels were given to the whole texts; training, rewards and judges have what is "
        f"left of them, without an end.{same} data.max_response_tokens: {longest} cuts none."
    )


def _show_example(task: Task) -> None:
    """One training row as the model reads it: prompt dimmed, the tokens that are trained on in brackets."""
    row = next((row for row in task.splits.train if row.conflicting(task.objectives)), task.splits.train[0])
    console = task.progress.console
    group = task.group(row)
    packed = pack([group])
    console.print("an example: [in brackets] what is trained on", style="bold")
    console.print(_text(task, group.prompt), style=CONTEXT)
    for index in range(len(group.responses)):
        trained = packed.targets[packed.owner == index].tolist()
        fans = ", ".join(name for name, label in row.preferred.items() if label == index)
        cut = "" if trained[-1] in task.codec.stops else " and no end: it is cut"
        console.print(f"response_{index}, preferred by {fans or 'none'}; {quantity(len(trained), 'token')}{cut}")
        console.print(f"[{_text(task, trained)}]", style=TRAINED)
    console.print()
    if "refine" not in Graph(task.config):
        return
    refine = task.config.refine
    template = load_template(refine.review_template, "review")
    asked = encode(task, template, refine.review_tokens, chat=row.prompt, response=task.texts(row)[0])
    console.print(f"what a review of response_0 is asked with: {len(asked)} tokens", style="bold")
    console.print(_text(task, asked), style=CONTEXT)
    console.print()


def _text(task: Task, tokens: Sequence[int]) -> str:
    """With special tokens."""
    return str(task.backbone.tokenizer.decode(list(tokens)))


def _remarks(task: Task, absent: Absent) -> list[str]:
    lines = about_config(task.config) + about_rewards(task)
    if not absent.rows:
        mark = written_mark if absent.model else task.codec.plain.found
        lines += about_rows(task) + doubts(sorted(task.rows, key=lambda row: row.key), task.objectives, mark)
        lines += [] if absent.model else about_lengths(task)
    return lines


def _say_remarks(task: Task, remarks: Sequence[str]) -> None:
    if remarks:
        task.progress.say()
        task.progress.say("look at this:")
    for line in remarks:
        task.progress.say(f"  {line}")


def _say_absent(task: Task, absent: Absent) -> None:
    """What was taken on trust, and what brings it here."""
    if not absent:
        return
    config, say = task.config, task.progress.say
    say()
    say("not looked at:")
    if absent.model:
        say(f"  model {config.model.path}: not on this machine; its shape is known, its tokenizer is not, and so no")
        say("    length in tokens; `sipo run` downloads it")
    if absent.rows:
        source = config.data.source
        maker = f"`sipo run` makes them of {source.name}" if source else "`sipo data prepare` makes them (docs/data.md)"
        unknown = "" if stated(config) else "; their number is not known, and so there is no plan"
        say(f"  rows {config.data.path}: not there yet; {maker}{unknown}")
    for objective in config.objectives:
        if objective.name in absent.judges:
            say(f"  reward of {objective.name}: {objective.reward} is not on this machine; `sipo run` downloads it")
