"""Training a reward model: one backbone, one head for each objective, from pairs or from scores."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sipo.disk.content import short_digest
from sipo.errors import SipoError
from sipo.finite import finite
from sipo.logprobs.packing import batches
from sipo.memory import Pieces, fewer
from sipo.models.load import find_device, identify, pick_dtype
from sipo.progress import Progress
from sipo.ranks import current, together
from sipo.rewards.heads import Heads, rescale, start_at, with_heads, with_lora
from sipo.rewards.interface import named
from sipo.rewards.model import forward
from sipo.rewards.reading import Reader, ReadExamples
from sipo.rewards.targets import TARGETS, Target, values_of
from sipo.settings import Model
from sipo.training.learner import NAMELESS, Checkpoint, Job, Recipe
from sipo.training.optimise import optimise

LOWER = "lower the learning rate (--lr)"


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model is trained; `r` 0 trains all weights, else LoRA of that rank on every linear layer."""

    r: int = 16
    lr: float = 2e-4
    epochs: int = 1
    batch_size: int = 16
    """Examples an optimizer step."""
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    token_budget: int = 4096
    """Padded tokens in a forward; gradients accumulate over several."""
    format: str = "chat"
    """As `RewardModel.format`: scoring must use the same."""
    seed: int = 0
    max_tokens: int | None = None
    """Examples with a longer prompt and response are left out; None leaves none out."""


def plan_of(heads: Heads, prepared: ReadExamples, reader: Reader, settings: RewardTraining) -> str:
    """Names all that training depends on: only a checkpoint of the same plan may be gone on with."""
    how = [asdict(heads), identify(reader.model), asdict(settings)]
    taught = ([example.items, example.values] for example in prepared.examples)
    return short_digest(json.dumps(each).encode() for each in (how, *taught))


def train_reward_model(
    heads: Heads,
    prepared: ReadExamples,
    reader: Reader,
    settings: RewardTraining,
    *,
    device: str = "auto",
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """An ordinary sequence-classification model whose labels are the objectives; `reader` has prepared its examples.

    From scores, its logits are on their scale. Raises SipoError where an objective has nothing to learn from.
    """
    if not prepared.examples:
        raise SipoError("there is nothing to train on: no example is left; raise --max-tokens, or label some first")
    progress, target, where = progress or Progress(quiet=True), TARGETS[heads.kind], find_device(device)
    values = values_of(prepared.examples)
    scale = target.scale(values)
    _check(values, heads.objectives, scale)
    bar = partial(progress.track, "reward model", unit="steps")
    trained = together(
        _learned,
        heads,
        prepared,
        (reader.model, reader.tokenizer.pad_token_id),
        settings,
        str(where),
        job=Job("reward model", LOWER, checkpoint, bar=bar),
    )
    if settings.r:
        trained = trained.merge_and_unload()
    if scale:
        rescale(trained, scale[1])
    rewards_of(trained, ReadExamples(prepared.examples[:1], prepared.encoded[:1]), settings.token_budget)
    return trained.eval().requires_grad_(False)


def _learned(
    heads: Heads,
    prepared: ReadExamples,
    start: tuple[Model, int | None],
    settings: RewardTraining,
    device: str,
    job: Job = NAMELESS,
) -> Any:
    """The network, whose logits are in units of the scores' spread; with LoRA, PEFT's around it. `start` is what it
    begins as, and its padding token.
    """
    target, values = TARGETS[heads.kind], values_of(prepared.examples)
    scale = target.scale(values)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network, new = with_heads(start[0], heads.objectives, start[1])
        network.to(device).eval()  # type: ignore[arg-type]  # no dropout: a step depends on nothing but its batch
        if scale:
            start_at(network, scale[0] / scale[1], prepared, settings.token_budget)
            values = values / scale[1]
        pieces = Pieces("tokens", None)
        trained: Any = with_lora(network, new, settings.r) if settings.r else network
        optimise(
            [parameter for parameter in trained.parameters() if parameter.requires_grad],
            len(values),
            lambda batch: _backward(trained, target, prepared, values, batch, settings.token_budget, pieces),
            Recipe(settings, settings.lr, settings.seed),
            job=job,
        )
    return trained


@torch.no_grad()
def rewards_of(model: Any, prepared: ReadExamples, budget: int) -> Tensor:
    """The numbers of all responses by all heads [R, N], the examples' responses in order.

    Raises SipoError where one is not finite.
    """
    flat = [one for each in prepared.encoded for one in each]
    rewards, pieces = torch.zeros(len(flat), model.config.num_labels), Pieces("responses", None)
    for indices in batches([len(one["input_ids"]) for one in flat], budget):
        some = [flat[index] for index in indices]
        rewards[indices] = torch.stack(pieces.slices(some, lambda part: [*forward(model, part).cpu()]))
    named_so = [named(item) for example in prepared.examples for item in example.items]
    finite(rewards, lambda place: f"the trained model's reward for {named_so[place // rewards.shape[1]]}", LOWER)
    return rewards


def _check(values: Tensor, objectives: Sequence[str], scale: tuple[Tensor, Tensor] | None) -> None:
    for column, name in enumerate(objectives):
        if bool(values[:, column].isnan().all()):
            why = "no label or score in training"
        elif scale and float(scale[1][column]) == 0:
            why = "the same score for all training responses"
        else:
            continue
        others = ",".join(other for other in objectives if other != name) or "..."
        raise SipoError(f"`{name}` has {why}; leave it out, --objectives {others}")


def _backward(
    model: Any, target: Target, prepared: ReadExamples, values: Tensor, batch: list[int], budget: int, pieces: Pieces
) -> dict[str, float]:
    """The gradient of the batch's mean loss a value, in bf16 where the hardware multiplies it; returns the loss."""
    device, known = model.device, int((~values[batch].isnan()).sum())

    def plan(tokens: int) -> list[tuple[list[int], bool]]:
        return current().pieces(batch, lambda some: batches([prepared.sizes[index] for index in some], tokens))

    def summed(tokens: int) -> float:
        model.zero_grad(set_to_none=True)
        loss = 0.0
        for indices, _ in plan(tokens):
            with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
                logits = forward(model, [one for index in indices for one in prepared.encoded[index]])
            rewards = logits.reshape(len(indices), -1, values.shape[1])
            part = target.loss(rewards, values[indices].to(device)) / known
            part.backward()
            loss += float(part.detach())
        return loss

    told = {"loss": pieces.within(budget, summed, lambda tokens: fewer(plan, tokens))}
    parameters = [each for each in model.parameters() if each.requires_grad]
    gradients = [each.grad for each in parameters]
    current().add_up(parameters, [gradients], told)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return told
