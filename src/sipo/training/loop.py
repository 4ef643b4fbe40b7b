"""Training one policy on preference pairs whose reference log-probabilities are already known.

Departures from the paper's code: no reference model is loaded (its numbers come from a table), a prompt is
computed once for all responses to it, and the loop can be killed at any moment and goes on as if it had not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sipo.bank import Bank, Policy
from sipo.errors import SipoError
from sipo.finite import finite
from sipo.logprobs.packing import Group, batches, pack
from sipo.logprobs.score import response_logprobs
from sipo.training.conflict import Rule, direction
from sipo.training.learner import NAMELESS, Job, Recipe
from sipo.training.losses import accuracy, normalised_nll, preference_loss
from sipo.training.optimise import optimise


@dataclass(frozen=True)
class Example:
    """One prompt, the responses to it, and what training wants of them."""

    group: Group
    reference: tuple[float, ...]
    """log pi_ref of each response."""
    pairs: tuple[tuple[Any, ...], ...]
    """(index of y_1, index of y_0, p_1, .., p_N): +1 where an objective prefers y_1, -1 where y_0, 0 for neither."""
    margins: tuple[float, ...] | None = None
    """m of each pair (MODPO); None for none."""
    nll: bool = False
    """Does the NLL term raise the first response of each pair?"""


@dataclass(frozen=True)
class Weighting:
    """How a pair's losses add up: w_i of each objective, and the scale s (see `preference_loss`).

    Under another `rule` than sum it is the gradients of the objectives' mean losses over a batch that are combined (see
    `combine`); the loss that is told, and that validation looks at, stays the weighted sum.
    """

    weights: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    rule: Rule = "sum"
    c: float = 0.0

    def terms(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The losses with a gradient of their own: the objectives' weights in each [K, N], and its share of all [K]."""
        weights = torch.tensor(self.weights, device=device)
        one = torch.ones(1, device=device)
        return (weights[None], one) if self.rule == "sum" else (torch.eye(len(weights), device=device), weights)


SINGLE = Weighting()


@dataclass(frozen=True)
class Loss:
    """The preference loss, plus alpha times the normalised NLL (SIPO, Eq. 2 and Eq. 8)."""

    beta: float
    """How near the policy stays to its reference."""
    weighting: Weighting = SINGLE
    alpha: float = 0.0
    token_budget: int = 4096
    """Padded tokens in a forward: a batch's loss is added up over several, which changes rounding alone."""


@dataclass(frozen=True)
class Examples:
    """What a policy is trained on, and what its epochs are measured on."""

    train: Sequence[Example]
    validation: Sequence[Example] = ()


@dataclass(frozen=True)
class Trained:
    policy: Policy
    history: list[dict[str, float]]
    """One record an optimizer step: step, epoch, loss, accuracy, nll; and validation_loss where it was taken; the first
    also has start_validation_loss, that of the start.
    """

    @property
    def stayed(self) -> tuple[float, float] | None:
        """The validation loss of the start and of the best epoch, where no epoch is better; None where one is."""
        losses = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        start = self.history[0].get("start_validation_loss")
        return (start, min(losses)) if start is not None and losses and min(losses) >= start else None


def train(
    bank: Bank,
    start: Policy,
    examples: Examples,
    recipe: Recipe,
    loss: Loss,
    *,
    beneath: Sequence[Policy] = (),
    job: Job = NAMELESS,
) -> Trained:
    """Minimise the loss over the examples, and say what became of the policy.

    `start` is copied, never changed. Policies `beneath` it belong to the frozen model that it is trained on. A job with
    a checkpoint is found again after a crash: the result is the same, bit by bit.

    Raises SipoError for the first number that is not finite.
    """
    rows, validation = examples.train, examples.validation
    if not rows:
        raise SipoError("there is nothing to train on: no row carries a preference for this objective")
    policy = start.trainable_copy(bank.device)
    with bank.mounted([*beneath, policy]):
        history = optimise(
            policy.parameters,
            len(rows),
            lambda batch: _backward(bank, [rows[i] for i in batch], loss),
            recipe,
            validate=(lambda: validate(bank, validation, loss)) if validation else None,
            job=job,
        )
        if not validation:  # else the last step was looked at
            finite(validate(bank, rows[:1], loss), f"{job.name}: loss after the last step", job.way_out)
    for parameter in policy.parameters:
        parameter.requires_grad_(False)
    return Trained(policy, history)


@torch.no_grad()
def validate(bank: Bank, examples: Sequence[Example], loss: Loss) -> float:
    """Mean preference loss a pair, without the NLL; the smaller the better."""
    total = pairs = 0.0
    weights = torch.tensor([loss.weighting.weights], device=bank.device)
    for indices in batches([e.group.columns(bank.routes.packs) for e in examples], loss.token_budget):
        losses, _, numbers = _losses(bank, [examples[i] for i in indices], loss, weights)
        total += float(losses.sum())
        pairs += numbers["pairs"]
    return total / pairs


def _backward(bank: Bank, batch: list[Example], loss: Loss) -> dict[str, float]:
    """Accumulate the gradient of the batch's mean loss, piece by piece; returns the batch's numbers.

    Where objectives' gradients are combined, there is one backward for each over the graph of one forward, and each
    accumulates over all pieces first: pieces change nothing.
    """
    weighting = loss.weighting
    pairs = sum(len(example.pairs) for example in batch)
    given = sum(sign != 0 for example in batch for _, _, *signs in example.pairs for sign in signs)
    sums = {"loss": 0.0, "accuracy": 0.0, "nll": 0.0}
    weights, shares = weighting.terms(bank.device)
    parameters = bank.policies[-1].parameters
    gradients: list[list[Tensor | None]] = [[parameter.grad for parameter in parameters] for _ in shares]
    for indices in batches([e.group.columns(bank.routes.packs) for e in batch], loss.token_budget):
        losses, nll, numbers = _losses(bank, [batch[i] for i in indices], loss, weights)
        totals = losses.sum(-1) + loss.alpha * nll.sum()
        for k, total in enumerate(totals):
            _give(parameters, gradients[k])
            (total / pairs).backward(retain_graph=k + 1 < len(totals))
            gradients[k] = [parameter.grad for parameter in parameters]
        sums["loss"] += float(shares @ totals.detach()) / pairs
        sums["nll"] += float(nll.detach().sum()) / pairs
        sums["accuracy"] += numbers["accuracy"] * numbers["given"] / max(given, 1)
    if weighting.rule != "sum":
        _give(parameters, direction(gradients, weighting.weights, weighting.rule, weighting.c))
    return sums


def _give(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _losses(
    bank: Bank, examples: list[Example], loss: Loss, weights: Tensor
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Preference losses [K, P] of each pair by weights [K, N], its NLL [P] (empty where none is asked for), and numbers
    for people.
    """
    packed = pack([example.group for example in examples], bank.device, bank.routes.packs)
    logprobs = response_logprobs(bank, packed, torch.ones(len(examples), len(bank.policies)), again=True)
    reference = torch.tensor([value for example in examples for value in example.reference], device=bank.device)
    logratios = logprobs - reference
    offsets = [0]
    for example in examples:
        offsets.append(offsets[-1] + len(example.group.responses))
    pairs = [(at + i, at + j, signs) for at, e in zip(offsets, examples, strict=False) for i, j, *signs in e.pairs]
    first, second, signs = (list(column) for column in zip(*pairs, strict=True))
    difference = logratios[first] - logratios[second]
    p = torch.tensor(signs, device=bank.device)
    margins = [margin for e in examples for margin in e.margins or [0.0] * len(e.pairs)]
    m = torch.tensor(margins, device=bank.device)
    losses = preference_loss(difference, p, weights[:, None], loss.beta, m, loss.weighting.scale)
    chosen = [at + i for at, e in zip(offsets, examples, strict=False) if e.nll for i, *_ in e.pairs]
    nll = normalised_nll(logprobs[chosen], packed.lengths[chosen])
    told = {"pairs": len(pairs), "given": int((p != 0).sum())}
    return losses, nll, {**told, "accuracy": float(accuracy(loss.beta * difference.detach() - m, p))}
