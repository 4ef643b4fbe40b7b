"""The methods by name: those of this package, and those that other packages bring as entry points."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sipo.errors import SipoError
from sipo.methods.spec import MethodSpec
from sipo.registry import Registry

if TYPE_CHECKING:
    from sipo.methods.interface import Method

SEVERAL = r"^[A-Za-z][A-Za-z0-9_:-]*$"
REGISTRY = Registry("sipo.methods", "METHODS", MethodSpec, "method", group="sipo.methods")
specs, check_name, find = REGISTRY.specs, REGISTRY.check_name, REGISTRY.find


def usual(names: Iterable[str]) -> str:
    """The method that answers where none is named, in a run of these methods: over its newest policies."""
    return "sipo" if improves(names) else "mod"


def usual_soup(names: Iterable[str]) -> str:
    """The method whose model is exported where none is named: one model of the newest policies."""
    return "sipo-soups" if improves(names) else "soups"


def built(spec: MethodSpec, config: Any, inputs: Mapping[str, Any]) -> "list[Method]":
    """What the declaration makes of its inputs. Raises SipoError where reports could not tell that from others."""
    methods = list(spec.build(config, **inputs))
    names = [each.name for each in methods]
    known = names == [spec.name] or (len(names) > 1 and not set(names) & specs().keys())
    if not known or len(set(names)) < len(names) or not all(re.match(SEVERAL, name) for name in names):
        raise SipoError(
            f"the method `{spec.name}` builds {', '.join(names) or 'nothing'}; mend what brings it: one alone has its "
            "name, and several have others, such as policy:NAME"
        )
    if odd := [each.name for each in methods if each.steerable != spec.steered]:
        raise SipoError(
            f"the method `{spec.name}`: `steered` is not what `steerable` of {odd[0]} is; mend what brings it"
        )
    return methods


def improves(names: Iterable[str]) -> bool:
    """Does any of the methods stand on policies that improve themselves?"""
    return any(find(name).improves for name in names)
