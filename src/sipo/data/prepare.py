"""`sipo data prepare`: from a source to a folder with checked rows, their splits, and a card.

Three passes, each holding one prompt's rows at a time: the source into a temporary file, prompt by prompt; that into
`rows`, with splits; and the statistics for the card. A few bytes a prompt are kept besides.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sipo.data._files import write_records
from sipo.data.cleaning import Choice, Cleaning
from sipo.data.conflicts import ConflictStatistics, conflict_statistics
from sipo.data.consistency import doubts
from sipo.data.datacard import Prepared, data_card
from sipo.data.digest import digest_of
from sipo.data.labels import SPLITS, Split
from sipo.data.native import Native
from sipo.data.rows import Row
from sipo.data.sources.finding import find
from sipo.data.sources.grouping import Spool, pack, unpack
from sipo.disk.appearing import appearing
from sipo.errors import SipoError


def prepare(name: str, to: Path, choice: Choice | None = None) -> Prepared:
    """Make the folder `to`, with `rows.jsonl` or `rows.parquet` and a card; it appears whole or not at all.

    `name` is a known data set, a hub id, a file or a folder. Raises SipoError, one line with the place and the way
    out, for the first thing that is wrong.
    """
    choice = choice or Choice()
    found = find(name, choice.format, choice.columns, choice.objectives)
    digest = digest_of(name, choice)
    cleaning = Cleaning(choice, found.rows)
    native = Native(choice.seed, found.known.test_prompts if found.known else None)
    with appearing(to) as folder, Spool() as spool:
        for rows in cleaning.prompts():
            spool.extend(map(pack, native.of_one_prompt(rows, cleaning.dropped)))
        if not len(spool):
            why = ", ".join(f"{count} with {reason}" for reason, count in cleaning.dropped.items())
            raise SipoError(f"{name}: no rows are left; left out: {why or 'none'}")
        objectives = cleaning.objectives(name)
        if not objectives:
            raise SipoError(f'{name}: no row names an objective; label them, such as "preferred": {{"helpful": 0}}')

        def prepared(part: Split | None = None) -> Iterator[Row]:
            for row in native.split(map(unpack, spool)):
                if part in (None, row.split):
                    yield replace(row, preferred={each: row.preferred.get(each) for each in objectives})

        statistics = conflict_statistics(prepared(), objectives)
        if beyond := len(spool) - statistics.rows:
            cleaning.dropped[f"a test prompt beyond {native.test_prompts}"] += beyond
        _check(name, statistics)
        splits = {part: conflict_statistics(prepared(part), objectives) for part in SPLITS if native.stated}
        file = f"rows.{'parquet' if choice.parquet else 'jsonl'}"
        write_records(folder / file, _Again(prepared), objectives)
        found_doubts = doubts(prepared(), objectives)
        called = Path(name).resolve().name if Path(name).exists() else name  # a card is for others' machines
        result = Prepared(
            called, choice, found, statistics, splits, native.given_up, dict(cleaning.dropped), cleaning.contradictions,
            cleaning.unread, found_doubts, file, digest,
        )  # fmt: skip
        (folder / "README.md").write_text(data_card(result), encoding="utf-8")
    return result


class _Again:
    """Records that can be gone through more than once."""

    def __init__(self, rows: Callable[[], Iterator[Row]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row.as_record() for row in self.rows())


def _check(place: str, statistics: ConflictStatistics) -> None:
    for name in statistics.objectives:
        if statistics.ties[name] == statistics.rows:
            others = ",".join(other for other in statistics.objectives if other != name) or "..."
            raise SipoError(f"{place}: `{name}` prefers no response in any row; leave it out, --objectives {others}")
