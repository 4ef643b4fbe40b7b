"""The filter rules by name: those of this package, and those that other packages bring as entry points."""

from typing import Any

from sipo.filters.spec import RuleSpec
from sipo.registry import Registry
from sipo.weights import Weight, between, grid

REGISTRY = Registry("sipo.filters", "RULES", RuleSpec, "filter rule", group="sipo.filters")
specs, find = REGISTRY.specs, REGISTRY.find


def soups_of(config: Any) -> list[Weight]:
    """The weights of the soups by which the run's rule judges beside the policies."""
    asked = find(config.filter.rule).soups(config.filter)
    return between(grid(asked, config.names, "filter.weights")) if asked else []
