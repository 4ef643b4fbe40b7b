"""The filter rules by name: those of this package, and those that other packages bring as entry points."""

from sipo.filters.spec import RuleSpec
from sipo.registry import Registry

REGISTRY = Registry("sipo.filters", "RULES", RuleSpec, "filter rule", group="sipo.filters")
specs, find = REGISTRY.specs, REGISTRY.find
