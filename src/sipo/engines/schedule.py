"""Keeping groups in step: which rows an engine is asked for when, and what becomes of a group that falls out.

All rows of a group are handed over together, once there is room for all of them in the next step. Should the engine
nevertheless leave one behind (it was preempted, or its prompt was cut), the group's rows are withdrawn and asked again
from the last token that all of them took.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sipo.engines.groups import Group, Row, rows_of
from sipo.errors import SipoError

ALONE_AFTER = 3
"""A group that has fallen out of step so often runs without others."""
PATIENCE = 100
"""Steps or tries without a token before a group is said not to fit. Long prompts are computed in pieces, and each try
finds more of them cached."""


class Engine(Protocol):
    """Decodes rows, and calls `settle` on the logits of every step."""

    def ask(self, rows: Sequence[Row]) -> None: ...

    def withdraw(self, rows: Sequence[Row]) -> None:
        """Forget them, finished or not."""

    def step(self) -> dict[Row, int]:
        """The rows that took a token in this step, and which."""


@dataclass(frozen=True)
class Room:
    """What an engine takes at once."""

    rows: int
    adapters: int
    step_tokens: int
    """Tokens in a step: prompts that come in, and one for each row that is there."""


def drive(engine: Engine, groups: Iterable[Group], room: Room) -> int:
    """Complete every group. Returns how often one fell out of step. Raises SipoError where one cannot be completed."""
    waiting, running = deque(groups), dict[Group, list[Row]]()
    fallen, stuck = dict[Group, int](), dict[Group, int]()
    crowded, idle = False, 0
    while waiting or running:
        entering = 0
        while waiting and (not running or not crowded) and _fits(waiting[0], running, entering, room, fallen):
            group = waiting.popleft()
            running[group] = rows_of(group)
            entering += _entering(group)
            engine.ask(running[group])
        for group in running:
            group.chosen = None
        took = engine.step()
        idle = 0 if took else idle + 1
        for group, rows in list(running.items()):
            tokens = {took.get(row) for row in rows}
            if tokens == {None}:
                continue  # not begun, or held back as a whole
            if group.chosen is not None and tokens == {group.chosen}:
                group.commit()
                if group.done:
                    del running[group]
                    crowded = False
            else:
                fallen[group] = fallen.get(group, 0) + 1
                crowded = True
                engine.withdraw(rows)
                del running[group]
                waiting.appendleft(group)
                stuck[group] = stuck.get(group, 0) + 1 if len(group.tokens) == rows[0].start else 0
                if stuck[group] > PATIENCE:
                    raise _too_large(group)
        if idle > PATIENCE:
            raise _too_large(next(iter(running)))
    return sum(fallen.values())


def _fits(group: Group, running: dict[Group, list[Row]], entering: int, room: Room, fallen: dict[Group, int]) -> bool:
    if not running:
        return True
    if any(fallen.get(each, 0) >= ALONE_AFTER for each in (group, *running)):
        return False
    rows = sum(each.size for each in running)
    points = {point for each in (group, *running) for point in each.request.mixture.points}
    return (
        rows + group.size <= room.rows
        and len(points) <= room.adapters
        and rows + entering + _entering(group) <= room.step_tokens
    )


def _entering(group: Group) -> int:
    return group.size * len(group.prompt)


def _too_large(group: Group) -> SipoError:
    return SipoError(
        f"execution.engine: vllm cannot keep {group.size} rows of {len(group.prompt)} tokens in step in its memory; "
        "free memory, or set execution.engine to transformers"
    )
