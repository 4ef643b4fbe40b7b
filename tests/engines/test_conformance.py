"""The engines of this environment, each held to what every engine does."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sipo.engines import Engine, Local, Pool
from sipo.models.load import Backbone
from sipo.settings import Execution, Model
from sipo.testing.engines import EngineConformance


@pytest.fixture
def model(backbone: Backbone) -> Model:
    return backbone.settings


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    """With other batches than the one that engines are held against."""
    with closing(Local(Execution(device="cpu", decode_rows=3, score_tokens=60))) as engine:
        yield engine


class TestLocal(EngineConformance):
    @pytest.fixture
    def engine(self, local: Local) -> Engine:
        return local


class TestPool(EngineConformance):
    @pytest.fixture
    def engine(self, pool: Pool) -> Engine:
        return pool
