"""Where preference rows come from. A new source is a file here and its name below."""

from importlib import import_module

from sipo.data.sources.interface import Source

# The first that recognises a schema reads it: the special before the general.
MODULES = (
    "pku_saferlhf",
    "helpsteer",
    "helpsteer2_preference",
    "helpsteer3",
    "ultrafeedback",
    "shp",
    "hh_rlhf",
    "llama_factory",
    "trl",
    "pairs",
    "scored",
)
SOURCES: tuple[Source, ...] = tuple(import_module(f"{__name__}.{name}").SOURCE for name in MODULES)
