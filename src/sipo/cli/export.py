"""`sipo export`: what was written, what it stands on, and how it is served."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.bank import Adapter
from sipo.cli.generate import missing_weights
from sipo.commands import serve, vllm_soups
from sipo.disk.appearing import check_free
from sipo.disk.publishing import check_name
from sipo.errors import SipoError
from sipo.finished.built import spec_of
from sipo.finished.distil import distil
from sipo.finished.export import export, named_base
from sipo.finished.gguf_lora import export_gguf
from sipo.finished.grpo import export_grpo
from sipo.models.quantisation import said_of
from sipo.progress import Progress, say

if TYPE_CHECKING:
    from sipo.finished.distil import Distilled
    from sipo.finished.handle import AlignedModel, FinishedRun


def asked(run: "FinishedRun", method: str, shares: Mapping[str, float] | None) -> "AlignedModel":
    """The method's model. Raises SipoError where it lacks weights, or is the same at any."""
    if not spec_of(method).steered:
        if shares is not None:
            raise SipoError(f"--weights: `{method}` is the same at any weight; leave the weights out")
        return run.at(None, method)
    if shares is None:
        raise missing_weights(run.objectives)
    return run.at(shares, method)


def write(
    model: "AlignedModel",
    to: Path,
    *,
    merged: bool,
    base: str | None,
    rank: int | None = None,
    distilled: "Distilled | None" = None,
) -> dict[str, Any]:
    """Write the model into the new folder `to`, say so, and return it as a record."""
    made = export(model, to, merged=merged, base=base, rank=rank, distilled=distilled)
    say(f"{to}: written; {to / 'README.md'} says how to load it")
    if made.cut:
        say(f"cut from rank {made.cut.exact} to {made.rank}: {made.cut}")
    elif rank is not None:
        say(f"it has rank {made.rank}, and nothing was cut")
    if made.base and base is None and Path(made.base).is_absolute():
        say(f"its base model is {made.base}, on this machine alone; --base ID names the one that others have")
    served = serve(to, made.base, made.rank or 0)
    if served:
        say(f"serve it {served}")
    _note(model)
    soups = "" if distilled else _soups_served(model, made.base)
    if soups:
        say(f"serve soups at any weight, with sipo beside vLLM, by `{soups}`")
    about = {"folder": to, "method": model.method, "weights": model.weights, "base": made.base, "rank": made.rank}
    record = {**about, "cut": made.cut and made.cut.record, "serve": served or None}
    record["serve_soups"] = soups or None
    return record if distilled is None else {**record, "distilled": asdict(distilled)}


def _note(model: "AlignedModel") -> None:
    if rounded := said_of(model.run.config.model.quantise):
        say(f"note: {rounded}")


def _soups_served(model: "AlignedModel", base: str | None) -> str:
    """How vLLM serves the soups of the run's policies; empty where the model is none of them."""
    run, adapters = model.run, model.aligned.adapters
    if base is None or len(adapters) != len(run.objectives) or os.pathsep in str(run.path):
        return ""
    return vllm_soups(run.path, base, sum(each.rank for each in adapters if isinstance(each, Adapter)))


def write_distilled(
    run: "FinishedRun", shares: Mapping[str, float], method: str, to: Path, *, merged: bool, base: str | None
) -> dict[str, Any]:
    """Make one model of the method's mixture and write it, with what it is worth beside the method."""
    check_name(to)
    check_free(to)
    named_base(base)  # before the work, not after it
    model, distilled = distil(run, shares, method)
    record = write(model, to, merged=merged, base=base, distilled=distilled)
    if distilled.mine:
        progress, columns = Progress(), ["model", *distilled.mine["rewards"], "tokens"]
        points = [[name, *each["rewards"].values(), each["length"]] for name, each in distilled.points.items()]
        progress.table(f"mean true rewards on {distilled.prompts} held-out prompts", columns, points)
        less = [
            [f"less {name}", *("{:+.3f} [{:+.3f}, {:+.3f}]".format(*each) for each in found.values())]
            for name, found in distilled.differences.items()
        ]
        columns = ["distilled", *next(iter(distilled.differences.values()))]
        progress.table("what that gains, paired by prompt, with 95 % intervals (positive is better)", columns, less)
    return record


def write_rewards(run: Path, shares: Mapping[str, float], to: Path) -> dict[str, Any]:
    """Write the run's rewards for TRL into the new folder `to`, say so, and return it as a record."""
    made = export_grpo(run, shares, to)
    names = f"from {made['file'].stem} import reward_funcs, reward_weights"
    say(f"{made['file']}: written; with {to} on Python's path, `{names}`")
    return made


def write_for_llama_cpp(model: "AlignedModel", to: Path) -> dict[str, Any]:
    """Write the policies that the model is a sum of into the new folder `to`, say so, and return it as a record."""
    found = export_gguf(model, to)
    say(f"{to}: {', '.join(each.name for each in found['adapters'])} written; {to / 'README.md'} says how to use them")
    _note(model)
    say(f"llama.cpp serves them by `{found['serve']}`")
    say(f"a request for this weight, or with other scales for another, has {json.dumps(found['request'])}")
    return {"folder": to, "method": model.method, "weights": model.weights, **found}
