"""Loading reward models: sequence-classification checkpoints, and score models in safe-rlhf's format."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sipo.errors import SipoError
from sipo.models import pretrained
from sipo.models.checkpoint import stored_shapes
from sipo.models.locate import origin_of
from sipo.models.pretrained import Origin
from sipo.rewards.kinds.model import RewardModel
from sipo.settings import Model


@dataclass(frozen=True)
class Classifier:
    """A frozen reward model; its scores are (logits - mean) / std, by head."""

    model: PreTrainedModel
    mean: Tensor
    std: Tensor


def read_config(settings: RewardModel) -> PretrainedConfig:
    """The model's configuration, with `num_labels` and `id2label` as its head has them; no weights are read."""
    config = pretrained.read_config(_origin(settings))
    if _is_score_model(config):
        config.num_labels = getattr(config, "score_dim", 1)
    return config


def read_tokenizer(settings: RewardModel) -> PreTrainedTokenizerBase:
    return pretrained.read_tokenizer(_origin(settings))


def labels_of(config: PretrainedConfig) -> list[str]:
    """The names of the heads, in order."""
    labels: Any = config.id2label
    return [str(labels[index]) for index in sorted(labels)]


def load_classifier(settings: RewardModel, device: torch.device, dtype: torch.dtype) -> Classifier:
    """The model, frozen. Raises SipoError where it is missing or damaged, or its head was never trained."""
    config = read_config(settings)
    kind: Any = AutoModelForSequenceClassification
    options: dict[str, Any] = {}
    if _is_score_model(config):
        kind = _with_score_head(config)
        options["key_mapping"] = {r"^score_head\.": "score."}
        config.pad_token_id = None  # safe-rlhf reads the last token, whatever it is
    model, _ = pretrained.read_weights(_origin(settings), dtype, kind, config=config, **options)
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    head = getattr(model, "score", None)
    if isinstance(head, nn.Linear) and dtype != torch.float32:  # in bf16 a score of 70 has steps of a half
        head.float().register_forward_pre_hook(lambda _, inputs: tuple(each.float() for each in inputs))
    return Classifier(model, *_normaliser(config, device))


def check_head(settings: RewardModel) -> None:
    """Raise SipoError where the checkpoint on this machine lacks its head, by the names of its weights alone."""
    config, folder = read_config(settings), pretrained.folder_of(_origin(settings))
    stored = stored_shapes(folder) if folder else {}
    if not stored:
        return
    try:
        with torch.device("meta"):
            kind: Any = _with_score_head(config) if _is_score_model(config) else AutoModelForSequenceClassification
            make = kind._from_config if _is_score_model(config) else kind.from_config
            model: PreTrainedModel = make(config)
    except ValueError:
        raise SipoError(f"model type `{config.model_type}` has no sequence classifier in transformers") from None
    inside = f"{model.base_model_prefix}."
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and not name.startswith(inside):
            endings = (f"{name}.weight", f"{name}_head.weight")  # safe-rlhf's score is score_head
            found = [shape for key, shape in stored.items() if key.endswith(endings)]
            if not found:
                raise SipoError(f"its files have no {name}.weight, the head that scores; take a model trained to score")
            if tuple(layer.weight.shape) not in found:
                told = f"{name}.weight is {found[0]}, its config.json makes it {tuple(layer.weight.shape)}"
                raise SipoError(f"{told}; mend num_labels there, or take a whole copy")


def _origin(settings: RewardModel) -> Origin:
    """Errors name the reward instead."""
    return replace(origin_of(Model(path=settings.model, revision=settings.revision)), name="")


def _is_score_model(config: PretrainedConfig) -> bool:
    """Is it one of safe-rlhf's (LlamaModelForScore and its like), whose head is called `score_head`?"""
    return any(name.endswith("ForScore") for name in config.architectures or ())


def _with_score_head(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The same architecture of transformers, whose head has a bias where the score model's has."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise SipoError(f"model type `{config.model_type}` has no sequence classifier in transformers; use another")
    plain: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    if not (getattr(config, "bias", False) or getattr(config, "score_bias", False)):
        return plain

    class WithBias(plain):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.score = nn.Linear(config.hidden_size, config.num_labels)

    return WithBias


def _normaliser(config: PretrainedConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that safe-rlhf's scores are normalised by; costs are scaled only."""
    heads = len(labels_of(config))
    zeros, ones = torch.zeros(heads, device=device), torch.ones(heads, device=device)
    if not (_is_score_model(config) and getattr(config, "do_normalize", False)):
        return zeros, ones
    mean, var = getattr(config, "mean", None), getattr(config, "var", None)
    kind = getattr(config, "score_type", "reward")
    if mean is None or var is None or kind == "critic":
        return zeros, ones
    std = torch.tensor(var, device=device).float().sqrt()
    return (torch.tensor(mean, device=device).float() if kind == "reward" else zeros), std
