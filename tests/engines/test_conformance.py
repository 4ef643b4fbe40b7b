"""The engines of this environment, each held to what every engine does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sipo.bank import Bank
from sipo.config import Execution, Model
from sipo.engines import Engine, Local, Pool
from sipo.models.load import load_backbone
from sipo.testing.engines import EngineConformance

EXECUTION = Execution(device="cpu", decode_rows=7, score_tokens=120)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return Model(path=str(model_folder), dtype="float32")


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    """With other batches than the one that engines are held against."""
    with closing(Local(EXECUTION.model_copy(update={"decode_rows": 3, "score_tokens": 60}))) as engine:
        yield engine


@pytest.fixture(scope="module")
def pool(model: Model) -> Iterator[Pool]:
    bank = Bank(load_backbone(model, "cpu"))
    with closing(Pool(EXECUTION.model_copy(update={"engine": "pool", "workers": 2}), bank)) as engine:
        yield engine


class TestLocal(EngineConformance):
    @pytest.fixture
    def engine(self, local: Local) -> Engine:
        return local


class TestPool(EngineConformance):
    @pytest.fixture
    def engine(self, pool: Pool) -> Engine:
        return pool
