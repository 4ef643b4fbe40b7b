"""The model that a run begins with."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sipo.settings.section import Dtype, Section

Quantise = Literal["4bit", "8bit"]


class Model(Section):
    """The backbone: a hub id, a folder, a GGUF file, or `package:NAME` for the one inside a Python package."""

    path: str
    """A hub id, a folder, a GGUF file, or `package:NAME` for the one model that a Python package carries."""
    revision: str | None = None
    """Of a hub id."""
    dtype: Dtype = "auto"
    """Auto is bf16 where the hardware multiplies it."""
    quantise: Quantise | None = None
    """4bit or 8bit keeps the frozen backbone's linear layers in so many bits a weight, in a half or a quarter of the
    memory, and computes in `dtype`; needs `sipo[quantised]`. It is another model: what it costs is in docs/gpu.md."""
    trust_remote_code: bool = False
    """True lets code that the model's own folder or repository brings run on this machine; else such a model is
    refused, and nobody is asked."""
    prompt_template: str | None = None
    """For models without a chat template; `{prompt}` is the user's text, and what follows `{turns}` recurs for each
    turn."""
    end_tokens: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Tokens at which an answer ends; null takes those of the tokenizer, the model's configurations and the chat
    template."""
    thinking: bool = False
    """True where the model shall think before it answers: responses then hold their thoughts, as the chat template has
    them."""

    @field_validator("prompt_template")
    @classmethod
    def _has_a_place_for_the_prompt(cls, template: str | None) -> str | None:
        _, place, after = ("{prompt}" if template is None else template).partition("{prompt}")
        if not place or "{turns}" in after:
            raise ValueError("must contain {prompt}, and {turns} (the earlier turns), if at all, before it")
        return template


def on_the_hub(path: str) -> bool:
    """Is it a hub id, as the hub allows them, and nothing on this machine?"""
    named = re.fullmatch(r"\w[\w.-]*/[\w.-]+", path, re.ASCII) is not None and not path.endswith(".gguf")
    return named and not Path(path).exists()
