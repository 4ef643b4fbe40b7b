"""Finding a backbone and loading it, frozen, onto the device and in the dtype that suit the machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sipo.config import Model
from sipo.disk.content import rough_content
from sipo.errors import SipoError
from sipo.models.locate import locate, origin_of
from sipo.models.pretrained import read_tokenizer, read_weights


@dataclass(frozen=True)
class Backbone:
    """A frozen language model, its tokenizer, and where it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """What `from_pretrained` takes to find it again: a hub id or an absolute path."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model takes."""
        return context_of(self.model.config)


def context_of(config: PretrainedConfig) -> int:
    lengths = [getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None)]
    return min(length for length in lengths if length)


def load_backbone(settings: Model, device: str = "auto") -> Backbone:
    """Load the model that `settings.path` names. Raises SipoError where it is missing, damaged or no causal LM."""
    origin = origin_of(settings)
    where = find_device(device)
    dtype = pick_dtype(where) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model, _ = read_weights(origin, dtype)
    tokenizer = read_tokenizer(origin)
    if tokenizer.eos_token_id is None:
        raise SipoError(f"model {settings.path}: its tokenizer has no end-of-sequence token; set eos_token in it")
    model.to(where).eval().requires_grad_(False)  # type: ignore[arg-type]
    return Backbone(model, tokenizer, origin.source)


def find_device(name: str) -> torch.device:
    """The device of that name, or with `auto` the best there is. Raises SipoError where it cannot be used."""
    try:
        device = torch.device(pick_device() if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
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
    digest = hashlib.sha256(f"{settings.dtype} {settings.prompt_template} {code}{ends}".encode())
    if not local:
        digest.update(f"{source}@{settings.revision}".encode())
        return digest.hexdigest()[:16]
    for part in rough_content(Path(source)):
        digest.update(part)
    return digest.hexdigest()[:16]
