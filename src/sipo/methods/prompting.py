"""Prompting: the backbone itself, asked in words for what a weight asks for ("be more helpful than careful").

The words are made of the shares and of each objective's `better`. They are system text: what becomes of it where a
chat template has no system turn is `sipo.models.template`'s.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sipo.declare.work import CHARACTERS, Plan, Work, written
from sipo.errors import SipoError
from sipo.looks import Look
from sipo.methods.interface import Aligned, Method, prompt_of
from sipo.methods.spec import MethodSpec
from sipo.weights import Weight, grid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sipo.bank import Policy
    from sipo.config import Config
    from sipo.data import Row
    from sipo.declare.memory import Peaks
    from sipo.rewards.objective import Objective
    from sipo.task import Task

GRADES = ((1.0, "just as important"), (0.5, "slightly less important"), (0.25, "less important"))
"""In words, a share that is more than so much of the largest one (the first: as large); any smaller one is `LEAST`."""
LEAST = "much less important"
ROUNDING = 1e-9


def instruction(objectives: "Sequence[Objective]", weight: Weight) -> str:
    """The objectives with a share, the largest first, and what each is worth, in plain English."""
    asked = sorted(
        ((share, objective) for share, objective in zip(weight, objectives, strict=True) if share > 0),
        key=lambda each: -each[0],
    )
    if len(asked) == 1:
        ((_, only),) = asked
        return (
            f"Give the best response that you can by this standard:\n- {only.name}: {only.better}\n"
            "Do not mention the standard."
        )
    largest, smallest = asked[0][0], asked[-1][0]
    equal = largest - smallest < ROUNDING
    ranks = ["" if equal else f", {_grade(share / largest, first=at == 0)}" for at, (share, _) in enumerate(asked)]
    lines = [
        f"- {objective.name} ({100 * share:.3g}%{rank}): {objective.better}"
        for (share, objective), rank in zip(asked, ranks, strict=True)
    ]
    order = "which are equally important" if equal else "the most important first"
    weighed = "equally" if equal else "by these shares"
    return "\n".join(
        [
            f"Give the best response that you can by these standards, {order}:",
            *lines,
            f"Where they conflict, weigh them {weighed}. Do not mention the standards.",
        ]
    )


def _grade(ratio: float, *, first: bool) -> str:
    if first:
        return "the most important"
    (equal, word), *others = GRADES
    if ratio > equal - ROUNDING:
        return word
    return next((word for least, word in others if ratio > least + ROUNDING), LEAST)


def prompting(objectives: "Sequence[Objective]", policies: "Sequence[Policy]") -> Method:
    """The backbone, mounted with the policies, so that its answers share their batches' setting."""
    from sipo.decoding import base

    def at(weight: Weight) -> Aligned:
        return Aligned(tuple(policies), base(len(policies)), instruct=instruction(objectives, weight))

    return Method("prompting", at)


def understood(tokenizer: "PreTrainedTokenizerBase", objectives: "Sequence[Objective]") -> bool:
    """Does the vocabulary have most words of an instruction?"""
    ids = tokenizer.encode(instruction(objectives, (1 / len(objectives),) * len(objectives)), add_special_tokens=False)
    return 2 * ids.count(tokenizer.unk_token_id) < len(ids)


def check_prompting(task: "Task", rows: "Sequence[Row]") -> None:
    """Raise SipoError where the model cannot read an instruction, or its context hold one with prompt and answer."""
    longest = rows[int(task.lengths(rows)[:, 0].argmax())] if rows else task.splits.train[0]
    method = prompting(task.config.objectives, ())
    if not understood(task.codec.tokenizer, task.config.objectives):
        raise SipoError(
            f"methods: `prompting` asks in English words, most of which the tokenizer of {task.config.model.path} does "
            "not know; leave it out"
        )
    for weight in task.weights:
        prompt_of(task, method.name, method.at(weight), longest)


def _build(config: Any, policies: "Sequence[Policy]") -> list[Method]:
    return [prompting(config.objectives, policies)]


def _answer(plan: Plan, weight: Weight) -> Work:
    return written(plan, frame=_length(plan.config, weight))


def _peak(peaks: "Peaks") -> float:
    frame = max(_length(peaks.config, weight) for weight in grid(peaks.config.weights, peaks.config.names))
    return peaks.decoding(peaks.lengths.prompt + frame, peaks.longest)


def _length(config: "Config", weight: Weight) -> float:
    """In tokens, about."""
    return len(instruction(config.objectives, weight)) / CHARACTERS


METHODS = (
    MethodSpec(
        "prompting",
        "the backbone, asked in words for what the weights say",
        build=_build,
        reads=("objectives.better",),
        exported=False,
        answer=_answer,
        peak=_peak,
        encodes=check_prompting,
        speaks=understood,
        look=Look("#882255", "d", "\N{BLACK LOZENGE}"),
    ),
)
