"""Keeping drafts in step: which rows an engine is asked for when, and what becomes of a draft that falls out.

All rows of a draft are handed over together, once there is room for all of them in the next step. Should the engine
nevertheless leave one behind (it was preempted, or its prompt was cut), the draft's rows are withdrawn and asked again
from the last token that all of them took.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sipo.engines.drafts import BatchRow, Draft, rows_of
from sipo.errors import SipoError

ALONE_AFTER = 3
"""A draft that has fallen out of step so often runs without others."""
PATIENCE = 100
"""Steps or tries without a token before a draft is said not to fit. Long prompts are computed in pieces, and each try
finds more of them cached."""


class Engine(Protocol):
    """Decodes rows, and calls `settle` on the logits of every step."""

    def ask(self, rows: Sequence[BatchRow]) -> None: ...

    def withdraw(self, rows: Sequence[BatchRow]) -> None:
        """Forget them, finished or not."""

    def step(self) -> dict[BatchRow, int]:
        """The rows that took a token in this step, and which."""


@dataclass(frozen=True)
class Room:
    """What an engine takes at once."""

    rows: int
    adapters: int
    step_tokens: int
    """Tokens in a step: prompts that come in, and one for each row that is there."""


def drive(engine: Engine, drafts: Iterable[Draft], room: Room) -> int:
    """Complete every draft. Returns how often one fell out of step. Raises SipoError where one cannot be completed."""
    waiting, running = deque(drafts), dict[Draft, list[BatchRow]]()
    fallen, stuck = dict[Draft, int](), dict[Draft, int]()
    crowded, idle = False, 0
    while waiting or running:
        entering = 0
        while waiting and (not running or not crowded) and _fits(waiting[0], running, entering, room, fallen):
            draft = waiting.popleft()
            running[draft] = rows_of(draft)
            entering += _entering(draft)
            engine.ask(running[draft])
        for draft in running:
            draft.chosen = None
        took = engine.step()
        idle = 0 if took else idle + 1
        for draft, rows in list(running.items()):
            tokens = {took.get(row) for row in rows}
            if tokens == {None}:
                continue  # not begun, or held back as a whole
            if draft.chosen is not None and tokens == {draft.chosen}:
                draft.commit()
                if draft.done:
                    del running[draft]
                    crowded = False
            else:
                fallen[draft] = fallen.get(draft, 0) + 1
                crowded = True
                engine.withdraw(rows)
                del running[draft]
                waiting.appendleft(draft)
                stuck[draft] = stuck.get(draft, 0) + 1 if len(draft.tokens) == rows[0].start else 0
                if stuck[draft] > PATIENCE:
                    raise _too_large(draft)
        if idle > PATIENCE:
            raise _too_large(next(iter(running)))
    return sum(fallen.values())


def _fits(
    draft: Draft, running: dict[Draft, list[BatchRow]], entering: int, room: Room, fallen: dict[Draft, int]
) -> bool:
    if not running:
        return True
    if any(fallen.get(each, 0) >= ALONE_AFTER for each in (draft, *running)):
        return False
    rows = sum(each.size for each in running)
    points = {point for each in (draft, *running) for point in each.request.mixture.points}
    return (
        rows + draft.size <= room.rows
        and len(points) <= room.adapters
        and rows + entering + _entering(draft) <= room.step_tokens
    )


def _entering(draft: Draft) -> int:
    return draft.size * len(draft.prompt)


def _too_large(draft: Draft) -> SipoError:
    return SipoError(
        f"execution.engine: vllm cannot keep {draft.size} rows of {len(draft.prompt)} tokens in step in its memory; "
        "free memory, or set execution.engine to transformers"
    )
