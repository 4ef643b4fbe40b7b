"""The methods by name: those of this package, and those that other packages bring as entry points."""

from collections.abc import Iterable

from sipo.methods.spec import MethodSpec
from sipo.registry import Registry

REGISTRY = Registry("sipo.methods", "METHODS", MethodSpec, "method", group="sipo.methods")
specs, check_name, find = REGISTRY.specs, REGISTRY.check_name, REGISTRY.find


def improves(names: Iterable[str]) -> bool:
    """Does any of the methods stand on policies that improve themselves?"""
    return any(find(name).improves for name in names)
