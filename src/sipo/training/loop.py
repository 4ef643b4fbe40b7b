"""Training one policy on preference pairs whose reference log-probabilities are already known.

Departures from the paper's code: no reference model is loaded (its numbers come from a table), a prompt is
computed once for all responses to it, and the loop can be killed at any moment and goes on as if it had not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sipo.bank import Bank, Policy
from sipo.errors import SipoError
from sipo.finite import finite
from sipo.logprobs.packing import Group, batches, pack
from sipo.logprobs.score import response_logprobs
from sipo.settings import Training
from sipo.training.conflict import Rule, direction
from sipo.training.losses import accuracy, normalised_nll, preference_loss
from sipo.training.optimise import Checkpoint, optimise


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


DPO = Weighting()


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
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: Training,
    *,
    lr: float,
    seed: int,
    weighting: Weighting = DPO,
    beneath: Sequence[Policy] = (),
    alpha: float = 0.0,
    keep_best: bool = False,
    token_budget: int = 4096,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Callable[[dict[str, float]], None] | None = None,
    name: str = "training",
    rate: str = "lr",
) -> Trained:
    """Minimise the preference loss plus alpha times the normalised NLL (SIPO, Eq. 2 and Eq. 8).

    AdamW with linear warm-up and cosine decay; `start` is copied, never changed. Policies `beneath` it belong to
    the frozen model that it is trained on. With `keep_best` the result is the epoch with the lowest validation
    loss, or the start where none is lower. With `checkpoint`, the state is saved there every `checkpoint_seconds` and
    found again after a crash: the result is the same, bit by bit.

    Raises SipoError for the first number that is not finite; `name` is what is trained, `rate` the key of `lr`.
    """
    if not examples:
        raise SipoError("there is nothing to train on: no row carries a preference for this objective")
    policy = start.trainable_copy(bank.device)
    way_out = f"lower {rate}, which is {lr:g}, or set model.dtype to float32"

    def loss_of(some: Sequence[Example]) -> float:
        return validate(bank, some, settings.beta, token_budget, weighting)

    with bank.mounted([*beneath, policy]):
        history = optimise(
            policy.parameters,
            len(examples),
            settings,
            lambda batch: _backward(bank, [examples[i] for i in batch], settings.beta, weighting, alpha, token_budget),
            lr=lr,
            seed=seed,
            validate=(lambda: loss_of(validation)) if validation else None,
            keep_best=keep_best,
            checkpoint=Checkpoint(checkpoint, checkpoint_seconds) if checkpoint else None,
            watch=watch,
            name=name,
            way_out=way_out,
        )
        if not validation:  # else the last step was looked at
            finite(loss_of(examples[:1]), f"{name}: loss after the last step", way_out)
    for parameter in policy.parameters:
        parameter.requires_grad_(False)
    return Trained(policy, history)


@torch.no_grad()
def validate(
    bank: Bank, examples: Sequence[Example], beta: float, token_budget: int, weighting: Weighting = DPO
) -> float:
    """Mean preference loss a pair; the smaller the better."""
    total = pairs = 0.0
    for indices in batches([e.group.columns(bank.routes.packs) for e in examples], token_budget):
        weights = torch.tensor([weighting.weights], device=bank.device)
        loss, _, numbers = _losses(bank, [examples[i] for i in indices], beta, weights, weighting.scale)
        total += float(loss.sum())
        pairs += numbers["pairs"]
    return total / pairs


def _backward(
    bank: Bank, batch: list[Example], beta: float, weighting: Weighting, alpha: float, budget: int
) -> dict[str, float]:
    """Accumulate the gradient of the batch's mean loss, piece by piece; returns the batch's numbers.

    Where objectives' gradients are combined, there is one backward for each over the graph of one forward, and each
    accumulates over all pieces first: pieces change nothing.
    """
    pairs = sum(len(example.pairs) for example in batch)
    given = sum(sign != 0 for example in batch for _, _, *signs in example.pairs for sign in signs)
    sums = {"loss": 0.0, "accuracy": 0.0, "nll": 0.0}
    weights, shares = weighting.terms(bank.device)
    parameters = bank.policies[-1].parameters
    gradients: list[list[Tensor | None]] = [[parameter.grad for parameter in parameters] for _ in shares]
    for indices in batches([e.group.columns(bank.routes.packs) for e in batch], budget):
        losses, nll, numbers = _losses(bank, [batch[i] for i in indices], beta, weights, weighting.scale)
        totals = losses.sum(-1) + alpha * nll.sum()
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
    bank: Bank, examples: list[Example], beta: float, weights: Tensor, scale: float
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Preference losses [K, P] of each pair by weights [K, N], its NLL [P] (empty where none is asked for), and numbers
    for people.
    """
    packed = pack([example.group for example in examples], bank.device, bank.routes.packs)
    logprobs = response_logprobs(bank, packed, torch.ones(len(examples), len(bank.policies)))
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
    losses = preference_loss(difference, p, weights[:, None], beta, m, scale)
    chosen = [at + i for at, e in zip(offsets, examples, strict=False) if e.nll for i, *_ in e.pairs]
    nll = normalised_nll(logprobs[chosen], packed.lengths[chosen])
    told = {"pairs": len(pairs), "given": int((p != 0).sum())}
    return losses, nll, {**told, "accuracy": float(accuracy(beta * difference.detach() - m, p))}
