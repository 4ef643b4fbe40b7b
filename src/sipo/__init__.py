"""sipo: align one language model to several preferences at once, and choose the trade-off afterwards.

`run` calls the stages whose results do not hold yet; `sipo.stages` has them one by one. `open` gives a finished run,
which answers at any weight.
Names are imported when first used, so that the command line starts without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sipo.bank import Adapter, Bank, load_adapter, save_adapter, soup
    from sipo.config import Config
    from sipo.config.file import load_config
    from sipo.data import Row, conflict_statistics, read_rows, write_rows
    from sipo.errors import SipoError
    from sipo.finished.handle import AlignedModel, FinishedRun, open
    from sipo.labelling import label
    from sipo.message import Message
    from sipo.methods.base import base_model
    from sipo.methods.interface import Aligned, Method
    from sipo.methods.mod import mod
    from sipo.methods.policies import single_policies
    from sipo.methods.sipo import sipo
    from sipo.methods.soups import factor_soups, soups
    from sipo.runs.outputs import Outputs
    from sipo.runs.pipeline import run
    from sipo.task import Task

_HOME = {
    "sipo.bank": ("Adapter", "Bank", "load_adapter", "save_adapter", "soup"),
    "sipo.config": ("Config",),
    "sipo.config.file": ("load_config",),
    "sipo.data": ("Row", "conflict_statistics", "read_rows", "write_rows"),
    "sipo.errors": ("SipoError",),
    "sipo.finished.handle": ("AlignedModel", "FinishedRun", "open"),
    "sipo.labelling": ("label",),
    "sipo.message": ("Message",),
    "sipo.methods.interface": ("Aligned", "Method"),
    "sipo.methods.base": ("base_model",),
    "sipo.methods.mod": ("mod",),
    "sipo.methods.policies": ("single_policies",),
    "sipo.methods.sipo": ("sipo",),
    "sipo.methods.soups": ("factor_soups", "soups"),
    "sipo.runs.outputs": ("Outputs",),
    "sipo.runs.pipeline": ("run",),
    "sipo.task": ("Task",),
}

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "Aligned",
    "AlignedModel",
    "Bank",
    "Config",
    "FinishedRun",
    "Message",
    "Method",
    "Outputs",
    "Row",
    "SipoError",
    "Task",
    "base_model",
    "conflict_statistics",
    "factor_soups",
    "label",
    "load_adapter",
    "load_config",
    "mod",
    "open",
    "read_rows",
    "run",
    "save_adapter",
    "single_policies",
    "sipo",
    "soup",
    "soups",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOME.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'sipo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
