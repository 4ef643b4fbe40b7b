"""Workers that die, that fail, and that are left alone."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sipo.bank import Adapter, Bank
from sipo.decoding import Generated, at_mod
from sipo.disk.journal import Journal
from sipo.engines import Local, Pool, Span, answer
from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.testing.engines import GREEDY, MIXTURES, NEW, SAMPLED, requests, responses, texts


@pytest.fixture
def span(bank: Bank, policies: list[Adapter]) -> Span:
    return Span(bank.backbone.settings, tuple(policies))


@dataclass
class Deadly:
    """The pool, one of whose workers is killed when a unit has come."""

    pool: Pool

    def generate(self, *asked: Any) -> Iterator[tuple[int, Generated]]:
        for count, result in enumerate(self.pool.generate(*asked)):
            yield result
            if count == 8:
                self.pool._workers[1].process.kill()


def test_a_worker_that_dies_is_one_line_and_what_is_finished_is_kept(pool: Pool, span: Span, tmp_path: Path) -> None:
    asked = requests(*MIXTURES.values())

    def answers(engine: Any) -> list[Generated]:
        return answer(engine, span, asked, SAMPLED, NEW, (), Journal(tmp_path, "x", Progress(quiet=True)))

    said = r"worker 2 of the pool was killed by SIGKILL while it wrote \d+ texts .*; what is finished is kept"
    with pytest.raises(SipoError, match=said):
        answers(Deadly(pool))
    kept = (tmp_path / ".journal" / "x.jsonl").read_text().count("\n")
    assert 8 < kept < len(asked)
    assert answers(pool) == texts(Local(pool.execution, pool._bank), span, asked, SAMPLED)


def test_what_fails_in_a_worker_is_raised_here_and_the_pool_goes_on(pool: Pool, span: Span) -> None:
    broken = Adapter({n: (a, b * torch.inf) for n, (a, b) in span.loaded[0].factors.items()}, 1.0)
    asked = requests(at_mod((1.0,)))
    with pytest.raises(SipoError, match="the model's logits are not finite"):
        list(pool.generate(Span(span.model, (broken,)), asked, GREEDY, NEW, ()))
    elsewhere = Span(span.model.model_copy(update={"path": "/nowhere"}), span.loaded[:1])
    with pytest.raises(SipoError, match="/nowhere"):
        list(pool.generate(elsewhere, asked, GREEDY, NEW, ()))
    alone = replace(span, policies=span.policies[:1])
    assert texts(pool, alone, asked) == texts(Local(pool.execution, pool._bank), alone, asked)


def test_a_finished_call_starts_nothing(pool: Pool, bank: Bank, span: Span) -> None:
    with closing(Pool(pool.execution, bank)) as pool:
        asked = requests(MIXTURES["mod"])
        assert not list(pool.generate(span, asked, GREEDY, NEW, (), range(len(asked))))
        assert not list(pool.score(span, responses(MIXTURES["mod"]), range(len(responses(MIXTURES["mod"])))))
        assert not pool._workers


def test_a_pool_counts_the_tokens_of_its_workers(pool: Pool, span: Span) -> None:
    before = pool._bank.computed
    texts(pool, span, requests(MIXTURES["mod"]))
    by_pool, before = pool._bank.computed - before, pool._bank.computed
    texts(Local(pool.execution, pool._bank), span, requests(MIXTURES["mod"]))
    assert by_pool == pool._bank.computed - before > 0
