"""Reward models in safe-rlhf's format, in small."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaModel


def shape(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
        **more,
    }  # fmt: skip


def score_model(
    folder: Path, tokenizer_folder: Path, *, bias: bool, kind: str, normalised: bool
) -> tuple[LlamaModel, torch.Tensor, torch.Tensor | None]:
    """A folder in safe-rlhf's format: LlamaModel, score_head, and the fields that its configuration carries."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    config = LlamaConfig(**shape(len(tokenizer), pad_token_id=tokenizer.eos_token_id))
    model = LlamaModel(config).eval()
    weight, offset = torch.randn(1, 32), torch.randn(1) if bias else None
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors["score_head.weight"] = weight
    if offset is not None:
        tensors["score_head.bias"] = offset
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {
        "architectures": ["LlamaModelForScore"], "bias": bias, "score_dim": 1, "score_type": kind,
        "do_normalize": normalised, "normalizer_type": "RunningMeanStd" if normalised else None, "momentum": None,
    }  # fmt: skip
    statistics = {"mean": [0.5], "var": [4.0]} if normalised else {}
    (folder / "config.json").write_text(json.dumps(config.to_dict() | fields | statistics))
    return model, weight, offset
