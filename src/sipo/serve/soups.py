"""Soups by name as PEFT folders, for an engine that loads adapters when they are asked for.

Such an engine forgets neither a name nor where its folder is, so there are boundedly many of both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sipo.bank import Adapter, load_adapter, save_adapter, soup
from sipo.bank.kinds import base_of
from sipo.commands import ratios
from sipo.disk.content import short_digest
from sipo.errors import SipoError
from sipo.finished.built import spec_of
from sipo.finished.handle import FinishedRun
from sipo.methods.registry import usual_soup
from sipo.models.quantisation import said_of
from sipo.models.shapes import outline, shape_of
from sipo.serve.kept import Kept
from sipo.serve.naming import Named, Served, resolve
from sipo.serve.wire import ApiError
from sipo.weights import on_grid

STEPS = 20
"""Shares of a soup are rounded to multiples of 1 / STEPS."""
SPELLINGS = 4096
"""Names that mean a soup, but not as `canonical` spells it, in the life of a process."""
LONGEST = 1024
"""Characters of a name."""


class Soupable(Served):
    """A run whose models are adapters; its usual one is the soup of the newest policies."""

    @classmethod
    def of(cls, name: str, run: FinishedRun) -> "Soupable":
        """Raises SipoError where its policies are whole models."""
        if run.config.policies == "full":
            raise SipoError(f"{run.path}: its policies are whole models (policies: full), not adapters")
        even = (1 / len(run.objectives),) * len(run.objectives)
        specs = {method: spec_of(method) for method in run.methods}
        return cls(name, run, tuple(m for m, spec in specs.items() if spec.exported and spec.models(even) == 1), None)

    @property
    def usual(self) -> str:
        return usual_soup(self.run.config.methods)


class Soups:
    """The adapters of runs, by the names that `sipo serve` gives their models. Threads may share it."""

    def __init__(self, runs: Mapping[str, FinishedRun], base: str, kept: Kept) -> None:
        """`base` is the model that the engine serves: a hub id or a folder.

        Raises SipoError where it has not the layers that the runs' policies change.
        """
        self.runs = {name: Soupable.of(name, run) for name, run in runs.items()}
        self.base, self._kept = base, kept
        self.said = [line for run in runs.values() if (line := _another_base(run, base))]
        """What people should know."""
        self._spelled: set[str] = set()

    def folder_of(self, name: str) -> Path | None:
        """Where the adapter is that a name means; None for a name of no run. Raises ApiError for what is refused."""
        run = name.replace("/", ":").partition(":")[0]
        if run not in self.runs:
            return None
        if len(name) > LONGEST:
            raise ApiError(400, f"the model's name has {len(name)} characters; at most {LONGEST}", param="model")
        named = resolve(self.runs, name, None)
        aligned = named.model.aligned
        if len(aligned.mixture.points) > 1 or not all(isinstance(each, Adapter) for each in aligned.adapters):
            raise ApiError(400, f"`{named.model.method}` is no adapter", param="model")
        adapters, point = cast(tuple[Adapter, ...], aligned.adapters), on_grid(aligned.mixture.points[0], STEPS)
        self._count(name, named)
        key = short_digest(repr((self.base, point, [each.identity for each in adapters])))
        try:
            return self._kept.get(key, lambda folder: save_adapter(soup(adapters, point), folder, self.base))
        except SipoError as problem:
            raise ApiError(503, str(problem)) from None

    def _count(self, name: str, named: Named) -> None:
        """Raise ApiError where too many names have been spelled in too many ways."""
        if name not in canonical(named):
            if name not in self._spelled and len(self._spelled) >= SPELLINGS:
                best = min(canonical(named), key=len)
                raise ApiError(429, f"too many names have been asked for; ask for the same as `{best}`", param="model")
            self._spelled.add(name)


def canonical(named: Named) -> set[str]:
    """How a model is named: by all its objectives in the run's order, a soup's on the grid, with the method or without
    where it is the usual one.
    """
    weights, run, method = named.model.weights or {}, named.served.name, named.model.method
    shares = tuple(weights.values())
    if named.model.aligned.mixture.points[0] == shares:
        shares = on_grid(shares, STEPS)
    said = f":{ratios(dict(zip(weights, shares, strict=True)))}" if weights else ""
    return {f"{run}/{method}{said}", *([f"{run}{said}"] if method == named.served.usual else [])}


def _another_base(run: FinishedRun, base: str) -> str:
    """What to say where the run's policies were trained from another model by name, which may be the same one."""
    policy = run.path / "align" / "adapters" / run.objectives[0]
    own, rounded = base_of(policy), said_of(run.config.model.quantise)
    if base == own or (Path(base).exists() and Path(base).resolve() == Path(own)):
        return f"{run.path}: {rounded}" if rounded else ""
    try:
        if shape := shape_of(base):
            load_adapter(policy, outline(shape))
    except SipoError as problem:
        raise SipoError(f"{run.path}: its policies do not fit {base} ({problem}); serve {own}") from None
    return f"{run.path}: its policies were trained over {own}; that {base} has the same weights is not checked"
