"""What a run tells people while it works: bars on a terminal, plain lines elsewhere, and metrics.jsonl always."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sipo.plain import plain

SECONDS_BETWEEN_LINES = 15.0


def say(text: str) -> None:
    """A line for people: the text as it is, but for what would command their terminal."""
    print(plain(text))


class Screen(Console):
    """A console on which text is text, without markup, emoji codes and control characters, and a pipe has no width."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.soft_wrap, self.width = True, 10_000  # whoever reads a pipe or a file wraps for themselves

    def render_str(self, text: str, **how: Any) -> Text:
        """Every text passes here that is given as a `str`."""
        return super().render_str(plain(text), **how)


class Progress:
    """Shows progress and tables; `quiet` shows nothing. Metrics go to `metrics`, one JSON line each."""

    def __init__(self, metrics: Path | None = None, quiet: bool = False) -> None:
        self.metrics = metrics
        self.console = Screen(quiet=quiet)
        self.stage = ""

    def say(self, text: str = "") -> None:
        self.console.print(text)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar (or lines) over `total` units; the block calls what it is given with the units just done."""
        name = f"{self.stage}: {label}" if self.stage and label != self.stage else label
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bars:
                task = bars.add_task(plain(name), total=total)
                yield lambda units: bars.advance(task, units)
            return
        done, started, told = 0, time.monotonic(), time.monotonic()

        def advance(units: int) -> None:
            nonlocal done, told
            done += units
            if done == total or time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self.say(f"  {name}  {done}/{total}  {told - started:.0f} s")

        yield advance

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
        self.console.print(table)

    def metric(self, **values: Any) -> None:
        """Append a record of numbers; its `time` is in seconds since the epoch."""
        if self.metrics is None:
            return
        record: Mapping[str, Any] = {"time": round(time.time(), 3), "stage": self.stage, **values}
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
