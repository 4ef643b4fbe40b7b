"""Which model of which run a request names: `quickstart`, `quickstart/mod`, `quickstart/mod:helpful=0.3,harmless=0.7`.

Names are read strictly: what is no run, method or objective is refused, never guessed at.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from sipo.commands import evenly, ratios, resume, sipo
from sipo.disk.damage import DamageError
from sipo.errors import SipoError
from sipo.finished.built import names_of, spec_of
from sipo.finished.handle import AlignedModel, FinishedRun
from sipo.methods.registry import usual
from sipo.pairs import parse_shares
from sipo.places import path_of
from sipo.serve.wire import ApiError
from sipo.weights import ROUNDING

RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Served:
    """A run that is served."""

    name: str
    run: FinishedRun
    methods: tuple[str, ...]
    """Those that can answer."""
    fronts: Mapping[str, Any] | None
    """What the run measured."""

    @classmethod
    def of(cls, name: str, run: FinishedRun) -> "Served":
        return cls(name, run, run.methods, run.fronts)

    @property
    def usual(self) -> str:
        """What answers where no method is named: the run's own usual one, or MOD as long as that is not finished."""
        own, mod = usual(self.run.config.methods), usual(())
        return mod if own not in self.methods and mod in self.methods else own

    @property
    def lacking(self) -> str:
        """What of the run cannot answer yet, for people; empty where all of it can."""
        methods = self.run.config.methods
        names = [each for method in methods for each in names_of(method, self.run.objectives)]
        if not (lacking := [name for name in names if name not in self.methods]):
            return ""
        own, again = usual(methods), f"`{sipo(*resume(self.run.path))}`, and then serve it anew"
        instead = f", so {self.usual} answers in place of {own}" if self.usual != own else ""
        return f"not there yet: {', '.join(lacking)}{instead}; finish the run by {again}"

    def names(self) -> list[str]:
        """Models that can be named, but for their weights."""
        return [self.name, *(f"{self.name}/{method}" for method in self.methods)]


@dataclass(frozen=True)
class Named:
    """A model that was named."""

    served: Served
    model: AlignedModel

    @property
    def name(self) -> str:
        """In full, as it can be named again."""
        weights = f":{ratios(self.model.weights)}" if self.model.weights else ""
        return f"{self.served.name}/{self.model.method}{weights}"

    @property
    def about(self) -> dict[str, Any]:
        """The weight that is used, and the evaluated point nearest to it with its mean rewards and 95 % intervals."""
        model = self.model
        nearest = nearest_point(self.served.fronts, model.method, model.weights)
        return {"run": self.served.name, "method": model.method, "weights": model.weights, "nearest": nearest}


def named_runs(texts: Sequence[str]) -> dict[str, Path]:
    """RUN or NAME=RUN; a folder is called by its own name. Raises SipoError where two are called the same."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = path_of(text).resolve().name, text
        if not RUN_NAME.fullmatch(name):
            raise SipoError(f"{path}: `{name}` is no name for a model; call the run by NAME={path}")
        if name in found:
            raise SipoError(f"{path}: another run is called `{name}` as well; call one of them by NAME={path}")
        found[name] = path_of(path)
    return found


def resolve(runs: Mapping[str, Served], name: str, weights: Mapping[str, float] | None) -> Named:
    """The model that a request names, with its weights in the name or beside it; none are an even share for each.

    Raises ApiError: 404 for an unknown run or method, 400 for weights that make no sense.
    """
    run = re.split("[/:]", name, maxsplit=1)[0]
    if run not in runs:
        raise _unknown(f"the model `{name}` is not served here; its run is none of {', '.join(runs)}")
    served, rest = runs[run], name[len(run) :]
    method = served.usual
    if rest.startswith("/"):
        method, rest = _method(served, rest[1:], name)
    given: Mapping[str, float] | None = weights
    place = "weights"
    if rest:
        if weights is not None:
            message = f"the model's name `{name}` has weights, and the request too; give them once"
            raise ApiError(400, message, param=place)
        place = "model"
        given = _said(lambda: parse_shares("model", rest[1:]), place)
    steered = _said(lambda: spec_of(method).steered, "model")
    if given is not None and not steered:
        raise ApiError(400, f"`{method}` is the same at any weight; leave the weights out", param=place)
    names = served.run.objectives
    shares = evenly(names) if given is None else _said(lambda: normalised(given, names, place), place)
    return Named(served, _said(lambda: served.run.at(shares if steered else None, method), place))


def _method(served: Served, text: str, name: str) -> tuple[str, str]:
    """A method that the run has, and what follows it: nothing, or a colon and more."""
    fits = [each for each in served.methods if text == each or text.startswith(f"{each}:")]
    if not fits:
        raise _unknown(
            f"the model `{name}` is not served here; methods of {served.name} are {', '.join(served.methods)}"
        )
    method = max(fits, key=len)
    return method, text[len(method) :]


def _unknown(message: str) -> ApiError:
    return ApiError(404, message, param="model", code="model_not_found")


def _said(call: Any, param: str) -> Any:
    try:
        return call()
    except DamageError as error:  # the run is at fault, and not who asks
        raise ApiError(500, str(error)) from None
    except SipoError as error:
        raise ApiError(400, str(error), param=param) from None


def normalised(shares: Mapping[str, float], objectives: Sequence[str], place: str) -> dict[str, float]:
    """The shares in proportion, 1 in all; such as are 1 already stay as they are, to the last bit. Raises SipoError."""
    for name, share in shares.items():
        if name not in objectives:
            raise SipoError(f"{place}: `{name}` is no objective; they are {', '.join(objectives)}")
        if not isfinite(share) or share < 0:
            raise SipoError(f"{place}: {name} is {share:g}; give a number, 0 or above")
    total = sum(shares.values())
    if not isfinite(total) or total <= 0:
        raise SipoError(f"{place}: the shares sum to {total:g}; give one above 0")
    scale = 1.0 if abs(total - 1) <= ROUNDING else total
    return {name: shares.get(name, 0.0) / scale for name in objectives}


def nearest_point(
    fronts: Mapping[str, Any] | None, method: str, weights: Mapping[str, float] | None
) -> dict[str, Any] | None:
    """Of what the run measured of the method, the point at the nearest weight; None where it measured nothing of it.

    A single prompt has no interval: a bootstrap of it is a point, which would look like certainty.
    """
    found = (fronts or {}).get("methods", {}).get(method, {}).get("points", [])
    if not found:
        return None

    def distance(point: Mapping[str, Any]) -> float:
        return sum(abs(share - (weights or {}).get(name, 0.0)) for name, share in (point["weights"] or {}).items())

    point = min(found, key=distance)
    prompts = (fronts or {}).get("prompts")
    interval = point["interval"] if prompts is None or prompts > 1 else None
    return {"weights": point["weights"], "rewards": point["rewards"], "interval": interval, "prompts": prompts}
