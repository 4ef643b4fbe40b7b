"""`sipo data inspect`: what a file of preference rows holds and where its objectives conflict."""

from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from sipo.data import ConflictStatistics, Row, conflict_statistics, read_rows
from sipo.data.columns import about_unread, unread_of
from sipo.data.consistency import doubts
from sipo.progress import Screen, say_json
from sipo.words import quantity

EXAMPLE_CHARACTERS = 240


def inspect_file(path: Path, as_json: bool, examples: int = 3) -> None:
    """Print the statistics of a file and its first conflicts; `as_json` prints the same as one JSON object.

    Raises SipoError for a file that is not all valid.
    """
    rows = read_rows(path)
    statistics = conflict_statistics(rows)
    conflicts = [row for row in rows if row.conflicting(statistics.objectives)][:examples]
    unread, found_doubts = unread_of(rows), doubts(sorted(rows, key=lambda row: row.key), statistics.objectives)
    if as_json:
        records = [row.as_record() for row in conflicts]
        about = {"unread": unread, "doubts": found_doubts, "examples": records}
        return say_json({"file": path, **statistics.as_json(), **about})
    console = Screen()
    _print_statistics(console, path, statistics)
    for number, row in enumerate(conflicts, 1):
        _print_example(console, number, row)
    for line in (*found_doubts, *about_unread(unread)):
        console.print(line)


def _print_statistics(console: Console, path: Path, statistics: ConflictStatistics) -> None:
    names = statistics.objectives
    rows, prompts = quantity(statistics.rows, "row"), quantity(statistics.prompts, "prompt")
    console.print(f"{path}: {rows}, {prompts}, {quantity(len(names), 'objective')}")
    conflicts = round(statistics.conflict_ratio * statistics.rows)
    console.print(f"conflict ratio {statistics.conflict_ratio:.1%} ({conflicts} of {rows})\n")

    lengths = _table(console, "length in words", "min", "median", "max")
    for text, words in (("prompt", statistics.prompt_words), ("response", statistics.response_words)):
        lengths.add_row(text, str(words.min), f"{words.median:g}", str(words.max))

    labels = _table(console, "rows that prefer", "response 0", "response 1", "neither")
    for name in names:
        labels.add_row(name, *map(str, statistics.preferred[name]), str(statistics.ties[name]))

    pairwise = _table(console, "rows in conflict", *names)
    for name in names:
        shares = (statistics.pairwise[name].get(other) for other in names)
        pairwise.add_row(name, *("-" if share is None else f"{share:.1%}" for share in shares))

    for table in (lengths, labels, pairwise):
        console.print(table)
        console.print()


def _print_example(console: Console, number: int, row: Row) -> None:
    console.print(f"conflict {number}", style="bold")
    console.print(f"prompt      {_shortened(row.text)}")
    for index, response in enumerate(row.responses):
        fans = ", ".join(name for name, label in row.preferred.items() if label == index)
        console.print(f"response {index}  {_shortened(response)}")
        console.print(f"            preferred by {fans or 'none'}", style="green")
    console.print()


def _table(console: Console, title: str, *columns: str) -> Table:
    box = SIMPLE if console.is_terminal else None
    table = Table(box=box, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _shortened(text: str) -> str:
    """On one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARACTERS else line[: EXAMPLE_CHARACTERS - 3] + "..."
