"""Training policies on preference pairs whose reference log-probabilities are already known: one, or several at once.

Several share every forward and every way back over the backbone. A row goes through it under its own policy alone, so
that what is summed for a policy is what it would have alone, in another order; all else is each policy's own.

Departures from the paper's code: no reference model is loaded (its numbers come from a table), a prompt is
computed once for all responses to it, and the loop can be killed at any moment and goes on as if it had not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from sipo.bank import Bank, Policy
from sipo.bank.everywhere import everywhere
from sipo.bank.pieces import check_divisible
from sipo.bank.policy import Point
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
from sipo.logprobs.packing import Group, batches, pack
from sipo.logprobs.score import response_logprobs
from sipo.memory import fewer
from sipo.ranks import current, joined
from sipo.training.conflict import Rule, direction
from sipo.training.learner import NAMELESS, Bar, Checkpoint, Job, Learner, Recipe, no_bar
from sipo.training.losses import accuracy, normalised_nll, preference_loss
from sipo.training.optimise import forget_failure, optimise_together

Result = TypeVar("Result")


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
    """Padded tokens in a forward: a batch's loss is added up over several, which changes rounding alone. Where the
    memory does not hold so many, they are halved from then on."""


@dataclass(frozen=True)
class Examples:
    """What a policy is trained on, and what its epochs are measured on."""

    train: Sequence[Example]
    validation: Sequence[Example] = ()


@dataclass(frozen=True)
class Trainee:
    """One policy that is to be trained. `start` is copied, never changed; policies `beneath` it belong to the frozen
    model that it is trained on.
    """

    start: Policy
    examples: Examples
    recipe: Recipe
    loss: Loss
    beneath: tuple[Policy, ...] = ()
    job: Job = NAMELESS


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


@dataclass(frozen=True)
class Part:
    """Examples of a forward that are one policy's."""

    point: Point
    """Where in the span of all mounted policies."""
    parameters: Sequence[Tensor]
    loss: Loss
    examples: Sequence[Example]


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

    A job with a checkpoint is found again after a crash: the result is the same, bit by bit. Raises SipoError for the
    first number that is not finite.
    """
    trainee = Trainee(start, examples, recipe, loss, tuple(beneath), job)
    (result,) = train_together(bank, [trainee], checkpoint=job.checkpoint, bar=job.bar)
    if isinstance(result, NotFiniteError):
        raise result
    return result


def train_together(
    bank: Bank, trainees: Sequence[Trainee], *, checkpoint: Checkpoint | None = None, bar: Bar = no_bar
) -> list[Trained | NotFiniteError]:
    """Train several policies of one kind in the same steps: of each what `train` makes of it alone, up to the order of
    sums, or the error that it would raise; one that has ended so is no hindrance to the others.

    All are kept in one `checkpoint`, after which they go on bit by bit.
    """
    for each in trainees:
        if not each.examples.train:
            raise SipoError("there is nothing to train on: no row carries a preference for this objective")
    ranks = joined()
    if ranks is not None and ranks.sharded:
        ways = any(each.loss.weighting.rule != "sum" for each in trainees)
        check_divisible(ranks.sharded, any(each.start.apart for each in trainees), ways)
    layers = list(dict.fromkeys(layer for each in trainees for layer in each.start.layers))
    told, jobs = [replace(each, job=NAMELESS) for each in trainees], [each.job for each in trainees]
    return everywhere(_train_together, bank, layers, told, jobs=jobs, checkpoint=checkpoint, bar=bar)


def _train_together(
    bank: Bank,
    trainees: Sequence[Trainee],
    *,
    jobs: Sequence[Job] = (),
    checkpoint: Checkpoint | None = None,
    bar: Bar = no_bar,
) -> list[Trained | NotFiniteError]:
    """`jobs`, one for each where people and the disk are told, are those of rank 0."""
    trainees = [replace(each, job=job) for each, job in zip(trainees, jobs, strict=True)] if jobs else trainees
    beneath = list(dict.fromkeys(policy for each in trainees for policy in each.beneath))
    policies = [each.start.trainable_copy(bank.device) for each in trainees]
    learners = [
        Learner(p.parameters, len(each.examples.train), each.recipe, each.job, validated=bool(each.examples.validation))
        for p, each in zip(policies, trainees, strict=True)
    ]
    points = [
        tuple(float(policy is mine or policy in each.beneath) for policy in [*beneath, *policies])
        for mine, each in zip(policies, trainees, strict=True)
    ]

    def part(place: int, examples: Sequence[Example]) -> Part:
        return Part(points[place], policies[place].parameters, trainees[place].loss, examples)

    def backward(batches: Mapping[int, list[int]]) -> list[dict[str, float]]:
        rows = {place: trainees[place].examples.train for place in batches}
        return _backward(bank, [part(place, [rows[place][i] for i in batch]) for place, batch in batches.items()])

    def validation(places: Sequence[int]) -> list[float]:
        return validate(bank, [part(place, trainees[place].examples.validation) for place in places])

    with bank.mounted([*beneath, *policies]):
        optimise_together(learners, backward, validation, checkpoint=checkpoint, bar=bar)
        # Where there is no validation, nobody has looked at what the last step led to.
        unseen = [place for place, each in enumerate(learners) if not (each.validated or each.failure)]
        seen = [part(place, trainees[place].examples.train[:1]) for place in unseen]
        for place, loss in zip(unseen, validate(bank, seen) if seen else [], strict=True):
            learners[place].check(loss, f"{learners[place].job.name}: loss after the last step")
        forget_failure(checkpoint, learners)
    results: list[Trained | NotFiniteError] = []
    for policy, learner in zip(policies, learners, strict=True):
        for parameter in policy.parameters:
            parameter.requires_grad_(False)
        trained = Trained(policy, learner.history)
        results.append(trained if learner.failure is None else NotFiniteError(learner.failure))
    return results


@torch.no_grad()
def validate(bank: Bank, parts: Sequence[Part]) -> list[float]:
    """Of each part the mean preference loss a pair, without the NLL; the smaller the better."""
    weights = [torch.tensor([part.loss.weighting.weights], device=bank.device) for part in parts]

    def summed(budget: int) -> dict[str, float]:
        totals = dict.fromkeys(map(str, range(len(parts))), 0.0)
        for piece, counts in _pieces(bank, parts, budget):
            for number, scored in piece.items():
                losses, _, _ = _losses(scored, parts[number].loss, weights[number])
                totals[str(number)] += float(losses.sum()) if counts else 0.0
        return totals

    totals = _fitted(bank, parts, summed)
    current().add_up((), (), totals)
    return [total / _pairs(part) for total, part in zip(totals.values(), parts, strict=True)]


def _pairs(part: Part) -> int:
    return sum(len(example.pairs) for example in part.examples)


@dataclass
class _Tally:
    """What a part's pieces add up to."""

    part: Part
    weights: Tensor
    shares: Tensor
    gradients: list[list[Tensor | None]] = field(init=False)
    numbers: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "accuracy": 0.0, "nll": 0.0})

    def __post_init__(self) -> None:
        self.gradients = [[None for _ in self.part.parameters] for _ in self.shares]
        self.pairs = _pairs(self.part)
        signs = [sign for example in self.part.examples for _, _, *each in example.pairs for sign in each]
        self.given = sum(sign != 0 for sign in signs)

    def add(self, scored: "_Scored", counts: bool) -> Tensor:
        """The piece's share of the mean losses [K] that have a gradient of their own; none where it does not count."""
        losses, nll, told = _losses(scored, self.part.loss, self.weights)
        totals = losses.sum(-1) + self.part.loss.alpha * nll.sum()
        if not counts:
            return 0 * totals
        self.numbers["loss"] += float(self.shares @ totals.detach()) / self.pairs
        self.numbers["nll"] += float(nll.detach().sum()) / self.pairs
        self.numbers["accuracy"] += told["accuracy"] * told["given"] / max(self.given, 1)
        return totals / self.pairs


def _backward(bank: Bank, parts: Sequence[Part]) -> list[dict[str, float]]:
    """The gradient of each part's mean loss, summed piece by piece; returns each part's numbers.

    A policy's gradient is the sum, over the pieces, of what its own rows give: those of others do not depend on it.
    Where objectives' gradients are combined, there is one backward for each over the graph of one forward, and each
    accumulates over all pieces, those of other ranks too, first: pieces change nothing.
    """
    tallies = _fitted(bank, parts, partial(_tallied, bank, parts))
    for tally in tallies:
        weighting, gradients, parameters = tally.part.loss.weighting, tally.gradients, tally.part.parameters
        current().add_up(parameters, gradients, tally.numbers)
        summed = weighting.rule == "sum"
        one = gradients[0] if summed else direction(gradients, weighting.weights, weighting.rule, weighting.c)
        _give(parameters, one)
    return [tally.numbers for tally in tallies]


def _tallied(bank: Bank, parts: Sequence[Part], budget: int) -> list[_Tally]:
    """Of each part, by pieces of at most so many tokens; whatever gradients there were are forgotten."""
    for part in parts:
        _give(part.parameters, [None] * len(part.parameters))
    tallies = [_Tally(part, *part.loss.weighting.terms(bank.device)) for part in parts]
    for piece, counts in _pieces(bank, parts, budget):
        mine = {number: tallies[number].add(scored, counts) for number, scored in piece.items()}
        ways = max(len(totals) for totals in mine.values())
        if current().in_step:  # whatever parts the others' pieces are of
            ways = max(len(tally.shares) for tally in tallies)
        for k in range(ways):
            taking = [number for number, totals in mine.items() if k < len(totals)]
            if not taking:
                (0 * next(iter(mine.values()))[0]).backward(retain_graph=k + 1 < ways)
                continue
            for number in taking:
                _give(parts[number].parameters, tallies[number].gradients[k])
            torch.stack([mine[number][k] for number in taking]).sum().backward(retain_graph=k + 1 < ways)
            for number in taking:
                tallies[number].gradients[k] = [parameter.grad for parameter in parts[number].parameters]
    return tallies


def _give(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@dataclass(frozen=True)
class _Scored:
    """Examples, with the log-probability [R] and the length [R] of every response to them, in order."""

    examples: list[Example]
    logprobs: Tensor
    lengths: Tensor


def _fitted(bank: Bank, parts: Sequence[Part], compute: Callable[[int], Result]) -> Result:
    """compute(budget), with as many tokens in a forward as the losses name, or as the memory holds of them."""
    budget = min((part.loss.token_budget for part in parts), default=0)
    if current().in_step:  # the forwards of other ranks wait for this one's
        return compute(budget)
    plan = partial(_planned, bank, parts)
    return bank.training_pieces.within(budget, compute, partial(fewer, plan))


def _planned(bank: Bank, parts: Sequence[Part], budget: int) -> list[tuple[list[tuple[int, Example]], bool]]:
    """This rank's rows, with the numbers of their parts, in forwards of near-equal lengths; and whether each counts
    (`Alone.pieces`).
    """
    rows = [(number, example) for number, part in enumerate(parts) for example in part.examples]

    def cut(some: Sequence[tuple[int, Example]]) -> Iterator[list[int]]:
        return batches([example.group.columns(bank.routes.packs) for _, example in some], budget)

    return current().pieces(rows, cut)


def _pieces(bank: Bank, parts: Sequence[Part], budget: int) -> Iterator[tuple[dict[int, _Scored], bool]]:
    """The forwards of at most so many tokens, whosever rows they have: in each, by part, the examples that it has of
    it; and whether it counts. The rows of a part lie side by side.
    """
    for piece, counts in _planned(bank, parts, budget):
        mine: dict[int, list[Example]] = {}
        for number, example in piece:
            mine.setdefault(number, []).append(example)
        examples = [example for each in mine.values() for example in each]
        points = torch.tensor([parts[number].point for number, each in mine.items() for _ in each])
        packed = pack([example.group for example in examples], bank.device, bank.routes.packs)
        responses = [sum(len(example.group.responses) for example in each) for each in mine.values()]
        logprobs = response_logprobs(bank, packed, points, again=True).split(responses)
        scored = map(_Scored, mine.values(), logprobs, packed.lengths.split(responses))
        yield dict(zip(mine, scored, strict=True)), counts


def _losses(scored: _Scored, loss: Loss, weights: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Preference losses [K, P] of each pair by weights [K, N], its NLL [P] (empty where none is asked for), and numbers
    for people.
    """
    examples, logprobs, device = scored.examples, scored.logprobs, scored.logprobs.device
    reference = torch.tensor([value for example in examples for value in example.reference], device=device)
    logratios = logprobs - reference
    offsets = [0]
    for example in examples:
        offsets.append(offsets[-1] + len(example.group.responses))
    pairs = [(at + i, at + j, signs) for at, e in zip(offsets, examples, strict=False) for i, j, *signs in e.pairs]
    first, second, signs = (list(column) for column in zip(*pairs, strict=True))
    difference = logratios[first] - logratios[second]
    p = torch.tensor(signs, device=device)
    margins = [margin for e in examples for margin in e.margins or [0.0] * len(e.pairs)]
    m = torch.tensor(margins, device=device)
    losses = preference_loss(difference, p, weights[:, None], loss.beta, m, loss.weighting.scale)
    chosen = [at + i for at, e in zip(offsets, examples, strict=False) if e.nll for i, *_ in e.pairs]
    nll = normalised_nll(logprobs[chosen], scored.lengths[chosen])
    told = {"given": int((p != 0).sum())}
    return losses, nll, {**told, "accuracy": float(accuracy(loss.beta * difference.detach() - m, p))}
