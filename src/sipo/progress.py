"""What a run tells people while it works: bars on a terminal, plain lines elsewhere, and metrics.jsonl always."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sipo.places import shown
from sipo.plain import plain

GAP = 2
"""Spaces between the columns of a table."""
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 1.0
"""Between two times that others are told, by a file, how far the work has come."""
FIRST_GUESS = 3.0
"""Seconds of work before anything is said of the time that is left: the first units are not like the others."""
SOME = 0.1
"""Share of the work by which all of its time tells how long the rest takes, that of its beginning included."""


def say(text: str) -> None:
    """A line for people: the text as it is, but for what would command their terminal."""
    print(plain(text))


def say_json(record: Mapping[str, Any]) -> None:
    """A line for scripts: one JSON object, in which null stands for a number that is none."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(_strict(record), ensure_ascii=not unicode, allow_nan=False), flush=True)


def _strict(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _strict(each) for key, each in value.items()}
        case list() | tuple():
            return [_strict(each) for each in value]
        case Path():
            return shown(value)
        case float() if not math.isfinite(value):
            return None
    return value


@contextmanager
def answering(as_json: bool) -> Iterator[dict[str, Any]]:
    """A command whose answer is the record that the block fills: as JSON, all else that is said goes to stderr; or, for
    people, it is what is said.
    """
    record: dict[str, Any] = {}
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield record
    if as_json:
        say_json(record)


class Screen(Console):
    """A console on which text is text, without markup, emoji codes and control characters, and a pipe has no width."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.soft_wrap, self.width = True, 10_000  # whoever reads a pipe or a file wraps for themselves

    def on_broken_pipe(self) -> None:
        """Whoever read this has gone: said where all commands end, as for what is printed otherwise."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """Every text passes here that is given as a `str`."""
        return super().render_str(plain(text), **how)


def duration(seconds: float) -> str:
    """For people: 12 s, 4 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Meter:
    """How far a piece of work has come, in units; those that an earlier try did are not part of the rate."""

    name: str
    total: float
    unit: str = ""
    done: float = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the last units came to, such as the loss."""
    began: float = field(default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        self._before = self.done
        self._first: tuple[float, float] | None = None
        """When the first units of this process came, and how many were done by then."""

    def add(self, units: float, again: bool = False) -> None:
        self.done += units
        self._before += units if again else 0
        if again and self._first:
            self._first = self._first[0], self._first[1] + units
        elif self._first is None and not again:
            self._first = time.monotonic(), self.done

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Units a second, in this process."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds; None where it is too early to say: the first of a batch comes when all of it is computed, and after
        models were loaded.
        """
        if self.done >= self.total:
            return 0.0
        came, by_then = self._first or (self.began, self.done)
        since = time.monotonic() - came
        if since >= FIRST_GUESS and self.done > by_then:
            return (self.total - self.done) * since / (self.done - by_then)
        some = self.done - self._before >= SOME * (self.total - self._before)
        return (self.total - self.done) / self.rate if some and self.seconds >= FIRST_GUESS else None

    def __str__(self) -> str:
        said = [f"{self.done:,.0f} of {self.total:,.0f}{self.unit and f' {self.unit}'}"]
        said += [f"{name} {value:.3f}" for name, value in self.numbers.items()]
        left = self.left
        if self.done > self._before and (left is not None or self.seconds < FIRST_GUESS):
            said.append(f"{self.rate:,.3g}/s")
        said.append(duration(self.seconds))
        if left:
            said.append(f"about {duration(left)} left")
        return ", ".join(said)


class Whole(Protocol):
    """All of the work that a piece is a part of; as a text, how far it is."""

    @property
    def share(self) -> float: ...


class Progress:
    """Shows progress and tables; `quiet` shows nothing. Metrics go to `metrics`, one JSON line each.

    While something is under way, `now` is a file that says what, for `sipo status`. With `steps` it is said, too, what
    is read and loaded before there is anything to count.
    """

    def __init__(
        self, metrics: Path | None = None, quiet: bool = False, now: Path | None = None, steps: bool = False
    ) -> None:
        self.metrics, self.now, self.steps = metrics, now, steps
        self.console = Screen(quiet=quiet)
        self.stage = ""
        self.whole: Whole | None = None
        self.tracked: Callable[[Mapping[str, Any], int], None] | None = None
        """Is given every record of metrics, and its place among them."""
        self.goes_on: Callable[[], None] | None = None
        """Raises SipoError where the work is to stop; asked whenever a piece of it is done."""
        self._bars: Bars | None = None
        self._looked, self._told = 0.0, 0

    def say(self, text: str = "") -> None:
        self.console.print(text)

    def begin(self, what: str) -> None:
        """Say what is begun that takes a while and has no units."""
        if self.steps:
            self.console.print(f"  {what} ...", style="dim")

    @contextmanager
    def track(self, label: str, total: int, done: int = 0, *, unit: str = "") -> "Iterator[Advance]":
        """A bar (or lines) over `total` units, `done` of which an earlier try did; the block calls what it is given
        with the units just done, and with numbers to show beside them, such as a loss.
        """
        name = f"{self.stage}: {label}" if self.stage and label != self.stage else label
        meter, told = Meter(name, total, unit, done), time.monotonic()
        with self._bar(meter) as redraw:

            def advance(units: int, *, again: bool = False, **numbers: float) -> None:
                nonlocal told
                if self.goes_on:
                    self.goes_on()
                meter.add(units, again)
                meter.numbers = numbers
                redraw()
                self._look(meter)
                if not self._bars and (meter.done == total or time.monotonic() - told > SECONDS_BETWEEN_LINES):
                    told = time.monotonic()
                    self.say("  " + "; ".join(self._far(meter)))

            yield advance

    @contextmanager
    def _bar(self, meter: Meter) -> Iterator[Callable[[], None]]:
        """On a terminal, a bar for the block: those under way at once are one display, the whole's at its foot."""
        if not self.console.is_terminal or self.console.quiet:
            yield lambda: None
            return
        outermost = self._bars is None
        if self._bars is None:
            columns = (TextColumn("  {task.description}", markup=False), BarColumn(20))
            said = TextColumn("{task.fields[said]}", markup=False)
            self._bars = Bars(*columns, said, console=self.console, refresh_per_second=4, transient=True)
            self._bars.start()
        bars = self._bars
        task = bars.add_task(plain(meter.name), total=meter.total, said="")
        foot = bars.add_task("all", total=1, said="", visible=False) if outermost else None

        def redraw() -> None:
            bars.update(task, completed=meter.done, said=str(meter))
            if foot is not None and self.whole:
                bars.update(foot, total=1, completed=self.whole.share, said=str(self.whole), visible=True)

        redraw()
        try:
            yield redraw
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None
            self.console.print(f"  {meter.name}  {meter}")

    def _far(self, meter: Meter) -> list[str]:
        return [f"{meter.name}  {meter}", *([str(self.whole)] if self.whole else [])]

    def _look(self, meter: Meter) -> None:
        """Leave a word for those who ask how far this is; that nobody can is no reason to stop."""
        if self.now is None or time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        with suppress(OSError):
            scratch = self.now.with_suffix(".new")
            scratch.write_text(json.dumps({"said": self._far(meter)}), encoding="utf-8")
            scratch.replace(self.now)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Where lines are short headers are broken, and what has spaces; no name and no number is ever. Where not even
        that fits, a row has a line for each of its columns.
        """
        cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
        parts = [[column, *(row[at] for row in cells)] for at, column in enumerate(columns)]
        tight, least = _width(parts, lambda cell: [cell]) > self.console.width, _width(parts, str.split)
        labels = [f"{column}:" for column in columns[1:]]
        stacked = _width([labels, [cell for row in cells for cell in row[1:]]], str.split)
        if least > self.console.width >= max(stacked, *map(len, parts[0])) and len(columns) > 2:
            self.console.print(title, style="italic")
            for first, *others in cells:
                self.table(first, ["", ""], list(zip(labels, others, strict=True)))
            return
        table = Table(
            title=title,
            title_justify="left",
            box=None,
            show_header=any(columns),
            pad_edge=False,
            padding=(0, GAP, 0, 0),
        )
        for at, (column, *below) in enumerate(parts):
            whole = not any(" " in cell for cell in below)
            header = column.replace(" ", "\n") if tight and whole else column
            table.add_column(header, justify="left" if at == 0 else "right", no_wrap=whole)
        for row in cells:
            table.add_row(*row)
        table.width = least if least > self.console.width else None
        self.console.print(table, crop=False)

    def metric(self, **values: Any) -> None:
        """Append a record of numbers; its `time` is in seconds since the epoch."""
        if self.metrics is None:
            return
        record: Mapping[str, Any] = {"time": round(time.time(), 3), "stage": self.stage, **values}
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        if self.tracked:
            self._told = self._told or self.metrics.read_bytes().count(b"\n") - 1
            self.tracked(record, self._told)
            self._told += 1


def _width(columns: Sequence[Sequence[str]], pieces: Callable[[str], list[str]]) -> int:
    """Of a table whose cells are broken into such pieces."""
    widest = (max((len(piece) for cell in column for piece in pieces(cell)), default=0) for column in columns)
    return sum(widest) + GAP * (len(columns) - 1)


class Advance(Protocol):
    def __call__(self, units: int, *, again: bool = False, **numbers: float) -> None:
        """So many more units are done, or, `again`, were by an earlier try; `numbers` are shown with them."""
