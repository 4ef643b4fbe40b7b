"""GGUF files, converted once to safetensors: reading one takes many times as long as loading the copy."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sipo.disk.appearing import appearing
from sipo.disk.content import short_digest
from sipo.disk.locking import alone
from sipo.models.pretrained import Origin, read_tokenizer, read_weights
from sipo.places import cache_folder


def converted(file: Path, cache: Path | None = None) -> Path:
    """The folder with `file` as float32 safetensors and tokenizer, made on first use and found by content.

    The cache is `$SIPO_CACHE` or the user's cache folder. A conversion appears whole or not at all.
    """
    cache = cache or cache_folder()
    digest = short_digest(file.read_bytes())
    target = cache / "gguf" / f"{file.stem}-{digest}"
    if target.is_dir():
        return target
    with alone(target, wait=True):
        if not target.is_dir():  # by now another process may have made it
            with appearing(target) as scratch:
                _convert(file, scratch)
    return target


def _convert(file: Path, target: Path) -> None:
    origin = Origin(str(file.parent), local=True, gguf=file.name, name=f"model {file}")
    model, _ = read_weights(origin, torch.float32)
    tokenizer = read_tokenizer(origin)
    # A model that remembers its GGUF refuses to be saved: rebuild it from its weights.
    config = AutoConfig.for_model(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    clean.load_state_dict(model.state_dict())
    clean.generation_config.eos_token_id = tokenizer.eos_token_id
    clean.save_pretrained(target)
    tokenizer.save_pretrained(target)
