"""One pool for all tests of engines: its workers take seconds to start."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sipo.bank import Bank
from sipo.config import Execution
from sipo.engines import Pool


@pytest.fixture(scope="session")
def pool(bank: Bank) -> Iterator[Pool]:
    execution = Execution(device="cpu", engine="pool", workers=2, decode_rows=7, score_tokens=120)
    with closing(Pool(execution, bank)) as pool:
        yield pool
