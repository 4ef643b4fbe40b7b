"""The methods by name: those of this package, and those that other packages bring as entry points."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

import sipo.methods
from sipo.errors import SipoError
from sipo.methods.spec import MethodSpec

GROUP = "sipo.methods"


@cache
def specs() -> Mapping[str, MethodSpec]:
    """By name. Raises SipoError where two have the same name, or an entry point brings no methods."""
    found: dict[str, MethodSpec] = {}
    modules = [import_module(f"{GROUP}.{each.name}") for each in iter_modules(sipo.methods.__path__)]
    brought = [(module.__name__, getattr(module, "METHODS", ())) for module in modules]
    for place, methods in [*brought, *((point.value, _load(point)) for point in entry_points(group=GROUP))]:
        for spec in methods:
            if found.setdefault(spec.name, spec) is not spec:
                raise SipoError(f"{place}: the method `{spec.name}` is there already; remove one of the packages")
    return found


def _load(point: object) -> tuple[MethodSpec, ...]:
    name = getattr(point, "value", point)
    try:
        loaded = point.load()  # type: ignore[attr-defined]
    except Exception as error:  # whatever another package's code raises
        raise SipoError(f"the package that brings {name} to sipo: cannot be imported ({error}); remove it") from None
    methods = loaded if isinstance(loaded, tuple) else (loaded,)
    if not all(isinstance(each, MethodSpec) for each in methods):
        raise SipoError(f"the entry point {name} of {GROUP}: is no MethodSpec, nor a tuple of them")
    return methods


def check_name(name: str) -> str:
    """The name itself. Raises ValueError, with the nearest one, where there is no such method."""
    if name not in specs():
        near = get_close_matches(name, specs(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"they are {', '.join(specs())}"
        raise ValueError(f"`{name}` is no method; {hint}")
    return name


def find(name: str) -> MethodSpec:
    """Raises SipoError where there is no such method."""
    try:
        return specs()[check_name(name)]
    except ValueError as error:
        raise SipoError(str(error)) from None


def improves(names: Iterable[str]) -> bool:
    """Does any of the methods stand on policies that improve themselves?"""
    return any(find(name).improves for name in names)
