"""PKU-SafeRLHF, in the schemas of the 10K, the 30K and the v1.0 release, which share the columns read here.

The paper calls its use of the first two BeaverTails: it trains on the 10K set and tests on 500 prompts of the 30K
set's test split (SIPO, section 4.1).
"""

from collections.abc import Iterable, Iterator

from sipo.data.rows import Row
from sipo.data.sources.fields import label, pair, prompt
from sipo.data.sources.interface import Dropped, Hub, Known, Record, Source, each

LICENCE = "CC-BY-NC-4.0"
LABELS = {"helpful": "better_response_id", "harmless": "safer_response_id"}
TEN, THIRTY = "PKU-Alignment/PKU-SafeRLHF-10K", "PKU-Alignment/PKU-SafeRLHF-30K"


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return each(records, _row)


def _row(record: Record) -> Iterator[Row]:
    value = record.value
    preferred = {name: label(value, column) for name, column in LABELS.items()}
    asked, responses = pair(value, prompt(value, "prompt"), "response_0", "response_1")
    yield Row(asked, responses, preferred, record.split)


SOURCE = Source(
    "pku-saferlhf",
    "prompt, response_0, response_1, better_response_id, safer_response_id",
    lambda value: value.keys() >= {"response_0", "response_1", *LABELS.values()},
    rows,
    (
        Known("pku-saferlhf", (Hub("PKU-Alignment/PKU-SafeRLHF"),), LICENCE),
        Known("pku-saferlhf-10k", (Hub(TEN),), LICENCE),
        Known("pku-saferlhf-30k", (Hub(THIRTY),), LICENCE),
        Known("beavertails", (Hub(TEN, splits=("train",)), Hub(THIRTY, splits=("test",))), LICENCE, test_prompts=500),
    ),
)
