"""A model's adapter cut to a lower rank, and what that costs it: in its weights, and in what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sipo.bank import Adapter, cut
from sipo.decoding import at_soup
from sipo.errors import SipoError
from sipo.finished.handle import AlignedModel
from sipo.methods.interface import Aligned
from sipo.stages.answer import test_rows

ROWS = 8
"""Held-out rows, at most, whose responses tell how far what the model says has moved."""


@dataclass(frozen=True)
class Cut:
    """What a lower rank costs."""

    exact: int
    """The rank without loss."""
    errors: Mapping[str, float]
    """By layer, of its update: the relative Frobenius error, 0 to 1."""
    nats: float | None
    """By how much the log-probability of a held-out row's response moves a token, on average; None where the base
    model or the rows are not at hand."""
    responses: int
    """How many it is the average of."""

    @property
    def worst(self) -> float:
        return max(self.errors.values())

    @property
    def mean(self) -> float:
        return sum(self.errors.values()) / len(self.errors)

    @property
    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"exact_rank": self.exact, "worst": self.worst, "mean": self.mean, "nats_per_token": self.nats}

    def __str__(self) -> str:
        said = f"relative error of a layer's update {self.worst:.3f} at worst, {self.mean:.3f} on average"
        if self.nats is None:
            return f"{said}; its effect was not measured, since the base model or the rows are not at hand"
        moved = f"{self.nats:.3g} nats a token on average, over {self.responses} responses of held-out rows"
        return f"{said}; log-probabilities move by {moved}"


def cut_to(model: AlignedModel, adapter: Adapter, rank: int) -> tuple[Adapter, Cut]:
    """`adapter` is the model's own, as one."""
    smaller, errors = cut(adapter, rank)
    try:
        nats, responses = _moved(model, Aligned((smaller,), at_soup((1.0,))))
    except SipoError:
        nats, responses = None, 0
    return smaller, Cut(adapter.rank, errors, nats, responses)


def _moved(model: AlignedModel, smaller: Aligned) -> tuple[float | None, int]:
    """The mean over responses of |log pi(y | x) - log pi'(y | x)| a token, and of how many."""
    task = model.run.task
    pairs = [(row.prompt, response) for row in test_rows(task)[:ROWS] for response in task.texts(row)]
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    other = AlignedModel(model.run, model.weights, model.method, smaller)
    lengths = [len(task.codec.encode_response(response)) for response in responses]
    both = zip(model.logprobs(prompts, responses), other.logprobs(prompts, responses), lengths, strict=True)
    moved = [abs(a - b) / length for a, b, length in both]
    return (sum(moved) / len(moved), len(moved)) if moved else (None, 0)
