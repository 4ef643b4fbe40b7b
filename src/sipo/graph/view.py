"""A configuration as one stage sees it: the keys that it declares. What a stage reads is then a fact, not a promise."""

from types import FunctionType, MethodType
from typing import Any

from pydantic import BaseModel

FREE = ("execution", "run_dir", "model", "objectives.name", "data.path", "data.source")
"""Seen by every stage, and part of no key: how the work is cut up and where things are. What the model, the rows and
the objectives are is in every key, as the run's subject."""
IMPLIED = {"objectives.reward": ("objectives.direction", "objectives.better"), "lora": ("policies",)}
"""Keys that come with another, whose digest holds them as far as they matter."""


class UndeclaredError(RuntimeError):
    """A stage read a key that it does not declare: a fault of the stage, never of the user."""


class View:
    """Stands in for a section of the configuration. `used` collects the declared keys that were read."""

    def __init__(
        self, section: BaseModel, reads: tuple[str, ...], whose: str, used: set[str] | None = None, at: str = ""
    ) -> None:
        implied = tuple(key for read in reads for key in IMPLIED.get(read, ()))
        self._section, self._reads, self._implied = section, reads, implied
        self._whose, self._at = whose, at
        self._used: set[str] = set() if used is None else used

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(self._section)
        if name not in kind.model_fields:  # a property or method reads through the view as well
            found = getattr(kind, name, None)
            if isinstance(found, property) and found.fget:
                return found.fget(self)
            if isinstance(found, FunctionType):
                return MethodType(found, self)
            raise AttributeError(f"{kind.__name__} has no {name}")
        key, value = f"{self._at}.{name}" if self._at else name, getattr(self._section, name)
        if key in self._reads:
            self._used.add(key)
            return value
        if key in FREE or key in self._implied:
            return value
        known = (*self._reads, *self._implied, *FREE)
        if any(each.startswith(f"{key}.") for each in known):
            return self._inside(value, key)
        raise UndeclaredError(f"stage `{self._whose}` reads the key {key}, which it does not declare")

    def _inside(self, value: Any, key: str) -> Any:
        if isinstance(value, BaseModel):
            return View(value, self._reads, self._whose, self._used, key)
        if isinstance(value, tuple):
            return tuple(self._inside(each, key) for each in value)
        return value
