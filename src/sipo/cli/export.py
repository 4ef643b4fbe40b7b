"""`sipo export`: what was written, what it stands on, and how it is served."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.bank.peft_folder import read_lora
from sipo.commands import serve
from sipo.progress import say

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel


def export(model: "AlignedModel", to: Path, *, merged: bool, base: str | None) -> dict[str, Any]:
    """Write the model into the new folder `to`, say so, and return it as a record."""
    model.save_pretrained(to, merged=merged, base=base)
    lora = read_lora(to) if (to / "adapter_config.json").exists() else None
    stands_on, rank = (lora.base_model_name_or_path, lora.r) if lora else (None, 0)
    say(f"{to}: written; {to / 'README.md'} says how to load it")
    if stands_on and base is None and Path(stands_on).is_absolute():
        say(f"its base model is {stands_on}, on this machine alone; --base ID names the one that others have")
    served = serve(to, stands_on, rank)
    if served:
        say(f"serve it {served}")
    about = {"folder": to, "method": model.method, "weights": model.weights}
    return {**about, "base": stands_on, "rank": rank or None, "serve": served or None}
