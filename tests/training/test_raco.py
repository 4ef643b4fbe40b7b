"""Training on combined gradients against weighted sums, single objectives, and itself in other pieces."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sipo.bank import Adapter, Bank
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.settings import Training
from sipo.training import loop
from sipo.training.conflict import Rule, combine, direction, gram
from sipo.training.learner import NAMELESS, Checkpoint, Job, Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Weighting, train
from sipo.weights import corners

SETTINGS = Training(beta=0.5, epochs=2, batch_size=4, max_grad_norm=1e6)
"""Without clipping, AdamW's steps do not depend on the length of the gradients."""
W = (0.5, 0.2, 0.3)
Fit = Callable[..., Trained]


@pytest.fixture(scope="module")
def examples(bank: Bank) -> list[Example]:
    """Ten rows on which three objectives agree, conflict, or prefer nothing."""
    draw = np.random.default_rng(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(draw.integers(5, 200, n).tolist())

    groups = [Group(tokens(2 + i % 4), (tokens(3), tokens(1 + i % 3))) for i in range(10)]
    with bank.mounted([]):
        references = [score_rows(bank, [(group, ())])[0] for group in groups]
    signs = draw.choice([-1.0, 1.0, 1.0, 0.0], size=(10, 3))
    signs[:, 0] = 1.0
    return [
        Example(group, tuple(reference), ((1, 0, *row.tolist()),))
        for group, reference, row in zip(groups, references, signs, strict=True)
    ]


@pytest.fixture(scope="module")
def fit(bank: Bank, policies: list[Adapter]) -> Fit:
    def trained(examples: list[Example], weighting: Weighting, budget: int = 4096, job: Job = NAMELESS) -> Trained:
        loss = Loss(SETTINGS.beta, weighting, token_budget=budget)
        return train(bank, policies[0], Examples(examples), Recipe(SETTINGS, 1e-3, 0), loss, job=job)

    return trained


def preferring(examples: list[Example], *columns: int) -> list[Example]:
    """The same rows, with the preferences of these objectives."""
    return [replace(e, pairs=tuple((i, j, *(signs[k] for k in columns)) for i, j, *signs in e.pairs)) for e in examples]


def same(one: Trained, other: Trained) -> None:
    for a, b in zip(one.policy.parameters, other.policy.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


def apart(one: Trained, other: Trained) -> float:
    pairs = zip(one.policy.parameters, other.policy.parameters, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("rule", ["raco", "cagrad", "mgda"])
def test_a_batch_s_gradient_is_the_rule_over_those_of_each_objective(
    bank: Bank, policies: list[Adapter], examples: list[Example], rule: Rule
) -> None:
    adapter = policies[0].trainable_copy(bank.device)

    def gradient(weighting: Weighting, budget: int) -> torch.Tensor:
        for parameter in adapter.parameters:
            parameter.grad = None
        loss = Loss(SETTINGS.beta, weighting, token_budget=budget)
        loop._backward(bank, [loop.Part((1.0,), adapter.parameters, loss, examples)])
        return torch.cat([parameter.grad.flatten() for parameter in adapter.parameters if parameter.grad is not None])

    with bank.mounted([adapter]):
        each = torch.stack([gradient(Weighting(corner), 10_000) for corner in corners(3)])
        a = combine((each @ each.T).double().numpy(), np.array(W), rule, 0.4)
        expected = torch.tensor(a, dtype=torch.float32) @ each
        for budget in (1, 30, 10_000):
            actual = gradient(Weighting(W, rule=rule, c=0.4), budget)
            assert float((actual - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_without_a_correction_it_is_lw_however_a_batch_is_cut(fit: Fit, examples: list[Example], budget: int) -> None:
    lw = fit(examples, Weighting(W))
    sums = fit(examples, Weighting(W, rule="raco", c=0.0), budget)
    same(sums, lw)
    for mine, theirs in zip(sums.history, lw.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("rule", ["raco", "cagrad", "mgda"])
def test_a_correction_changes_the_model_and_its_pieces_do_not(fit: Fit, examples: list[Example], rule: Rule) -> None:
    whole, cut = (fit(examples, Weighting(W, rule=rule, c=0.8), budget) for budget in (10_000, 1))
    same(whole, cut)
    assert apart(whole, fit(examples, Weighting(W))) > 5e-4


@pytest.mark.parametrize("rule", ["raco", "cagrad", "mgda"])
def test_one_objective_alone_or_several_times_is_dpo(fit: Fit, examples: list[Example], rule: Rule) -> None:
    dpo = fit(preferring(examples, 0), Weighting())
    same(fit(preferring(examples, 0), Weighting((1.0,), rule=rule, c=0.4)), dpo)
    same(fit(preferring(examples, 0, 0, 0), Weighting(W, rule=rule, c=0.4)), dpo)


@pytest.mark.parametrize("rule", ["raco", "cagrad", "mgda"])
def test_an_objective_that_prefers_nothing_changes_nothing(fit: Fit, examples: list[Example], rule: Rule) -> None:
    silent = [replace(e, pairs=tuple((*pair, 0.0) for pair in e.pairs)) for e in preferring(examples, 0, 1)]
    with_it = fit(silent, Weighting(W, rule=rule, c=0.4))
    same(with_it, fit(preferring(examples, 0, 1), Weighting(W[:2], rule=rule, c=0.4)))


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_an_undisturbed_one(fit: Fit, examples: list[Example], tmp_path: Path) -> None:
    """Bit by bit."""
    weighting = Weighting(W, rule="raco", c=0.4)
    undisturbed = fit(examples, weighting)
    checkpoint = Checkpoint(tmp_path / "a.pt", 0)

    def kill(record: dict[str, float]) -> None:
        if record["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(examples, weighting, job=Job(checkpoint=checkpoint, watch=kill))
    resumed = fit(examples, weighting, job=Job(checkpoint=checkpoint))
    assert resumed.history == undisturbed.history
    assert resumed.policy.identity == undisturbed.policy.identity


def test_what_a_loss_does_not_depend_on_has_no_gradient() -> None:
    """As layers that no token of a batch passed through."""
    x, y = torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])
    gradients = [[x, None, None], [None, y, None]]
    assert gram(gradients).tolist() == [[25.0, 0.0], [0.0, 1.0]]
    first, second, third = direction(gradients, (0.5, 0.5), "sum", 0.0)
    assert first is not None and first.tolist() == [1.5, 2.0]
    assert second is not None and second.tolist() == [[0.5]] and third is None
