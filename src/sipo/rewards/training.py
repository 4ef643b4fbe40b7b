"""Training a reward model: one backbone, one head for each objective, from pairs or from scores."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sipo.config import Model, RewardModel
from sipo.errors import SipoError
from sipo.logprobs.packing import batches
from sipo.models.load import find_device, identify, pick_dtype
from sipo.models.locate import locate
from sipo.progress import Progress
from sipo.rewards.classifier import read_config, read_tokenizer, unloadable
from sipo.rewards.examples import Example, Kind
from sipo.rewards.interface import named
from sipo.rewards.model import Encoded, check_format, context_of, encode, forward
from sipo.rewards.targets import TARGETS, Target, values_of
from sipo.training.optimise import Checkpoint, optimise, steps_of

STARTS_FROM = 64
"""Examples whose mean state tells a head without a bias where to start."""


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
    max_tokens: int | None = None
    """Examples with a longer prompt and response are left out; None leaves none out."""


@dataclass(frozen=True)
class Prepared:
    """Examples as a model reads them, without those that are too long."""

    examples: list[Example]
    encoded: list[tuple[Encoded, ...]]
    left_out: int = 0

    @cached_property
    def sizes(self) -> list[int]:
        """Padded tokens of each example."""
        return [len(each) * max(len(one["input_ids"]) for one in each) for each in self.encoded]


class Reader:
    """Reads examples as the model that training starts from does; no weights are loaded."""

    def __init__(self, model: Model, settings: RewardTraining) -> None:
        """Raises SipoError where the model is not there, or cannot read the format."""
        named_so = RewardModel(model=model.path, revision=model.revision)
        self.settings = settings
        try:
            self.tokenizer = read_tokenizer(named_so)
            self.longest = context_of(read_config(named_so), self.tokenizer)
            check_format(self.tokenizer, settings.format)
        except SipoError as error:
            raise _of(model, error) from None

    def read(self, examples: Sequence[Example], progress: Progress | None = None) -> Prepared:
        """Raises SipoError for a response beyond the model's context, unless `max_tokens` leaves it out."""
        kept: list[Example] = []
        encoded: list[tuple[Encoded, ...]] = []
        for example in examples:
            each = tuple(encode(self.tokenizer, self.settings.format, item) for item in example.items)
            sizes = [len(one["input_ids"]) for one in each]
            if self.settings.max_tokens and max(sizes) > self.settings.max_tokens:
                continue
            if self.longest and max(sizes) > self.longest:
                item = example.items[sizes.index(max(sizes))]
                problem = f"has {max(sizes)} tokens with its prompt, and the model takes {self.longest}"
                raise SipoError(f"{named(item)} {problem}; --max-tokens {self.longest} leaves out what is longer")
            kept.append(example)
            encoded.append(each)
        if progress and len(kept) < len(examples):
            longer = f"over {self.settings.max_tokens} tokens of prompt and response"
            progress.say(f"left out {len(examples) - len(kept)} of {len(examples)}: {longer}")
        return Prepared(kept, encoded, len(examples) - len(kept))


def plan_of(
    kind: Kind, prepared: Prepared, objectives: Sequence[str], model: Model, settings: RewardTraining, seed: int
) -> str:
    """Names all that training depends on: only a checkpoint of the same plan may be gone on with."""
    digest = hashlib.sha256(json.dumps([kind, list(objectives), identify(model), asdict(settings), seed]).encode())
    for example in prepared.examples:
        digest.update(json.dumps([example.items, example.values]).encode())
    return digest.hexdigest()[:16]


def train_reward_model(
    kind: Kind,
    prepared: Prepared,
    objectives: Sequence[str],
    model: Model,
    settings: RewardTraining,
    *,
    seed: int = 0,
    pad: int | None = None,
    device: str = "auto",
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """An ordinary sequence-classification model whose labels are the objectives; `pad` is the tokenizer's token.

    From scores, its logits are on their scale. Raises SipoError where an objective has nothing to learn from.
    """
    if not prepared.examples:
        raise SipoError("there is nothing to train on: no example is left; raise --max-tokens, or label some first")
    progress, target, where = progress or Progress(quiet=True), TARGETS[kind], find_device(device)
    values = values_of(prepared.examples)
    scale = target.scale(values)
    _check(values, objectives, scale)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, new = _with_heads(model, objectives, pad)
        network.to(where).eval()  # type: ignore[arg-type]  # no dropout: a step depends on nothing but its batch
        if scale:
            _start_at(network, scale[0] / scale[1], prepared, settings.token_budget)
            values = values / scale[1]
        trained: Any = _with_lora(network, new, settings.r) if settings.r else network
        with progress.track("reward model", steps_of(len(values), settings)) as advance:
            optimise(
                [parameter for parameter in trained.parameters() if parameter.requires_grad],
                len(values),
                settings,
                lambda batch: _backward(trained, target, prepared, values, batch, settings.token_budget),
                lr=settings.lr,
                seed=seed,
                checkpoint=checkpoint,
                watch=lambda _: advance(1),
            )
        if settings.r:
            trained = trained.merge_and_unload()
        if scale:
            _rescale(trained, scale[1])
    return trained.eval().requires_grad_(False)


@torch.no_grad()
def rewards_of(model: Any, prepared: Prepared, budget: int) -> Tensor:
    """The numbers of all responses by all heads [R, N], the examples' responses in order."""
    flat = [one for each in prepared.encoded for one in each]
    rewards = torch.zeros(len(flat), model.config.num_labels)
    for indices in batches([len(one["input_ids"]) for one in flat], budget):
        rewards[indices] = forward(model, [flat[index] for index in indices]).cpu()
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
    model: Any, target: Target, prepared: Prepared, values: Tensor, batch: list[int], budget: int
) -> dict[str, float]:
    """Add the gradient of the batch's mean loss a value, in bf16 where the hardware multiplies it; returns the loss."""
    device, known, loss = model.device, int((~values[batch].isnan()).sum()), 0.0
    sizes = prepared.sizes
    for places in batches([sizes[index] for index in batch], budget):
        indices = [batch[place] for place in places]
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
            logits = forward(model, [one for index in indices for one in prepared.encoded[index]])
        rewards = logits.reshape(len(indices), -1, values.shape[1])
        part = target.loss(rewards, values[indices].to(device)) / known
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return {"loss": loss}


def _with_heads(model: Model, objectives: Sequence[str], pad: int | None) -> tuple[PreTrainedModel, list[str]]:
    """The backbone with a head for each objective, in float32, and the names of the layers that it had not."""
    source, local = locate(model.path)
    labels = dict(enumerate(objectives))
    try:
        network, report = AutoModelForSequenceClassification.from_pretrained(
            source, revision=model.revision, dtype=torch.float32, num_labels=len(labels), id2label=labels,
            label2id={name: index for index, name in labels.items()}, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # the loaders raise whatever the files lead them to
        raise _of(model, unloadable(error, local)) from None
    network.config.pad_token_id = pad
    keys = [
        *report["missing_keys"],
        *(each if isinstance(each, str) else each[0] for each in report["mismatched_keys"]),
    ]
    return network, sorted({_head(network)[0], *(key.rpartition(".")[0] for key in keys)})


def _with_lora(network: PreTrainedModel, new: list[str], r: int) -> Any:
    """LoRA on every linear layer of the checkpoint; what is new is trained whole."""
    lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", exclude_modules=new, modules_to_save=new)
    with warnings.catch_warnings():  # PEFT reads an attribute that transformers is about to rename
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(network, lora)


def _of(model: Model, error: SipoError) -> SipoError:
    told = str(error)
    return error if told.startswith("model ") else SipoError(f"model {model.path}: {told}")


def _head(network: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The linear layer that gives the logits, and its name: the last one outside the backbone."""
    inside = f"{network.base_model_prefix}."
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    name, head = [(name, each) for name, each in layers if not name.startswith(inside)][-1]
    return name, head


def _start_at(network: PreTrainedModel, levels: Tensor, prepared: Prepared, budget: int) -> None:
    """Let the heads start near these numbers [N], so that what is left to learn is around zero.

    A head with a bias has it there. Decoders' heads have none: along the mean of the states that the head reads
    every response gets about the same number.
    """
    _, head = _head(network)
    levels = levels.to(head.weight.device)
    if head.bias is not None:
        with torch.no_grad():
            head.bias.copy_(levels)
        return
    some = [each[0] for each in prepared.encoded[:STARTS_FROM]]
    network.requires_grad_(False)
    head.weight.requires_grad_(True)
    state = torch.zeros_like(head.weight[0])
    for indices in batches([len(one["input_ids"]) for one in some], budget):
        logits = forward(network, [some[index] for index in indices])
        # The gradient of a linear layer's output by its weights is what it reads.
        state += torch.autograd.grad(logits[:, 0].sum(), head.weight)[0][0] / len(some)
    network.requires_grad_(True)
    with torch.no_grad():
        missing = levels - head.weight @ state
        head.weight += missing[:, None] * state / state.square().sum()


@torch.no_grad()
def _rescale(network: PreTrainedModel, unit: Tensor) -> None:
    """Multiply the heads' numbers by `unit` [N]."""
    _, head = _head(network)
    for parameter in (head.weight, head.bias):
        if parameter is not None:
            parameter.mul_(unit.to(parameter.device).reshape(-1, *[1] * (parameter.dim() - 1)))
