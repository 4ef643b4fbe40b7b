"""MOD against separate full forwards and transformers' own generation, alone and in every kind of batch."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from sipo.bank import Adapter, Bank
from sipo.decoding import (
    Generated,
    Mixture,
    Request,
    at_mod,
    at_soup,
    base,
    decode,
    running,
    seed_of,
)
from sipo.decoding import decode as decode_function
from sipo.decoding.batch import Batch
from sipo.decoding.mixing import mix_logits
from sipo.decoding.sampling import next_tokens, uniforms
from sipo.disk.journal import Journal
from sipo.engines import Local, Span, answer, batched
from sipo.engines.batched import text_plan
from sipo.progress import Progress
from sipo.settings import Decoding, Execution

decode_module = sys.modules[decode_function.__module__]

GREEDY, SAMPLED = Decoding(temperature=0), Decoding(temperature=0.8, top_k=40, top_p=0.95)
NEW = 10
NEVER = -1
"""An end token that no model writes."""

STEM = tuple(range(10, 22))
PROMPTS = {
    "apart": [(5, 6, 7), tuple(range(30, 50)), (8,), (60, 5, 6, 7, 9)],
    "common prefix": [(*STEM, 40), (*STEM, 50, 51, 52), (*STEM, 60, 61)],
    "prefix of another": [STEM, (*STEM, 50, 51, 52), (*STEM, 50), (*STEM, 50, 51, 52)],
    "equal": [STEM, STEM],
}
MIXTURES = [
    base(3), at_mod((0.2, 0.3, 0.5)), at_soup((0.2, 0.3, 0.5)), at_mod((1.0, 0.0, 0.0)),
    at_mod((0.5, 0.0, 0.5)), at_soup((0.0, 0.0, 1.0)), at_soup((0.6, 0.4, 0.0)),
]  # fmt: skip


def batch_of(prompts: list[tuple[int, ...]]) -> list[Request]:
    """Every prompt under every method and weight, each with noise of its own."""
    return [Request(p, m, seed_of(p, i)) for i, m in enumerate(MIXTURES) for p in prompts]


def run(
    bank: Bank, policies: list[Adapter], asked: list[Request], decoding: Decoding = GREEDY, end: int = NEVER
) -> list[Generated]:
    with bank.mounted(policies):
        return decode(bank, asked, decoding, NEW, (end,))


def alone(
    bank: Bank, policies: list[Adapter], asked: list[Request], decoding: Decoding = GREEDY, end: int = NEVER
) -> list[Generated]:
    return [run(bank, policies, [request], decoding, end)[0] for request in asked]


@pytest.fixture(scope="module")
def frequent(bank: Bank, policies: list[Adapter]) -> int:
    """The token that ends most of the texts early, when it is taken for the end."""
    texts = run(bank, policies, [r for prompts in PROMPTS.values() for r in batch_of(prompts)], SAMPLED)
    return Counter(token for text in texts for token in set(text.tokens)).most_common(1)[0][0]


@torch.no_grad()
def oracle(models: list[PeftModel], weights: tuple[float, ...], prompt: tuple[int, ...], end: int) -> Generated:
    """MOD by its definition: N whole forwards a token, no cache, no batch."""
    tokens: list[int] = []
    while len(tokens) < NEW and end not in tokens:
        ids = torch.tensor([[*prompt, *tokens]])
        logprobs = [model(input_ids=ids).logits[0, -1].float().log_softmax(-1) for model in models]
        mixed = sum(w * each for w, each in zip(weights, logprobs, strict=True))
        tokens.append(int(mixed.argmax()))  # type: ignore[union-attr]
    return Generated(tuple(tokens), end in tokens)


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (0.6, 0.0, 0.4), (0.0, 1.0, 0.0)])
def test_mod_is_the_weighted_sum_of_log_probabilities(
    bank: Bank,
    policies: list[Adapter],
    peft_models: list[PeftModel],
    frequent: int,
    weights: tuple[float, ...],
) -> None:
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    for end in (NEVER, frequent):
        actual = run(bank, policies, [Request(p, at_mod(weights)) for p in prompts], end=end)
        assert actual == [oracle(peft_models, weights, p, end) for p in prompts]


@pytest.mark.parametrize("i", range(3))
def test_a_one_hot_weight_is_that_policy_token_by_token(
    bank: Bank, policies: list[Adapter], peft_models: list[PeftModel], frequent: int, i: int
) -> None:
    prompts = PROMPTS["apart"] + PROMPTS["common prefix"]
    corners = tuple(tuple(float(a == b) for b in range(3)) for a in range(3))
    one_hot = Mixture(corners, corners[i])
    assert at_mod(corners[i]) == Mixture((corners[i],), (1.0,)), "policies without weight are not run"
    for decoding in (GREEDY, SAMPLED):
        mixed = run(bank, policies, [Request(p, one_hot, seed_of(p)) for p in prompts], decoding, frequent)
        policy = run(bank, policies, [Request(p, at_mod(corners[i]), seed_of(p)) for p in prompts], decoding, frequent)
        only = run(bank, [policies[i]], [Request(p, at_mod((1.0,)), seed_of(p)) for p in prompts], decoding, frequent)
        assert mixed == policy == only
    for prompt, actual in zip(
        prompts, run(bank, policies, [Request(p, at_mod(corners[i])) for p in prompts]), strict=True
    ):
        expected = peft_models[i].generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert actual.tokens == tuple(expected[0, len(prompt) :].tolist())


def test_the_base_is_the_model_itself(bank: Bank, policies: list[Adapter]) -> None:
    prompts = PROMPTS["apart"]
    without = run(bank, [], [Request(p, base(0)) for p in prompts])
    assert run(bank, policies, [Request(p, base(3)) for p in prompts]) == without
    for prompt, actual in zip(prompts, without, strict=True):
        expected = bank.model.generate(
            input_ids=torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert actual.tokens == tuple(expected[0, len(prompt) :].tolist())


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_batches_equal_decoding_one_by_one(
    bank: Bank, policies: list[Adapter], frequent: int, kind: str, decoding: Decoding
) -> None:
    asked = batch_of(PROMPTS[kind])
    together = run(bank, policies, asked, decoding, frequent)
    assert together == alone(bank, policies, asked, decoding, frequent)
    assert together[::-1] == run(bank, policies, asked[::-1], decoding, frequent)


def test_all_kinds_of_prompts_in_one_batch(bank: Bank, policies: list[Adapter], frequent: int) -> None:
    asked = [request for prompts in PROMPTS.values() for request in batch_of(prompts)]
    together = run(bank, policies, asked, SAMPLED, frequent)
    assert together == [
        each for prompts in PROMPTS.values() for each in run(bank, policies, batch_of(prompts), SAMPLED, frequent)
    ]


@pytest.mark.parametrize("share", [0.0, 0.75, 2.0])
def test_when_finished_requests_leave_changes_nothing(
    bank: Bank, policies: list[Adapter], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every sixth token ends a text, so that many end at each step.
    monkeypatch.setattr(running, "_ended", lambda tokens, stops: bool(tokens) and tokens[-1] % 6 == 0)
    asked = [request for prompts in PROMPTS.values() for request in batch_of(prompts)]
    expected = alone(bank, policies, asked, SAMPLED)
    lengths = {len(each.tokens) for each in expected if each.finished}
    assert len(lengths) > 5 and any(not each.finished for each in expected), "texts must end at different times"
    compactions = []
    keep = Batch.keep

    def counted(self: Batch, slots: list[int]) -> Batch:
        compactions.append(len(slots))
        return keep(self, slots)

    monkeypatch.setattr(Batch, "keep", counted)
    monkeypatch.setattr(running, "COMPACT_BELOW", share)
    assert run(bank, policies, asked, SAMPLED) == expected
    assert bool(compactions) == (share > 0)


def test_the_end_token_is_kept_and_ends(bank: Bank, policies: list[Adapter], frequent: int) -> None:
    asked = batch_of(PROMPTS["apart"])
    unending = run(bank, policies, asked)
    for text, whole in zip(run(bank, policies, asked, end=frequent), unending, strict=True):
        assert text.tokens == whole.tokens[: len(text.tokens)]
        assert text.finished == (text.tokens[-1] == frequent)
        assert frequent not in text.tokens[:-1]
        assert text.finished or len(text.tokens) == NEW


def test_every_token_is_told_once_and_in_order(bank: Bank, policies: list[Adapter], frequent: int) -> None:
    asked = batch_of(PROMPTS["apart"])
    told: list[list[int]] = [[] for _ in asked]
    with bank.mounted(policies):
        answers = decode(bank, asked, SAMPLED, NEW, (frequent,), watch=lambda r, token: told[r].append(token))
    assert [tuple(each) for each in told] == [each.tokens for each in answers]


def test_equal_seeds_see_equal_noise_and_others_do_not(bank: Bank, policies: list[Adapter]) -> None:
    mixture = at_mod((0.2, 0.3, 0.5))
    first, same, other = run(bank, policies, [Request(STEM, mixture, seed) for seed in (3, 3, 4)], SAMPLED)
    assert first == same != other


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.integers(0, 1000))
def test_a_constant_added_to_a_policy_s_logits_changes_nothing(constants: list[float], seed: int) -> None:
    logits = 3 * torch.randn(2, 2, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.tensor([[0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)
    expected = (weights[..., None] * logits.log_softmax(-1)).sum(1).log_softmax(-1)
    shifted = logits + torch.tensor(constants, dtype=torch.float64).view(2, 2, 1)
    actual, unshifted = (mix_logits(each.float(), weights.float()) for each in (shifted, logits))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.log_softmax(-1).double(), expected, rtol=1e-3, atol=1e-2)  # 1e4 costs digits
    torch.testing.assert_close(unshifted.log_softmax(-1).double(), expected, rtol=1e-5, atol=1e-5)


def test_logits_are_mixed_in_float32() -> None:
    """bfloat16 has three digits: sums of its logits choose wrong tokens."""
    logits = torch.tensor([[[10.0, 10.0625, 0.0], [10.0625, 10.0, 0.0]]]).bfloat16()
    actual = mix_logits(logits, torch.tensor([[0.501, 0.499]]))
    assert actual.argmax() == 1 and actual.dtype == torch.float32


# Choosing a token


def random_scores(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def chosen(scores: torch.Tensor, decoding: Decoding, draws: int) -> torch.Tensor:
    """What one row of scores yields at evenly spread quantiles."""
    return next_tokens(scores.expand(draws, -1), (torch.arange(draws, dtype=torch.float64) + 0.5) / draws, decoding)


def test_greedy_and_top_one_are_the_best_token() -> None:
    scores = random_scores(64, 30)
    uniform = uniforms([7] * 64, 1)[:, 0]
    for decoding in (
        Decoding(temperature=0),
        Decoding(temperature=1.3, top_k=1),
        Decoding(temperature=1, top_p=1e-9),
    ):
        assert torch.equal(next_tokens(scores, uniform, decoding), scores.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_quantiles_follow_the_distribution(temperature: float) -> None:
    """At evenly spread quantiles the counts are the probabilities, to within one draw a token."""
    scores, draws = random_scores(1, 30), 20_000
    counts = chosen(scores, Decoding(temperature=temperature), draws).bincount(minlength=30)
    assert (counts - draws * (scores[0] / temperature).double().softmax(-1)).abs().max() <= 1.01


def test_frequencies_follow_the_distribution() -> None:
    draws, decoding = 20_000, Decoding(temperature=1.0, top_k=25)
    scores = random_scores(1, 25)
    uniform = uniforms([seed_of("draws")], draws)[0]
    counts = next_tokens(scores.expand(draws, -1), uniform, decoding).bincount(minlength=25)
    expected = draws * scores[0].double().softmax(-1)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 2 * 24, "24 degrees of freedom"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.999), st.integers(0, 30))
def test_top_p_keeps_the_smallest_set_whose_mass_reaches_p(seed: int, p: float, k: int) -> None:
    scores, draws = random_scores(1, 30, seed), 4_000
    order = scores[0].argsort(descending=True)[: k or 30]
    probabilities = scores[0][order].double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    kept = int((cumulative < p - 1e-9).sum()) + 1
    counts = chosen(scores, Decoding(temperature=1.0, top_p=p, top_k=k), draws).bincount(minlength=30)[order]
    expected = torch.where(torch.arange(len(order)) < kept, probabilities, 0)
    expected = draws * expected / expected.sum()
    assert (counts - expected).abs().max() <= 1.01
    assert counts.sum() == draws


def test_extreme_quantiles_stay_inside() -> None:
    scores = torch.tensor([[0.0, -1e4, 0.0, -1e4]])
    for decoding in (
        Decoding(temperature=1.0),
        Decoding(temperature=1.0, top_p=0.9),
        Decoding(temperature=1, top_k=3),
    ):
        for quantile, expected in ((0.0, 0), (1 - 2**-53, 2)):
            assert int(next_tokens(scores, torch.tensor([quantile], dtype=torch.float64), decoding)) == expected


def test_a_request_s_noise_is_its_own() -> None:
    together = uniforms([1, 2, 3], 8)
    assert torch.equal(together, torch.cat([uniforms([seed], 8) for seed in (1, 2, 3)]))
    assert len({tuple(row.tolist()) for row in together}) == 3
    assert ((together >= 0) & (together < 1)).all()


def test_seeds_are_the_same_in_every_process() -> None:
    parts = ("sample", "0a1b", (0.2, 0.8), 3)
    code = "from sipo.decoding.sampling import seed_of; print(seed_of('sample', '0a1b', (0.2, 0.8), 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert int(other.stdout) == seed_of(*parts)
    assert len({seed_of(*parts, i) for i in range(1000)}) == 1000
    assert seed_of("ab", "c") != seed_of("a", "bc")


# Many requests


def test_answers_come_in_order_in_bounded_batches_and_once(
    bank: Bank, policies: list[Adapter], frequent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [request for prompts in PROMPTS.values() for request in batch_of(prompts)]
    asked = [*asked, *asked[:5]]
    sizes, at_once = list[int](), list[int]()

    def counted(bank: Bank, batch: list[Request], *settings: Any, rows: int) -> list[Generated]:
        sizes.append(sum(len(request.mixture.points) for request in batch))
        at_once.append(rows)
        return decode(bank, batch, *settings, rows=rows)

    monkeypatch.setattr(batched, "decode", counted)

    def answers() -> list[Generated]:
        engine, span = Local(Execution(decode_rows=7), bank), Span(bank.backbone.settings, tuple(policies))
        return answer(
            engine, span, asked, SAMPLED, NEW, {frequent}, Journal(tmp_path, "x", Progress(quiet=True)),
        )  # fmt: skip

    expected = alone(bank, policies, asked, SAMPLED, frequent)
    assert answers() == expected
    assert max(at_once) <= 7 < max(sizes) <= 7 * batched.REFILLS
    assert sum(sizes) == sum(len(request.mixture.points) for request in set(asked)), "equal requests are one"
    batches = list(sizes)
    journal = tmp_path / ".journal" / "x.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == len(set(asked)), "one for each answer"
    plan = text_plan(list(dict.fromkeys(asked)), 7 * batched.REFILLS)
    kept = sum(map(len, plan[:3])) - 1
    journal.write_text("".join(lines[:kept]) + lines[kept][:5])  # a crash while the third batch is written down
    assert answers() == expected
    assert sizes == [*batches, *batches[2:]], "what is left is planned as if nothing had been done"


@pytest.mark.parametrize("rows", [3, 5, 40])
def test_no_forward_has_more_rows_than_are_decoded_at_once(bank: Bank, policies: list[Adapter], rows: int) -> None:
    """Also where prompts begin alike and there are more models than rows."""
    weights = [(i / 8, (8 - i) / 8, 0.0) for i in range(8)]
    prompts = [(*range(20, 40), 40 + length) for length in range(len(weights))]
    requests = [Request(prompt, at_soup(w)) for prompt, w in zip(prompts, weights, strict=True)]
    requests.append(Request((*range(20, 40), 50, 51), at_mod((0.2, 0.3, 0.5))))
    seen = list[int]()
    with bank.mounted(policies):
        whole = decode_function(bank, requests, Decoding(), 9, ())
        hook = bank.model.base_model.register_forward_pre_hook(
            lambda _, __, named: seen.append(len(named["input_ids"])), with_kwargs=True
        )
        try:
            assert decode_function(bank, requests, Decoding(), 9, (), rows=rows) == whole
        finally:
            hook.remove()
    assert max(seen) <= rows


def test_a_mixture_of_more_rows_than_a_batch_still_runs(bank: Bank, policies: list[Adapter], tmp_path: Path) -> None:
    asked = [Request(prompt, at_mod((0.2, 0.3, 0.5))) for prompt in PROMPTS["apart"]]
    engine, span = Local(Execution(decode_rows=2), bank), Span(bank.backbone.settings, tuple(policies))
    answers = answer(engine, span, asked, GREEDY, NEW, {NEVER}, Journal(tmp_path, "x", Progress(quiet=True)))
    assert answers == alone(bank, policies, asked)
