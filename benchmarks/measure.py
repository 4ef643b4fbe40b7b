"""Interleaved timing in one process, and the peak memory of a call."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from sipo.runs.peak import peak_bytes, reset_peak


@dataclass(frozen=True)
class Route:
    """One way to do the work. `run` takes what `prepare` returned; only `run` is timed."""

    name: str
    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    share: float = 1.0
    """The part of the work that it does, where its cost is proportional; its seconds are divided by it."""
    holds: tuple[nn.Module, ...] = ()
    """The models that it needs."""


@dataclass
class Measured:
    result: Any
    peak_bytes: int | None
    """The parameters it holds and the most that a call added to what the process held; None where unknown."""
    seconds: list[float] = field(default_factory=list)
    """One a round, for the whole work."""


def interleaved(
    routes: Sequence[Route], device: torch.device, repeats: int, budget: float | None
) -> dict[str, Measured]:
    """Run A B A B ..: a first round that warms up and gives results and peaks, then up to `repeats` timed ones."""
    measured = {}
    for route in routes:
        result, growth = peak_growth(device, partial(route.run, route.prepare()))
        held = parameter_bytes(route.holds)
        measured[route.name] = Measured(result, None if growth is None else held + growth)
    began = time.perf_counter()
    for _ in range(repeats):
        gc.collect()
        for route in routes:
            measured[route.name].seconds.append(timed(device, partial(route.run, route.prepare())) / route.share)
        if budget is not None and time.perf_counter() - began > budget:
            break
    return measured


def timed(device: torch.device, call: Callable[[], Any]) -> float:
    """Seconds until the device has finished the call."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_growth(device: torch.device, call: Callable[[], Any]) -> tuple[Any, int | None]:
    """The call's result and the most bytes it added, while it ran, to what was held before."""
    before = reset_peak(device)
    result = call()
    return result, None if before is None else max(0, peak_bytes(device) - before)


def parameter_bytes(models: Sequence[nn.Module]) -> int:
    """Of the distinct parameters: what models share counts once."""
    parameters = {p.data_ptr(): p.numel() * p.element_size() for model in models for p in model.parameters()}
    return sum(parameters.values())
