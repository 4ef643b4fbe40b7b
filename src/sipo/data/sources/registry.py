"""The sources by name: those of this package, and those that other packages bring as entry points."""

from collections.abc import Mapping
from functools import cache

from sipo.data.sources.interface import Known, Source
from sipo.registry import Registry

REGISTRY = Registry("sipo.data.sources", "SOURCE", Source, "source", group="sipo.sources")


@cache
def sources() -> tuple[Source, ...]:
    """The first that recognises a schema reads it: the special before the general."""
    return tuple(sorted(REGISTRY.specs().values(), key=lambda each: each.general))


@cache
def known_sets() -> Mapping[str, tuple[Source, Known]]:
    """The data sets that have a name here, and what reads them."""
    return {known.name: (source, known) for source in sources() for known in source.known}
