"""MOD's divergences against brute force: a vocabulary of three tokens, whole responses, exact arithmetic."""

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from sipo.bank import Adapter, Bank
from sipo.decoding import FORWARD_KL, JENSEN_SHANNON, REVERSE_KL, Divergence, Mixture, Request, at_mod, decode
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import slots
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.settings import Decoding

DIVERGENCES = [REVERSE_KL, FORWARD_KL, Divergence("alpha", 0.3), Divergence("alpha", 0.8), JENSEN_SHANNON]
VOCABULARY, LENGTH = 3, 3


def f_prime(kind: Divergence, x: Tensor) -> Tensor:
    """Derivative of the f that generates the divergence, up to a constant and a positive factor."""
    match kind.kind:
        case "reverse-kl":
            return x.log()
        case "forward-kl":
            return -1 / x
        case "alpha":
            return -(x**-kind.alpha)
        case "jensen-shannon":
            return (2 * x / (1 + x)).log()


def inverse(kind: Divergence, y: Tensor) -> Tensor:
    match kind.kind:
        case "reverse-kl":
            return y.exp()
        case "forward-kl":
            return -1 / y
        case "alpha":
            return (-y) ** (-1 / kind.alpha)
        case "jensen-shannon":
            return y.exp() / (2 - y.exp())


class Table:
    """A model over three tokens whose next-token probabilities depend on all that precedes."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.steps = {
            prefix: (torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) * 1.5).log_softmax(0)
            for length in range(LENGTH)
            for prefix in product(range(VOCABULARY), repeat=length)
        }

    def logprob(self, response: tuple[int, ...]) -> Tensor:
        return sum((self.steps[response[:i]][token] for i, token in enumerate(response)), torch.zeros(()).double())


def brute_force(
    models: list[Table], reference: Table, weights: tuple[float, ...], kind: Divergence, y: tuple
) -> Tensor:
    """Unnormalised pi(y) = pi_ref(y) (f')^-1( sum_i w_i f'(pi_i(y) / pi_ref(y)) ) of a whole response, by definition."""
    base = reference.logprob(y).exp()
    total = sum(w * f_prime(kind, model.logprob(y).exp() / base) for model, w in zip(models, weights, strict=True))
    return base * inverse(kind, torch.as_tensor(total))


@pytest.mark.parametrize("kind", DIVERGENCES, ids=lambda d: f"{d.kind}-{d.alpha}")
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (0.1, 0.3, 0.6)])
def test_scores_are_the_definition_on_whole_responses(kind: Divergence, weights: tuple[float, ...]) -> None:
    models, reference = [Table(seed) for seed in range(len(weights))], Table(99)
    for prefix in product(range(VOCABULARY), repeat=2):
        rows = [torch.stack([m.logprob((*prefix, v)) for v in range(VOCABULARY)]) for m in (*models, reference)]
        shares = [*weights, 0.0]
        if kind != JENSEN_SHANNON:
            rows, shares = rows[:-1], shares[:-1]
        actual = mix(torch.stack(rows)[None], torch.tensor([shares], dtype=torch.float64), kind)[0]
        expected = torch.stack([brute_force(models, reference, weights, kind, (*prefix, v)) for v in range(VOCABULARY)])
        torch.testing.assert_close(actual.softmax(0), expected / expected.sum(), rtol=1e-6, atol=1e-9)


def one_step_optimum(policies: list[Tensor], reference: Tensor, weights: Sequence[float], kind: Divergence) -> Tensor:
    """argmax of sum_i w_i E[r_i] - D_f(pi | pi_ref) over one token, where each policy is that of its own reward r_i.

    There f'(pi / pi_ref) = sum_i w_i f'(pi_i / pi_ref) + c, and c is what makes pi sum to one.
    """
    total = sum(w * f_prime(kind, each / reference) for w, each in zip(weights, policies, strict=True))

    def excess(c: float) -> float:
        return float((reference * inverse(kind, total + c)).sum()) - 1

    # f' rises from its value at 0 to that at infinity; stay inside.
    low, high = -float(total.max()) - 30.0, -float(total.max()) + 30.0
    if kind.kind != "reverse-kl":
        high = {"jensen-shannon": math.log(2)}.get(kind.kind, 0.0) - float(total.max()) - 1e-12
    return reference * inverse(kind, total + brentq(excess, low, high, xtol=1e-14))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", DIVERGENCES, ids=lambda d: f"{d.kind}-{d.alpha}")
def test_the_rule_is_the_optimum_of_one_step_for_reverse_kl_alone(kind: Divergence, seed: int) -> None:
    """For the others it drops c, the optimum's normaliser, and is off by some total variation."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 6, generator=generator, dtype=torch.float64).mul(1.5).log_softmax(-1)
    weights = (0.3, 0.7)
    *policies, reference = rows.exp()
    best = one_step_optimum(policies, reference, weights, kind)
    assert float(best.sum()) == pytest.approx(1)
    used = rows if kind == JENSEN_SHANNON else rows[:2]
    shares = torch.tensor([[*weights, 0.0][: len(used)]], dtype=torch.float64)
    variation = float((mix(used[None], shares, kind).softmax(-1)[0] - best).abs().sum()) / 2
    if kind == REVERSE_KL:
        assert variation < 1e-9
    else:
        assert variation > 1e-3


def test_the_response_so_far_counts_for_all_but_reverse_kl() -> None:
    """Adding a constant to one policy's row, as a prefix does, changes the mixture, except for reverse KL."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 7, generator=generator).log_softmax(-1)
    weights = torch.tensor([[0.4, 0.6, 0.0]])
    prefix = torch.tensor([[-1.0], [-6.0], [-3.0]])
    for kind in DIVERGENCES:
        k = 3 if kind == JENSEN_SHANNON else 2
        alone, later = (mix(each[None, :k], weights[:, :k], kind).softmax(-1) for each in (rows, rows + prefix))
        assert torch.allclose(alone, later, atol=1e-6) == (kind == REVERSE_KL), kind


@given(st.integers(0, 1000), st.sampled_from(DIVERGENCES), st.floats(0.05, 0.95))
def test_equal_policies_mix_to_themselves(seed: int, kind: Divergence, w: float) -> None:
    """So Jensen-Shannon is reverse KL there, and everything else too."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64).mul(3).log_softmax(-1)
    rows = torch.stack([policy, policy, reference] if kind == JENSEN_SHANNON else [policy, policy])
    shares = torch.tensor([w, 1 - w, 0.0][: len(rows)], dtype=torch.float64)
    mixed = mix(rows[None] - 20.0, shares[None], kind)
    torch.testing.assert_close(mixed.log_softmax(-1), policy[None], rtol=1e-7, atol=1e-7)


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_alpha_lies_between_reverse_and_forward_kl(seed: int, w: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 2, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    shares = torch.tensor([[w, 1 - w]], dtype=torch.float64)
    small, one = (mix(rows, shares, Divergence("alpha", alpha)) for alpha in (1e-7, 1.0))
    torch.testing.assert_close(small, mix(rows, shares, REVERSE_KL), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one, mix(rows, shares, FORWARD_KL))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from(DIVERGENCES), st.integers(0, 99))
def test_requests_of_a_batch_do_not_see_each_other(sizes: list[int], kind: Divergence, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks, mixtures = [], []
    for k in sizes:
        shares = torch.rand(k, generator=generator) + 0.1
        weights = [*(shares / shares.sum()).tolist(), *([0.0] if kind == JENSEN_SHANNON else [])]
        mixtures.append(Mixture(((0.0,),) * len(weights), tuple(weights), kind))
        blocks.append(torch.randn(len(weights), 4, generator=generator).log_softmax(-1))
    rows, shares = slots(mixtures, torch.device("cpu"))
    together = mix(torch.cat(blocks)[rows], shares, kind)
    for i, (block, mixture) in enumerate(zip(blocks, mixtures, strict=True)):
        alone = mix(block[None], torch.tensor([mixture.weights]), kind)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_very_likely_responses_do_not_overflow() -> None:
    rows = torch.tensor([[-1.0, -80.0], [-2.0, -90.0], [-120.0, -60.0]])
    for kind in DIVERGENCES:
        k = 3 if kind == JENSEN_SHANNON else 2
        mixed = mix(rows[None, :k], torch.tensor([[0.5, 0.5, 0.0]])[:, :k], kind)
        assert mixed.isfinite().all() and mixed.argmax() == 0, kind


def test_reverse_kl_has_a_short_cut_that_is_the_same() -> None:
    logits, weights = torch.randn(2, 2, 9), torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    slow = mix(logits.log_softmax(-1), weights, REVERSE_KL)
    fast = mix_logits(logits, weights)
    torch.testing.assert_close(fast.log_softmax(-1), slow.log_softmax(-1))


@pytest.mark.parametrize("kind", DIVERGENCES, ids=lambda d: f"{d.kind}-{d.alpha}")
def test_greedy_decoding_takes_the_best_token_of_the_mixture_of_whole_responses(
    bank: Bank, policies: list[Adapter], kind: Divergence
) -> None:
    """The fast decoder, which carries sums along, against scoring every continuation afresh."""
    mixture, prompts = at_mod((0.2, 0.3, 0.5), kind), [(5, 6, 7), (9, 4, 8, 6)]
    requests = [Request(prompt, mixture) for prompt in prompts]
    with bank.mounted(policies):
        answers = decode(bank, requests, Decoding(), 6, ())
        for prompt, answer in zip(prompts, answers, strict=True):
            for step in range(6):
                here = answer.tokens[:step]
                rows = torch.tensor(
                    [
                        score_rows(
                            bank, [(Group(prompt, tuple((*here, v) for v in range(bank.head.out_features))), p)]
                        )[0]
                        for p in mixture.points
                    ]
                )
                scores = mix(rows[None].double(), torch.tensor([mixture.weights], dtype=torch.float64), kind)[0]
                best = scores.max()
                assert scores[answer.tokens[step]] >= best - 1e-4 * abs(best), (kind, step)


@pytest.mark.parametrize("kind", DIVERGENCES, ids=lambda d: f"{d.kind}-{d.alpha}")
def test_a_corner_is_its_policy_alone(kind: Divergence) -> None:
    assert at_mod((0.0, 1.0, 0.0), kind) == Mixture(((0.0, 1.0, 0.0),), (1.0,))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_a_mixture_s_log_probabilities_are_those_of_its_point_where_it_has_one(
    bank: Bank, policies: list[Adapter], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prompt, y = (tuple(torch.randint(0, 300, (n,), generator=generator).tolist()) for n in (4, 5))
    group = Group(prompt, (y, y[:2]))
    with bank.mounted(policies):
        for point in ((0.0, 1.0, 0.0), (0.2, 0.5, 0.3)):
            expected = score_rows(bank, [(group, point)])[0]
            assert mixture_logprobs(bank, group, [Mixture((point,), (1.0,))])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", DIVERGENCES, ids=lambda d: f"{d.kind}-{d.alpha}")
def test_a_mixture_s_next_token_probabilities_sum_to_one(bank: Bank, policies: list[Adapter], kind: Divergence) -> None:
    group = Group((3, 4), tuple((7, v) for v in range(bank.head.out_features)))
    with bank.mounted(policies):
        first = mixture_logprobs(bank, Group((3, 4), ((7,),)), [at_mod((0.2, 0.3, 0.5), kind)])[0][0]
        both = mixture_logprobs(bank, group, [at_mod((0.2, 0.3, 0.5), kind)])[0]
    assert torch.tensor(both).logsumexp(0).item() == pytest.approx(first, abs=1e-3)
