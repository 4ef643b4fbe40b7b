"""Finding a backbone and loading it, frozen, onto the device and in the dtype that suit the machine."""

import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sipo.disk.content import rough_content, short_digest
from sipo.errors import SipoError, first_line
from sipo.models.locate import locate, origin_of
from sipo.models.packed import pack
from sipo.models.pretrained import read_config, read_tokenizer, read_weights
from sipo.models.quantisation import options_of, settle
from sipo.settings import Model


@dataclass(frozen=True)
class Backbone:
    """A frozen language model, its tokenizer, and where it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """What `from_pretrained` takes to find it again: a hub id or an absolute path."""
    settings: Model = field(default_factory=lambda: Model(path=""))
    """What `load_backbone` was given."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model takes; see `context_of`."""
        return context_of(self.model.config)


UNLIMITED = sys.maxsize


def context_of(config: PretrainedConfig) -> int:
    """The longest sequence, in tokens, that the model takes as it is; `UNLIMITED` where its positions have no end.

    A window of attention is no limit. Where LongRoPE would change all positions for a longer sequence, those of the
    shorter ones in its batch included, it ends before.
    """
    text = config.get_text_config()
    stated = [getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    limits = [length for length in stated if isinstance(length, int) and length > 0]
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict))):
        if rope.get("rope_type") == "longrope":
            short = rope.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", None
            )
            limits += [short] if short else []
    return min(limits, default=UNLIMITED)


def load_backbone(settings: Model, device: str = "auto") -> Backbone:
    """Load the model that `settings.path` names. Raises SipoError where it is missing, damaged or no causal LM."""
    origin = origin_of(settings)
    where = find_device(device)
    dtype = pick_dtype(where) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    config = read_config(origin)
    how = options_of(settings.quantise, dtype, where) if settings.quantise else {}
    model, _ = read_weights(origin, dtype, config=config, attn_implementation=attention_of(config), **how)
    tokenizer = read_tokenizer(origin)
    if tokenizer.eos_token_id is None:
        raise SipoError(f"model {settings.path}: its tokenizer has no end-of-sequence token; set eos_token in it")
    if not settings.quantise:  # else it is there already, and not all kinds may be moved
        model.to(where)  # type: ignore[arg-type]
    model.eval().requires_grad_(False)
    settle(model, settings.quantise)
    pack(model)
    return Backbone(model, tokenizer, origin.source, settings)


def attention_of(config: PretrainedConfig) -> str:
    """The kind of attention that takes any mask: sdpa where the model has it, whatever its configuration asks for."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def find_device(name: str) -> torch.device:
    """The device of that name, or with `auto` the best there is. Raises SipoError where it cannot be used."""
    try:
        device = torch.device(pick_device() if name == "auto" else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise SipoError(f"execution.device: `{name}` cannot be used ({reason}); `auto` takes what there is") from None
    return device


def pick_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def identify(settings: Model) -> str:
    """Names the weights and how they are read, without loading them: for local files by content, roughly."""
    source, local = locate(settings.path)
    code = "with its own code " if settings.trust_remote_code else ""
    ends = f"{settings.end_tokens} " if settings.end_tokens else ""
    thinks = "thinking " if settings.thinking else ""
    rounded = f"{settings.quantise} " if settings.quantise else ""
    read = f"{settings.dtype} {settings.prompt_template} {code}{ends}{thinks}{rounded}".encode()
    content = rough_content(Path(source)) if local else [f"{source}@{settings.revision}".encode()]
    return short_digest(chain([read], content))
