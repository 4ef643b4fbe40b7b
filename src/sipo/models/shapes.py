"""The shape of a model without its weights: layers on torch's meta device, from a configuration at hand."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from sipo.errors import SipoError
from sipo.models.load import attention_of
from sipo.models.locate import locate
from sipo.models.pretrained import Origin, folder_of, read_config

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
    folder = folder_of(Origin(source, local, revision))
    return folder is not None and any([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def shape_of(path: str, revision: str | None = None) -> PretrainedConfig | None:
    """The model's configuration where it is on this machine or known; nothing is downloaded."""
    source, local = locate(path)
    folder = folder_of(Origin(source, local, revision))
    if folder is not None and (folder / "config.json").is_file():
        return read_config(Origin(str(folder), local=True, name=f"model {path}"))
    return KNOWN.get(source)


def outline(
    config: PretrainedConfig, dtype: torch.dtype = torch.bfloat16, kind: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    """All layers of a causal language model, or of another `kind`, without numbers in them.

    Raises SipoError where the configuration is of none.
    """
    how: Any = {"dtype": dtype}
    if kind is AutoModelForCausalLM:
        how["attn_implementation"] = attention_of(config)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, trust_remote_code=False, **how)
    except ValueError:
        raise SipoError(f"model type `{config.model_type}` is none that transformers has for this") from None
    model.tie_weights()
    return model
