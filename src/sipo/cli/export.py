"""`sipo export`: what was written, what it stands on, and how it is served."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.commands import serve
from sipo.finished.export import export
from sipo.finished.grpo import export_grpo
from sipo.progress import say

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel


def write(model: "AlignedModel", to: Path, *, merged: bool, base: str | None, rank: int | None) -> dict[str, Any]:
    """Write the model into the new folder `to`, say so, and return it as a record."""
    made = export(model, to, merged=merged, base=base, rank=rank)
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
    about = {"folder": to, "method": model.method, "weights": model.weights, "base": made.base, "rank": made.rank}
    return {**about, "cut": made.cut and made.cut.record, "serve": served or None}


def write_rewards(run: Path, shares: Mapping[str, float], to: Path) -> dict[str, Any]:
    """Write the run's rewards for TRL into the new folder `to`, say so, and return it as a record."""
    made = export_grpo(run, shares, to)
    names = f"from {made['file'].stem} import reward_funcs, reward_weights"
    say(f"{made['file']}: written; with {to} on Python's path, `{names}`")
    return made
