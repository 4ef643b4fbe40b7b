"""The shape of a model without its weights: layers on torch's meta device, from a configuration at hand."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from sipo.errors import SipoError
from sipo.models.locate import locate

_LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_ALPACA: dict[str, Any] = {**_LLAMA, "vocab_size": 32001, "max_position_embeddings": 2048}
KNOWN: dict[str, PretrainedConfig] = {
    "meta-llama/Llama-2-7b-hf": LlamaConfig(**_LLAMA, vocab_size=32000, max_position_embeddings=4096),
    "PKU-Alignment/alpaca-7b-reproduced": LlamaConfig(**_ALPACA),
    "PKU-Alignment/beaver-7b-v1.0-reward": LlamaConfig(**_ALPACA),
    "PKU-Alignment/beaver-7b-v1.0-cost": LlamaConfig(**_ALPACA),
    "RLHFlow/RewardModel-Mistral-7B-for-DPA-v1": MistralConfig(
        **{**_LLAMA, "intermediate_size": 14336}, num_key_value_heads=8, vocab_size=32000
    ),
}
"""The models of SIPO's experiments, as their configurations have it."""


def is_here(path: str, revision: str | None = None) -> bool:
    """Whether the model's weights are on this machine: always so for folders and files, for a hub id if cached."""
    source, local = locate(path)
    if local:
        return True
    folder = _cached(source, revision)
    return folder is not None and any([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def shape_of(path: str, revision: str | None = None) -> PretrainedConfig | None:
    """The model's configuration where it is on this machine or known; nothing is downloaded."""
    source, local = locate(path)
    folder = Path(source) if local else _cached(source, revision)
    if folder is not None and (folder / "config.json").is_file():
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(str(folder))
        except Exception as error:  # the loader raises whatever the file leads it to
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SipoError(f"model {path}: its config.json cannot be read ({reason})") from None
        return config
    return KNOWN.get(source)


def outline(config: PretrainedConfig, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """All layers of a causal language model, without numbers in them."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def _cached(source: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:  # not there, or the cache is not in order: either way nothing to read
        return None
