"""Stage refine: the policies review their samples and rewrite them (SIPO, Eq. 4 and 5).

Reviews are decoded at the reviewer's weight, rewrites at the weight that the sample was drawn at. What was
written is known by token; nothing is searched for in decoded text. A rewrite that no objective's implicit
reward finds better gives way to its sample. Writes `refinements.jsonl` and `logprobs.parquet`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from sipo.bank import Policy
from sipo.data import Row
from sipo.decoding import Generated, Request, at_mod, seed_of
from sipo.disk.journal import Journal
from sipo.disk.once import ids
from sipo.disk.tables import write_records
from sipo.engines import Engine, Span, answer
from sipo.errors import SipoError
from sipo.logprobs.packing import Group
from sipo.logprobs.table import REFERENCE, LogprobTable, policy, policy_points
from sipo.message import Message
from sipo.prompts.template import PromptTemplate, load_template
from sipo.records import Refinement, Sample
from sipo.stages.sample import of_round
from sipo.task import Task
from sipo.weights import Weight, as_weight


def refine(
    task: Task, policies: list[Policy], samples: list[Sample], folder: Path, *, round: int = 1
) -> list[Refinement]:
    """One refinement a sample, in order."""
    config = task.config
    settings, length = config.refine, config.data.max_response_tokens
    prompts = {row.key: row for row in task.splits.train}
    chats = [prompts[each.prompt].prompt for each in samples]
    reviewing = load_template(settings.review_template, "review")
    rewriting = load_template(settings.rewrite_template, "rewrite")
    drawn_at = [as_weight(each.weights, task.objectives, "sample") for each in samples]

    def write(kind: str, tokens: Iterable[tuple[int, ...]], at: list[Weight], limit: int) -> list[Generated]:
        seeds = [
            seed_of(config.seed, kind, s.prompt, w, s.index, *of_round(round))
            for s, w in zip(samples, drawn_at, strict=True)
        ]
        return answer(
            engine,
            span,
            (Request(t, at_mod(w), seed) for t, w, seed in zip(tokens, at, seeds, strict=True)),
            config.decoding,
            limit,
            task.codec.stops,
            Journal(folder, kind, task.progress),
        )

    span = task.span(policies)
    with task.engine() as engine:
        asked = (
            encode(task, reviewing, settings.review_tokens, chat=chat, response=each.response)
            for chat, each in zip(chats, samples, strict=True)
        )
        reviews = write("review", asked, [reviewer(task)] * len(samples), settings.review_tokens)
        review_texts = [f"{reviewing.lead_in} {task.codec.decode(each.tokens)}".strip() for each in reviews]
        asked = (
            encode(task, rewriting, length, chat=chat, response=each.response, review=review)
            for chat, each, review in zip(chats, samples, review_texts, strict=True)
        )
        rewrites = write("rewrite", asked, drawn_at, length)
        table = _score(task, engine, span, samples, rewrites, prompts, folder)
    table.write(folder / "logprobs.parquet")

    refinements = []
    for each, review, rewrite in zip(samples, review_texts, rewrites, strict=True):
        prompt = task.prompt_tokens(prompts[each.prompt])
        gains = _gains(task, table, Group(prompt, (each.tokens, rewrite.tokens)))
        text = task.codec.decode(rewrite.tokens)
        kept: Literal["rewrite", "sample"] = (
            "rewrite" if text and any(gain > 0 for gain in gains.values()) else "sample"
        )
        refinements.append(
            Refinement(
                each.prompt, each.weights, each.index, each.response, review,
                text, rewrite.tokens, rewrite.finished, gains, kept,
            )
        )  # fmt: skip
    write_records(folder / "refinements.jsonl", refinements)
    standing = sum(each.kept == "rewrite" for each in refinements)
    better = [sum(each.gains[name] > 0 for each in refinements) for name in task.objectives]
    task.progress.table(
        "rewrites",
        ["written", "kept", *(f"better on {name}" for name in task.objectives)],
        [[len(refinements), standing, *better]],
    )
    return refinements


def reviewer(task: Task) -> Weight:
    """w_e of Eq. 4: as configured, or all policies equally."""
    if task.config.refine.reviewer is None:
        return (1 / len(task.objectives),) * len(task.objectives)
    return as_weight(task.config.refine.reviewer, task.objectives, "refine.reviewer")


def encode(
    task: Task, template: PromptTemplate, new_tokens: int, *, chat: Sequence[Message], **values: str
) -> tuple[int, ...]:
    """The rendered template as token ids, its lead-in last, where generation goes on."""
    rendered = template.render(chat=chat, objectives=task.config.objectives, **values)
    lead_in = task.codec.encode_text(template.lead_in) if template.lead_in else []
    room = task.backbone.context - new_tokens - len(lead_in)
    try:
        return ids((*task.codec.encode_prompt(rendered, limit=room), *lead_in))
    except SipoError as error:
        raise type(error)(
            f"{template.name} template: {error}".replace("data.max_prompt_tokens", "the model's context")
        ) from None


def _score(
    task: Task,
    engine: Engine,
    span: Span,
    samples: list[Sample],
    rewrites: list[Generated],
    prompts: dict[str, Row],
    folder: Path,
) -> LogprobTable:
    table = LogprobTable()
    tokens = {key: task.prompt_tokens(prompts[key]) for key in {each.prompt for each in samples}}
    groups = [
        Group(tokens[each.prompt], (each.tokens, rewrite.tokens))
        for each, rewrite in zip(samples, rewrites, strict=True)
    ]
    models = {REFERENCE: (0.0,) * len(task.objectives), **policy_points(task.objectives)}
    table.fill(engine, span, groups, models, Journal(folder, "score", task.progress))
    return table


def _gains(task: Task, table: LogprobTable, group: Group) -> dict[str, float]:
    """Implicit reward of the rewrite less that of the sample, by objective; the group is both, the sample first."""
    sample, rewrite = table.logratios(group, [policy(name) for name in task.objectives])
    gains = task.config.align.beta * (rewrite - sample)
    return dict(zip(task.objectives, gains.tolist(), strict=True))
