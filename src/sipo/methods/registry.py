"""The methods by name: those of this package, and those that other packages bring as entry points."""

from collections.abc import Iterable

from sipo.methods.spec import MethodSpec
from sipo.registry import Registry

REGISTRY = Registry("sipo.methods", "METHODS", MethodSpec, "method", group="sipo.methods")
specs, check_name, find = REGISTRY.specs, REGISTRY.check_name, REGISTRY.find


def usual(names: Iterable[str]) -> str:
    """The method that answers where none is named, in a run of these methods: over its newest policies."""
    return "sipo" if improves(names) else "mod"


def usual_soup(names: Iterable[str]) -> str:
    """The method whose model is exported where none is named: one model of the newest policies."""
    return "sipo-soups" if improves(names) else "soups"


def improves(names: Iterable[str]) -> bool:
    """Does any of the methods stand on policies that improve themselves?"""
    return any(find(name).improves for name in names)
