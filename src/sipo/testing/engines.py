"""What every engine does, as tests.

class TestMine(EngineConformance):
    @pytest.fixture
    def model(self) -> Model: ...  # a small causal LM on disk, in float32
    @pytest.fixture
    def engine(self, mine: Mine) -> Engine: ...  # one may serve all tests
"""

import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from sipo.bank import Adapter, Bank, new_adapter
from sipo.bank.whole import Whole, parameters_of
from sipo.decoding import (
    FORWARD_KL,
    JENSEN_SHANNON,
    Divergence,
    Generated,
    Mixture,
    Request,
    at_mod,
    at_soup,
    base,
    seed_of,
)
from sipo.engines import Engine, Local, Span
from sipo.errors import SipoError
from sipo.logprobs.score import ScoreRequest
from sipo.models.load import Backbone, load_backbone
from sipo.settings import Decoding, Execution, Lora, Model

GREEDY, SAMPLED = Decoding(temperature=0), Decoding(temperature=0.8, top_k=40, top_p=0.95)
NEW = 8
STEM = tuple(range(10, 22))
PROMPTS = [(5, 6, 7), tuple(range(30, 50)), (8,), (*STEM, 40), (*STEM, 50, 51), STEM]
RESPONSES = [(8, 9), (10, 11, 12, 13, 14), (8,), tuple(range(60, 80))]
SHARES = (0.2, 0.3, 0.5)
MIXTURES = {
    "base": base(3),
    "policy": at_soup((0.0, 1.0, 0.0)),
    "soup": at_soup(SHARES),
    "mod": at_mod(SHARES),
    "mod of two": at_mod((0.5, 0.0, 0.5)),
    "mod, forward KL": at_mod(SHARES, FORWARD_KL),
    "mod, alpha": at_mod(SHARES, Divergence("alpha", 0.5)),
    "mod, Jensen-Shannon": at_mod(SHARES, JENSEN_SHANNON),
}
Result = TypeVar("Result")
NEAR: dict[str, Any] = {"rel": 1e-4, "abs": 1e-3}
"""How near log-probabilities are that another batch rounds otherwise, in float32."""


@dataclass(frozen=True)
class Ground:
    """A local engine over a model, and three spans; what it gives is right (its own tests see to that)."""

    local: Local
    three: Span
    one: Span
    whole: Span
    """Of two whole models; the others are of adapters."""
    end: int
    """A token that ends some of the texts."""


@lru_cache
def ground(model: Model) -> Ground:
    backbone = load_backbone(model, "cpu")
    local = Local(Execution(device="cpu", decode_rows=7, score_tokens=120), Bank(backbone))
    policies = [_random_adapter(backbone, seed, rank) for seed, rank in ((1, 3), (2, 5), (3, 2), (4, 4))]
    three, one = Span(model, tuple(policies[:3])), Span(model, tuple(policies[3:]))
    unending = texts(local, three, requests(base(3)), SAMPLED)
    models = [_another(backbone, seed) for seed in (5, 6)]
    return Ground(local, three, one, Span(model, tuple(models)), unending[0].tokens[NEW // 2])


def _random_adapter(backbone: Backbone, seed: int, rank: int) -> Adapter:
    """With a B that is not zero, so that it changes the model."""
    adapter, generator = new_adapter(backbone.model, Lora(r=rank, alpha=2.0 * rank), seed), torch.Generator()
    generator.manual_seed(seed)
    factors = {n: (a, 0.3 * torch.randn(b.shape, generator=generator)) for n, (a, b) in adapter.factors.items()}
    return Adapter(factors, adapter.scaling)


def _another(backbone: Backbone, seed: int) -> Whole:
    """The backbone with no parameter as it was."""
    generator = torch.Generator().manual_seed(seed)
    own = parameters_of(backbone.model)
    return Whole({n: w + 0.1 * w.std() * torch.randn(w.shape, generator=generator) for n, w in own.items()})


def requests(*mixtures: Mixture) -> list[Request]:
    return [Request(p, m, seed_of(p, i)) for i, m in enumerate(mixtures) for p in PROMPTS]


def responses(*mixtures: Mixture) -> list[ScoreRequest]:
    return [ScoreRequest(prompt, y, mixture) for mixture in mixtures for prompt in PROMPTS[:3] for y in RESPONSES]


def texts(
    engine: Engine, span: Span, asked: list[Request], decoding: Decoding = GREEDY, stops: tuple[int, ...] = ()
) -> list[Generated]:
    """In order, each unit having come once."""
    return _in_order(engine.generate(span, asked, decoding, NEW, stops), len(asked))


def scores(engine: Engine, span: Span, asked: list[ScoreRequest]) -> list[float]:
    return _in_order(engine.score(span, asked), len(asked))


def _in_order(results: Iterator[tuple[int, Result]], count: int) -> list[Result]:
    pairs = list(results)
    assert sorted(unit for unit, _ in pairs) == list(range(count)), "each unit comes once"
    return [dict(pairs)[unit] for unit in range(count)]


class EngineConformance:
    """Inherit it, and give it fixtures `engine` and `model`. Texts are compared by token and scores up to rounding."""

    whole = True
    """Does the engine take whole models as policies? One that does not says so."""

    @pytest.fixture
    def ground(self, model: Model) -> Ground:
        return ground(model)

    @pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
    def test_texts_of_all_mixtures_are_those_of_the_local_engine(
        self, engine: Engine, ground: Ground, decoding: Decoding
    ) -> None:
        asked = requests(*MIXTURES.values())
        found = texts(engine, ground.three, asked, decoding, (ground.end,))
        assert found == texts(ground.local, ground.three, asked, decoding, (ground.end,))
        assert {each.finished for each in found} == {True, False}
        assert all(each.finished == (each.tokens[-1] == ground.end) and len(each.tokens) <= NEW for each in found)

    def test_scores_of_all_mixtures_are_those_of_the_local_engine(self, engine: Engine, ground: Ground) -> None:
        asked = responses(*MIXTURES.values())
        found = scores(engine, ground.three, asked)
        assert found == pytest.approx(scores(ground.local, ground.three, asked), **NEAR)
        assert len({round(value, 2) for value in found}) > len(asked) / 2

    def test_what_else_is_asked_and_in_what_order_changes_nothing(self, engine: Engine, ground: Ground) -> None:
        asked, scored = requests(*MIXTURES.values())[::3], responses(*MIXTURES.values())[::5]
        whole, values = texts(engine, ground.three, asked, SAMPLED), scores(engine, ground.three, scored)
        order = random.Random(0).sample(range(len(asked)), len(asked))
        assert texts(engine, ground.three, [asked[i] for i in order], SAMPLED) == [whole[i] for i in order]
        order = random.Random(1).sample(range(len(scored)), len(scored))
        again = scores(engine, ground.three, [scored[i] for i in order])
        assert again == pytest.approx([values[i] for i in order], **NEAR)
        for part in (slice(0, 5), slice(5, 6), slice(6, None)):
            assert texts(engine, ground.three, asked[part], SAMPLED) == whole[part]
            assert scores(engine, ground.three, scored[part]) == pytest.approx(values[part], **NEAR)

    def test_equal_requests_have_equal_answers(self, engine: Engine, ground: Ground) -> None:
        first, *_ = texts(engine, ground.three, [*requests(MIXTURES["mod"])[:1] * 3], SAMPLED)
        assert texts(engine, ground.three, requests(MIXTURES["mod"])[:1] * 2, SAMPLED) == [first] * 2
        one, other = scores(engine, ground.three, responses(MIXTURES["soup"])[:1] * 2)
        assert one == pytest.approx(other, **NEAR)

    def test_what_is_done_is_left_out_and_changes_nothing(self, engine: Engine, ground: Ground) -> None:
        asked, scored = requests(*MIXTURES.values()), responses(MIXTURES["soup"], MIXTURES["mod"])
        whole, values = texts(engine, ground.three, asked, SAMPLED), scores(engine, ground.three, scored)
        done = random.Random(0).sample(range(len(asked)), len(asked) - 5)
        left = dict(engine.generate(ground.three, asked, SAMPLED, NEW, (), done))
        assert left == {unit: whole[unit] for unit in range(len(asked)) if unit not in done}
        done = random.Random(1).sample(range(len(scored)), len(scored) - 5)
        more = dict(engine.score(ground.three, scored, done))
        assert more == pytest.approx({unit: values[unit] for unit in range(len(scored)) if unit not in done}, **NEAR)
        assert not list(engine.generate(ground.three, asked, SAMPLED, NEW, (), range(len(asked))))
        assert not list(engine.score(ground.three, scored, range(len(scored))))

    def test_policies_may_be_whole_models(self, engine: Engine, ground: Ground, tmp_path: Path) -> None:
        mixtures = [base(2), at_soup((0.3, 0.7)), at_soup((1.0, 0.0)), at_mod((0.3, 0.7))]
        asked, scored = requests(*mixtures), responses(*mixtures)
        if not self.whole:
            with pytest.raises(SipoError, match="whole models"):
                list(engine.generate(ground.whole, asked, GREEDY, NEW, ()))
            return
        expected = texts(ground.local, ground.whole, asked, SAMPLED)
        assert len({each.tokens for each in expected}) > len(asked) / 2
        for number, policy in enumerate(ground.whole.loaded):
            policy.save(tmp_path / str(number), ground.local.bank(ground.whole).backbone)
        named = Span(ground.whole.model, (tmp_path / "0", tmp_path / "1"))
        assert named.key == ground.whole.key
        for span in (ground.whole, named):
            assert texts(engine, span, asked, SAMPLED) == expected
        assert scores(engine, named, scored) == pytest.approx(scores(ground.local, ground.whole, scored), **NEAR)

    def test_nothing_is_asked(self, engine: Engine, ground: Ground) -> None:
        assert not list(engine.generate(ground.three, [], GREEDY, NEW, ()))
        assert not list(engine.score(ground.three, []))

    def test_calls_over_several_spans_may_be_interleaved(self, engine: Engine, ground: Ground) -> None:
        three, one, none = requests(MIXTURES["mod"]) * 2, requests(base(1), at_mod((1.0,))), requests(base(0))
        calls = [(ground.three, three), (ground.one, one), (replace(ground.one, policies=()), none)]
        expected = [texts(ground.local, span, asked) for span, asked in calls]
        running = [engine.generate(span, asked, GREEDY, NEW, ()) for span, asked in calls]
        scoring = engine.score(ground.one, responses(at_soup((1.0,))))
        found: list[dict[int, Any]] = [{} for _ in (*running, scoring)]
        for _ in range(max(map(len, expected))):
            for mine, call in zip(found, (*running, scoring), strict=True):
                mine.update(islice(call, 1))
        *written, values = found
        assert [[mine[unit] for unit in sorted(mine)] for mine in written] == expected
        assert values == pytest.approx(dict(ground.local.score(ground.one, responses(at_soup((1.0,))))), **NEAR)

    def test_a_call_that_is_left_harms_no_other(self, engine: Engine, ground: Ground) -> None:
        asked = requests(*MIXTURES.values())
        left = engine.generate(ground.three, asked, SAMPLED, NEW, ())
        next(left)
        left.close()  # type: ignore[attr-defined]
        assert texts(engine, ground.one, requests(at_mod((1.0,)))) == texts(
            ground.local, ground.one, requests(at_mod((1.0,)))
        )

    def test_policies_that_are_not_there_are_said(self, engine: Engine, ground: Ground, tmp_path: Path) -> None:
        absent = Span(ground.one.model, (tmp_path / "absent",))
        calls = [
            (ground.one, MIXTURES["mod"], "the point .* of a span of 1 policies"),
            (ground.three, base(0), "the point .* of a span of 3 policies"),
            (absent, at_mod((1.0,)), "absent: no readable PEFT adapter"),
        ]
        for span, mixture, message in calls:
            with pytest.raises(SipoError, match=message):
                list(engine.generate(span, requests(mixture), GREEDY, NEW, ()))
            with pytest.raises(SipoError, match=message):
                list(engine.score(span, responses(mixture)))
        asked = requests(at_mod((1.0,)))
        assert texts(engine, ground.one, asked) == texts(ground.local, ground.one, asked), "it goes on"

    def test_a_span_is_its_content(self, engine: Engine, ground: Ground, tmp_path: Path) -> None:
        folders = [tmp_path / str(number) for number in range(3)]
        for folder, adapter in zip(folders, ground.three.loaded, strict=True):
            adapter.save(folder, ground.local.bank(ground.three).backbone)
        named, sent = Span(ground.three.model, tuple(folders)), pickle.loads(pickle.dumps(ground.three))
        assert named.key == sent.key == ground.three.key != ground.one.key
        assert replace(named, policies=named.policies[::-1]).key != named.key
        asked = requests(MIXTURES["mod"], MIXTURES["soup"])
        expected = texts(ground.local, ground.three, asked)
        for span in (named, sent, pickle.loads(pickle.dumps(named))):
            assert texts(engine, span, asked) == expected
