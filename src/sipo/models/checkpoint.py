"""What is wrong with a checkpoint: weights that it lacks or has too many, another kind of model, a damaged number."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sipo.finite import infinite_tensor
from sipo.models.quantisation import parts

QUANTISED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|nested_\w+|quant_state\b.*"
    r"|weight_(scale|packed|shape|zero_point|format)\w*|(input|output|activation)_scale)$"
)
UNMERGED = re.compile(r"(^|\.)(base_layer|lora_\w+|modules_to_save|original_module|ia3_\w+|hada_w\w+|oft_\w+)(\.|$)")
WRAPPED = re.compile(r"(^|\.)(_orig_mod|module|base_model\.model|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
BESIDE = re.compile(r"(^|\.)(inv_freq|position_ids|masked_bias|(pooler|mtp|nextn|visual|vision|audio|image)\w*)(\.|$)")
"""What no text model reads: buffers of old versions, and modules that stand beside it."""
CAUSAL = re.compile("CausalLM|LMHead|ForConditionalGeneration")
INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
UNQUANTISED = "take the model in 16 or 32 bits, or a GGUF file, which is converted"
MERGE = "of an adapter that was never merged; save what PEFT's merge_and_unload gives"


def wrong_kind(config: PretrainedConfig) -> str | None:
    """Why its configuration alone says that this is no causal language model."""
    kinds = [str(name) for name in getattr(config, "architectures", None) or ()]
    if not kinds or any(map(CAUSAL.search, kinds)):
        return None
    return (
        f"is no causal language model: its config.json says {', '.join(kinds)}; take the model that it was made from, "
        "or mend `architectures` there"
    )


def quantised(config: PretrainedConfig) -> str | None:
    for part in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            told: Any = getattr(part, key, None)
            if told:
                method = told.get("quant_method") if isinstance(told, dict) else None
                return f"is quantised ({method or key} in its config.json); {UNQUANTISED}"
    return None


def problem_of(model: PreTrainedModel, missing: set[str], misshapen: dict[str, Any], unread: set[str]) -> str | None:
    """What keeps a loaded model from being the one that its files tell of, if anything does.

    `missing` are the weights that the checkpoint lacks, `misshapen` those of another shape with (theirs, the model's),
    `unread` those that the model has no place for.
    """
    return (
        _missing(sorted(missing), sorted(unread))
        or _misshapen(misshapen)
        or _unread(model, sorted(unread))
        or _untied(model)
        or _damaged(model)
    )


def stored_integers(folder: Path) -> str | None:
    """Integers where numbers belong: their scales are elsewhere, or lost. Of a torn file loading tells."""
    for file in sorted(folder.glob("model*.safetensors")):
        with suppress(SafetensorError), safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (it is no mapping)
                kind = tensors.get_slice(key).get_dtype()
                if key.endswith(".weight") and kind in INTEGERS:
                    return f"is quantised ({key} is stored as {kind}); {UNQUANTISED}"
    return None


def torn_settings(folder: Path) -> str | None:
    """A generation configuration that loading passes over in silence, and with it the tokens at which answers end."""
    file = folder / "generation_config.json"
    try:
        told = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        told = None
    return None if isinstance(told, dict) else f"its {file.name} cannot be read; mend it, or take it away"


def zeros(model: PreTrainedModel) -> list[str]:
    """Matrices of zeros alone, as a file that was never written to its end may hold."""
    matrices = ((name, tensor) for name, tensor in _stored(model) if tensor.dim() > 1)
    return [name for name, tensor in matrices if not tensor[0].any() and not tensor.any()]  # most have a first row


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """By name, of all weights in safetensors files; none of other formats, nor of a torn file."""
    shapes = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with suppress(SafetensorError), safe_open(file, "pt") as tensors:
            shapes.update({key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()})  # noqa: SIM118
    return shapes


def some(keys: Sequence[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _missing(missing: list[str], unread: list[str]) -> str | None:
    if not missing:
        return None
    instead = f"; it has {unread[0]}" if unread else ""
    told = f"the checkpoint has no weights for {some(missing)}{instead}"
    if any(map(QUANTISED.search, unread)):
        return f"{told}: it is quantised; {UNQUANTISED}"
    if any(map(UNMERGED.search, unread)):
        return f"{told}: {MERGE}"
    if any(map(WRAPPED.search, unread)):
        return f"{told}: saved with what wraps the model; save the model itself, or take the prefix off"
    if all(key.startswith("score.") for key in missing):
        return f"{told}: it is no trained reward model"
    return f"{told}; is it whole, and is config.json its own?"


def _misshapen(keys: dict[str, Any]) -> str | None:
    for key, (here, wanted) in sorted(keys.items()):
        return f"the checkpoint's {key} has the shape {tuple(here)}, its config.json asks for {tuple(wanted)}; " + (
            "they are of two models, or it is quantised"
        )
    return None


def _unread(model: PreTrainedModel, keys: list[str]) -> str | None:
    """Weights without which this is another model."""
    for key in keys:
        if QUANTISED.search(key):
            return f"is quantised (it has {key}); {UNQUANTISED}"
        if UNMERGED.search(key):
            return f"the checkpoint has {key}, {MERGE}"
    within = [key for key in keys if not BESIDE.search(key) and _within(model, key)]
    if within:
        return f"the checkpoint has {some(within)}, which its config.json has no place for; they are of two models"
    return None


def _within(model: PreTrainedModel, key: str) -> bool:
    """Would it belong to a module of the model, rather than to one that stands beside them?"""
    first = key.split(".", 1)[0]
    return any(first in dict(part.named_children()) for part in (model, model.base_model))


def _untied(model: PreTrainedModel) -> str | None:
    """A head and an embedding that should be one and are not: another program takes the one for the other."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if not tied or head is None or head.weight is embedding.weight:
        return None
    return (
        "the checkpoint's output head and embedding differ, and its config.json has tie_word_embeddings: true; set it "
        "to false there, or leave out the head"
    )


def _damaged(model: PreTrainedModel) -> str | None:
    name = infinite_tensor(_stored(model))
    if name is None:
        return None
    dtype = str(model.dtype).removeprefix("torch.")
    out = "the checkpoint is damaged" + (
        ", or too large for it: set the dtype to bfloat16 or float32" if dtype == "float16" else ""
    )
    return f"{name} holds NaN or infinite numbers in {dtype}; {out}"


def _stored(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """All that a checkpoint holds, tied weights once."""
    seen: set[int] = set()
    for name, stored in model.state_dict().items():
        for tensor in parts(stored):
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield name, tensor
