"""Loading reward models: sequence-classification checkpoints, and score models in safe-rlhf's format."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sipo.config import RewardModel
from sipo.errors import SipoError
from sipo.models.locate import locate


@dataclass(frozen=True)
class Classifier:
    """A frozen reward model; its scores are (logits - mean) / std, by head."""

    model: PreTrainedModel
    mean: Tensor
    std: Tensor


def read_config(settings: RewardModel) -> PretrainedConfig:
    """The model's configuration, with `num_labels` and `id2label` as its head has them; no weights are read."""
    source, local = locate(settings.model)
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.revision)
    except Exception as error:
        raise unloadable(error, local) from None
    if _is_score_model(config):
        config.num_labels = getattr(config, "score_dim", 1)
    return config


def read_tokenizer(settings: RewardModel) -> PreTrainedTokenizerBase:
    source, local = locate(settings.model)
    try:
        return AutoTokenizer.from_pretrained(source, revision=settings.revision)
    except Exception as error:
        raise unloadable(error, local) from None


def labels_of(config: PretrainedConfig) -> list[str]:
    """The names of the heads, in order."""
    labels: Any = config.id2label
    return [str(labels[index]) for index in sorted(labels)]


def load_classifier(settings: RewardModel, device: torch.device, dtype: torch.dtype) -> Classifier:
    """The model, frozen. Raises SipoError where it is missing or corrupt, or its head was never trained."""
    source, local = locate(settings.model)
    config = read_config(settings)
    kind: Any = AutoModelForSequenceClassification
    options: dict[str, Any] = {"revision": settings.revision, "config": config, "dtype": dtype}
    if _is_score_model(config):
        kind = _with_score_head(config)
        options["key_mapping"] = {r"^score_head\.": "score."}
        config.pad_token_id = None  # safe-rlhf reads the last token, whatever it is
    try:
        model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except Exception as error:  # the loaders raise whatever the files lead them to
        raise unloadable(error, local) from None
    missing = sorted(report["missing_keys"]) + sorted(str(each) for each in report["mismatched_keys"])
    if missing:
        raise SipoError(f"the checkpoint has no weights for {', '.join(missing[:3])}: it is no trained reward model")
    model.to(device).eval().requires_grad_(False)
    head = getattr(model, "score", None)
    if isinstance(head, nn.Linear) and dtype != torch.float32:  # in bf16 a score of 70 has steps of a half
        head.float().register_forward_pre_hook(lambda _, inputs: tuple(each.float() for each in inputs))
    return Classifier(model, *_normaliser(config, device))


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


def unloadable(error: Exception, local: bool) -> SipoError:
    if isinstance(error, SipoError):
        return error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    hint = "is the folder whole?" if local else "a hub id needs the network or the hub's cache"
    return SipoError(f"cannot be loaded ({reason}); {hint}")
