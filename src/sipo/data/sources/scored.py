"""Any table of responses with scores: prompt, response, and a column of numbers for each objective."""

from collections.abc import Iterable, Iterator

from sipo.data.rows import Row
from sipo.data.sources.fields import answers as answers_of
from sipo.data.sources.fields import number, prompt
from sipo.data.sources.interface import Answer, Dropped, Record, Source, each
from sipo.data.sources.pairing import pairs
from sipo.errors import SipoError


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return pairs(answers(records, asked))


def answers(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Answer | Dropped]:
    def read(record: Record) -> Iterator[Answer]:
        value = record.value
        if not asked:
            others = ", ".join(name for name in value if name not in ("prompt", "response"))
            raise SipoError(
                "responses with scores need to know which columns are scores; say so, such as "
                f"--objectives {others.replace(' ', '') or 'helpful'}"
            )
        scores = {name: number(value, name) for name in asked}
        said, (response,) = answers_of(value, prompt(value, "prompt"), "response")
        yield Answer(said, response, scores, record.split)

    return each(records, read)


SOURCE = Source(
    "scored",
    "prompt, response, and a column for each score",
    lambda value: value.keys() >= {"prompt", "response"},
    rows,
    answers=answers,
    general=4,
)
