"""The one place where configurations, tokenizers and weights are read by `from_pretrained`.

What comes out is what the checkpoint holds: no weight is drawn at random, none is left out that the model would need,
and no code of the checkpoint runs unless the model was named as one that may.
"""

from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sipo.errors import SipoError, first_line
from sipo.hush import without_bars
from sipo.memory import is_full
from sipo.models.checkpoint import problem_of, quantised, some, stored_integers, torn_settings, wrong_kind, zeros


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint is, and what it may do."""

    source: str
    """A hub id or an absolute path."""
    local: bool
    revision: str | None = None
    trusted: bool = False
    """May code that it brings be run?"""
    gguf: str | None = None
    """The GGUF file in the folder that is the model."""
    name: str = ""
    """What errors begin with, such as `model NAME`."""

    def error(self, problem: str) -> SipoError:
        return SipoError(f"{self.name}: {problem}" if self.name else problem)


def read_config(origin: Origin) -> PretrainedConfig:
    return _read(origin, AutoConfig)


def read_generation(origin: Origin) -> GenerationConfig | None:
    """None where the checkpoint has none, for then all is in its configuration."""
    try:
        return GenerationConfig.from_pretrained(origin.source, revision=origin.revision or "main")
    except OSError:
        return None


def read_tokenizer(origin: Origin) -> PreTrainedTokenizerBase:
    return _read(origin, AutoTokenizer)


def read_weights(
    origin: Origin,
    dtype: torch.dtype,
    kind: Any = AutoModelForCausalLM,
    *,
    config: PretrainedConfig | None = None,
    new_head: bool = False,
    **options: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and which of its weights the checkpoint had not: none, or with `new_head` those of its head alone.

    Raises SipoError where the checkpoint lacks weights, has others than its configuration tells of, is quantised or of
    another kind of model, or holds what is not finite in `dtype`.
    """
    if origin.gguf is None:
        config = config or read_config(origin)
        options["config"] = config
        folder = folder_of(origin)
        problem = (
            quantised(config)
            or (wrong_kind(config) if kind is AutoModelForCausalLM and not origin.trusted else None)
            or (stored_integers(folder) or torn_settings(folder) if folder else None)
        )
        if problem:
            raise origin.error(problem)
    model, report = _read(origin, kind, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    missing, unread = set(report["missing_keys"]), set(report["unexpected_keys"])
    misshapen = {key: shapes for key, *shapes in report["mismatched_keys"]}
    new = {key for key in missing | set(misshapen) if new_head and _in_head(model, key)}
    problem = problem_of(model, missing - new, {k: v for k, v in misshapen.items() if k not in new}, unread)
    if problem:
        raise origin.error(problem)
    doubtful = [f"{some(names)} hold nothing but zeros; is the checkpoint whole?"] if (names := zeros(model)) else []
    if unread and not new_head:
        doubtful.append(f"is loaded without {some(sorted(unread))}, which is not its own")
    for doubt in doubtful:
        getLogger(__name__).warning("%s", origin.error(doubt))
    return model, sorted(new)


def folder_of(origin: Origin) -> Path | None:
    """The checkpoint's files on this machine; None where they are not here. Nothing is downloaded."""
    if origin.local:
        return Path(origin.source)
    try:
        return Path(snapshot_download(origin.source, revision=origin.revision, local_files_only=True))
    except Exception:  # not there, or the cache is not in order: either way nothing to read
        return None


def _in_head(model: PreTrainedModel, key: str) -> bool:
    """Is it between the backbone and the logits?"""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _read(origin: Origin, kind: Any, **options: Any) -> Any:
    """What `kind` makes of the checkpoint. Raises SipoError for whatever the files lead it to."""
    if origin.gguf is not None:
        options["gguf_file"] = origin.gguf
    place = {"revision": origin.revision, "trust_remote_code": origin.trusted}
    try:
        with without_bars():
            return kind.from_pretrained(origin.source, **place, **options)
    except Exception as error:
        if is_full(error):
            raise
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            way_out = "where you trust it, set model.trust_remote_code: true beside model.path"
            raise origin.error(f"brings code of its own, which is not run; {way_out}") from None
        if origin.gguf is not None:
            raise origin.error(f"cannot be read as GGUF ({reason})") from None
        hint = "is the folder whole?" if origin.local else "a hub id needs the network or the hub's cache"
        raise origin.error(f"cannot be loaded ({reason}); {hint}") from None
