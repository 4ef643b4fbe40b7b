"""The sources by name: those of this package, and those that other packages bring as entry points."""

from collections.abc import Mapping
from functools import cache

from sipo.data.sources.interface import Known, Source
from sipo.errors import SipoError
from sipo.registry import Registry

REGISTRY = Registry("sipo.data.sources", "SOURCE", Source, "source", group="sipo.sources")


@cache
def sources() -> tuple[Source, ...]:
    """The first that recognises a schema reads it: the special before the general."""
    return tuple(sorted(REGISTRY.specs().values(), key=lambda each: each.general))


@cache
def known_sets() -> Mapping[str, tuple[Source, Known]]:
    """The data sets that have a name here, and what reads them."""
    found: dict[str, tuple[Source, Known]] = {}
    for source in sources():
        for known in source.known:
            if known.name in found:
                both = f"{found[known.name][0].name} and {source.name}"
                raise SipoError(f"the sources {both} both have a data set `{known.name}`; remove one of the packages")
            found[known.name] = source, known
    return found
