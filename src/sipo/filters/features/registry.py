"""The features by name: those of this package, and those that other packages bring as entry points."""

from sipo.filters.features.spec import FeatureSpec
from sipo.registry import Registry

REGISTRY = Registry("sipo.filters.features", "FEATURES", FeatureSpec, "feature", group="sipo.features")
specs, find, check_name = REGISTRY.specs, REGISTRY.find, REGISTRY.check_name
