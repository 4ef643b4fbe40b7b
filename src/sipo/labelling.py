"""Making preference rows: prompts, two answers to each from a model, and labels from reward functions."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sipo.bank import Bank
from sipo.data import Row, read_split_prompts, write_rows
from sipo.data.labels import Split
from sipo.decoding import Request, base, seed_of
from sipo.disk.journal import Journal, resumable
from sipo.disk.locking import alone
from sipo.engines import Span, answer, check_engine, opened
from sipo.errors import SipoError
from sipo.models.chat import Codec
from sipo.models.load import identify, load_backbone
from sipo.progress import Progress
from sipo.rewards import Item, check_rewards, signed_rewards
from sipo.rewards.interface import Chat
from sipo.rewards.objective import Objective
from sipo.settings import Decoding, Execution, Model
from sipo.words import quantity


@dataclass(frozen=True)
class Drawing:
    """How two answers to a prompt are drawn."""

    decoding: Decoding
    max_new_tokens: int = 64
    """Tokens at which an answer is cut."""
    tries: int | None = None
    """None takes the two that are drawn first, whether they end or are cut; a number the first two that end, where two
    are drawn up to so often."""
    seed: int = 0


def label(
    prompts: Path,
    model: Model,
    objectives: Sequence[Objective],
    to: Path,
    drawing: Drawing,
    *,
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Write one row for each prompt with two different answers (`draw`), in the split that its column `split` says, if
    any; equal scores are ties.

    Every objective must have a reward. A run with data.max_response_tokens at the drawing's `max_new_tokens` reads the
    very texts that were judged. Killed and called again with the same arguments, it goes on where it was.

    Raises SipoError, and writes nothing, where no row comes of it or an objective prefers nothing in any row.

    >>> from sipo.labelling import Drawing
    >>> from sipo.progress import Progress
    >>> from sipo.rewards.objective import Objective
    >>> from sipo.settings import Decoding, Model
    >>> goals = [Objective(name="detail", better="It says more.", reward="sipo.rewards.text:words")]
    >>> how, quiet = Drawing(Decoding(temperature=2), max_new_tokens=12), Progress(quiet=True)
    >>> place = Path("labelled.jsonl")
    >>> rows = sipo.label(Path("prompts.jsonl"), Model(path="model"), goals, place, how, progress=quiet)
    >>> sorted(rows[0].preferred)
    ['detail']
    """
    execution, progress = execution or Execution(), progress or Progress()
    check_rewards(objectives, execution)
    with alone(to):
        drawn = draw(prompts, model, to, drawing, execution=execution, progress=progress)
        rows = _labelled(drawn, objectives, execution, progress)
        problem = _problem(rows, objectives)
        if problem is None:
            write_rows(to, rows)
        drawn.forget()
    if problem is not None:
        raise SipoError(f"{prompts}: {problem}; nothing is written")
    return rows


def draw(
    prompts: Path,
    model: Model,
    to: Path,
    drawing: Drawing,
    *,
    execution: Execution,
    progress: Progress,
) -> "Drawn":
    """Two different answers to each prompt from the model alone, so that both have the same chance on every objective.

    The journal is beside `to`.
    """
    check_engine(execution)
    splits = read_split_prompts(prompts)
    chats = list(splits)
    backbone = load_backbone(model, execution.device)
    rows, engine, limit = execution.decode_rows, execution.engine, drawing.max_new_tokens
    plan = f"{to.name}-{seed_of(identify(model), drawing.decoding, limit, rows, engine, drawing.seed, chats):x}"
    # What a chat template with a date is told stays, however often the command goes on.
    begun = Journal(to.parent, f"{plan}-moment", Progress(quiet=True))
    (moment,) = resumable(begun, [None], lambda _: datetime.now().isoformat())
    codec = Codec.of(backbone, model, sys.maxsize, limit, datetime.fromisoformat(moment))
    bank, drawn = Bank(backbone), Drawn(codec, drawing.tries is not None, splits, {chat: [] for chat in chats}, [begun])
    try:
        encoded = _encoded(prompts, chats, codec, backbone.context)
    except SipoError:
        drawn.forget()
        raise
    with opened(execution, bank) as opened_engine:
        for attempt in range(drawing.tries or 1):
            asked = [(chat, index) for chat in drawn.lacking for index in (2 * attempt, 2 * attempt + 1)]
            if not asked:
                break
            name, label = (f"{plan}-{attempt}", f"answers, try {attempt + 1}") if attempt else (plan, "answers")
            drawn.journals.append(Journal(to.parent, name, progress, label))
            answers = answer(
                opened_engine,
                Span(model),
                (Request(encoded[chat], base(0), seed_of(drawing.seed, "label", chat, index)) for chat, index in asked),
                drawing.decoding,
                limit,
                codec.stops,
                drawn.journals[-1],
            )
            for (chat, _), each in zip(asked, answers, strict=True):
                drawn.add(chat, codec.decode(each.tokens), each.finished)
    progress.say(f"{drawn} within {limit} tokens")
    return drawn


@dataclass
class Drawn:
    """The first two different answers to each prompt; with `whole` only such as end within the limit."""

    codec: Codec
    whole: bool
    splits: dict[Chat, Split | None]
    texts: dict[Chat, list[str]]
    journals: list[Journal]
    ended: int = 0
    total: int = 0

    @property
    def lacking(self) -> list[Chat]:
        return [chat for chat, texts in self.texts.items() if len(texts) < 2]

    @property
    def pairs(self) -> list[tuple[Chat, str, str]]:
        return [(chat, texts[0], texts[1]) for chat, texts in self.texts.items() if len(texts) == 2]

    def add(self, chat: Chat, text: str, finished: bool) -> None:
        ends = finished and self.codec.ends(text)
        self.total, self.ended = self.total + 1, self.ended + ends
        mine = self.texts[chat]
        if text and text not in mine and len(mine) < 2 and (ends or not self.whole):
            mine.append(text)

    def forget(self) -> None:
        """Remove the journal of what has been written, or is of no use."""
        for journal in self.journals:
            journal.forget()

    def __str__(self) -> str:
        pairs = f"two different answers to {len(self.pairs)} of {quantity(len(self.texts), 'prompt')}"
        return f"{pairs}; {self.ended} of {quantity(self.total, 'answer')} drawn end"


def _encoded(prompts: Path, chats: Sequence[Chat], codec: Codec, context: int) -> dict[Chat, tuple[int, ...]]:
    """Every prompt as token ids. Raises SipoError for one that leaves no room for an answer in the model's context."""
    encoded = {}
    for number, chat in enumerate(chats, 1):
        try:
            ids = tuple(codec.encode_prompt(chat))
        except SipoError as problem:
            raise SipoError(f"{prompts} prompt {number}: {problem}") from None
        if len(ids) + codec.max_response_tokens > context:
            raise SipoError(
                f"{prompts} prompt {number}: has {len(ids)} tokens, with an answer of {codec.max_response_tokens} over "
                f"the model's context of {context}; lower --max-tokens or leave the prompt out"
            )
        encoded[chat] = ids
    return encoded


def _labelled(drawn: Drawn, objectives: Sequence[Objective], execution: Execution, progress: Progress) -> list[Row]:
    """A row for each pair; judged is what a run reads of it."""
    used = [(chat, drawn.codec.used(first), drawn.codec.used(second)) for chat, first, second in drawn.pairs]
    items = [Item(chat, text, first) for chat, first, second in used for text in (first, second)]
    rewards = signed_rewards(objectives, items, execution, progress)
    rows = []
    for (chat, *texts), first, second in zip(drawn.pairs, rewards[::2], rewards[1::2], strict=True):
        preferred = {each.name: _better(*both) for each, *both in zip(objectives, first, second, strict=True)}
        rows.append(Row(chat, (texts[0], texts[1]), preferred, drawn.splits[chat]))
    return rows


def _better(first: float, second: float) -> int | None:
    """None for a tie, and where a judge refused an answer, whose reward is NaN."""
    return int(second > first) if second != first and not math.isnan(first + second) else None


def _problem(rows: Sequence[Row], objectives: Sequence[Objective]) -> str | None:
    """Why nothing could be learned from the rows, if so."""
    if not rows:
        return (
            "no prompt has two different answers that are fit; raise the temperature, --max-tokens or --tries, "
            "or give more prompts"
        )
    for each in objectives:
        if all(row.preferred[each.name] is None for row in rows):
            return (
                f"`{each.name}` prefers nothing in any of {len(rows)} rows, its reward {each.reward} gives both "
                "answers the same; give more prompts, another --seed, or a reward that tells them apart"
            )
    return None
