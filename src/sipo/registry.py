"""What plug-ins declare, by name: the files of a package of sipo's, and what other packages bring by entry points.

The configuration reads it, so no file of such a package loads torch at its top.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Generic, Protocol, TypeVar

from sipo.errors import SipoError
from sipo.words import nearest


class Named(Protocol):
    @property
    def name(self) -> str: ...


Spec = TypeVar("Spec", bound=Named)


@dataclass(frozen=True)
class Registry(Generic[Spec]):
    package: str
    """Whose files declare: what has the name `constant` in a file is one declaration, or a tuple of them."""
    constant: str
    kind: type[Spec]
    what: str
    """What one is called in messages."""
    group: str
    """Of the entry points by which other packages bring theirs: one declaration, or a tuple."""

    @cache  # noqa: B019 - there are as many registries as kinds of plug-ins
    def specs(self) -> Mapping[str, Spec]:
        """By name, sipo's own first. Raises SipoError where two have the same name, or an entry point brings none."""
        found: dict[str, Spec] = {}
        for place, spec in [*self._own(), *self._brought()]:
            if found.setdefault(spec.name, spec) is not spec:
                raise SipoError(f"{place}: the {self.what} `{spec.name}` is there already; remove one of the packages")
        return found

    def check_name(self, name: str) -> str:
        """The name itself. Raises ValueError, with the nearest one, where there is no such."""
        if name not in self.specs():
            near = nearest(name, self.specs())
            hint = f"did you mean `{near}`?" if near else f"they are {', '.join(self.specs())}"
            raise ValueError(f"`{name}` is no {self.what}; {hint}")
        return name

    def find(self, name: str) -> Spec:
        """Raises SipoError where there is no such."""
        try:
            return self.specs()[self.check_name(name)]
        except ValueError as error:
            raise SipoError(str(error)) from None

    def _own(self) -> Iterator[tuple[str, Spec]]:
        for each in iter_modules(import_module(self.package).__path__, f"{self.package}."):
            declared = getattr(import_module(each.name), self.constant, ())
            yield from ((each.name, spec) for spec in _several(declared))

    def _brought(self) -> Iterator[tuple[str, Spec]]:
        for point in sorted(entry_points(group=self.group), key=lambda each: each.value):
            try:
                declared = _several(point.load())
            except (Exception, SystemExit) as error:  # whatever another package's code raises
                problem = f"cannot be imported ({type(error).__name__}: {error}); mend or remove it"
                raise SipoError(f"the package that brings {point.value} to sipo: {problem}") from None
            if not all(isinstance(each, self.kind) for each in declared):
                problem = f"is no {self.kind.__name__}, nor a tuple of them; mend or remove its package"
                raise SipoError(f"the entry point {point.value} of {self.group}: {problem}")
            yield from ((point.value, spec) for spec in declared)


@contextmanager
def as_one_line(what: str, expected: type[Exception] = SipoError) -> Iterator[None]:
    """What a plug-in's own code raises while a run is laid out, which no user of it can read, as a SipoError."""
    try:
        yield
    except (SipoError, expected):
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise SipoError(f"{what} failed with {problem}; mend or remove the package that brings it") from error


def _several(declared: Any) -> tuple[Any, ...]:
    return declared if isinstance(declared, tuple) else (declared,)
