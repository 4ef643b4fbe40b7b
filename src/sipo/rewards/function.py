"""Rewards that are Python functions, named in a configuration as `module:function`."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from itertools import islice
from traceback import extract_tb
from typing import TypeAlias, cast

import torch

from sipo.data.prompts import text_of
from sipo.errors import SipoError
from sipo.rewards.interface import Item

RewardFunction: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(prompts, responses) -> one finite number for each response; larger is more of what it measures."""


class FunctionScorer:
    """A Python function as a scorer. Its prompts are texts: a longer chat has one `role: content` a line."""

    identity: str | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.function = load_function(name)

    def check(self) -> None:
        """Nothing more than loading it."""

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        if not items:
            return
        prompts, responses = [text_of(item.prompt) for item in items], [item.response for item in items]
        try:
            with undisturbed():
                given = self.function(prompts, responses)
                shapeless = isinstance(given, str | bytes | Mapping | Set)
                numbers = [] if shapeless else list(islice(given, len(items) + 1))  # a generator may not end
        except SipoError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too, would end sipo without a word
            frames = extract_tb(error.__traceback__)[1:]  # the first is this function
            where = f" at {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
            problem = f"failed with {type(error).__name__}: {_text(error)}{where}"
            raise SipoError(f"{problem}; it must take (prompts, responses) and return one number for each") from error
        if shapeless:
            raise SipoError(f"gave a {type(given).__name__}; return a list of numbers, one for each response, in order")
        if len(numbers) != len(items):
            count = f"more than {len(items)}" if len(numbers) > len(items) else f"{len(numbers)}"
            problem = f"gave {count} numbers for {len(items)} responses"
            raise SipoError(f"{problem}; return one for each, in order")
        for index, number in enumerate(numbers):
            yield index, [number]


def load_function(spec: str) -> RewardFunction:
    """The function that `module:function` names. Raises SipoError, which does not repeat the name, without one."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise SipoError("write it as module:function, such as sipo.rewards.text:words")
    module = _import(module_name)
    function = getattr(module, name, None)
    if function is None:
        near = get_close_matches(name, vars(module), n=1)
        hint = f"did you mean `{module_name}:{near[0]}`?" if near else "name a function that it defines"
        raise SipoError(f"{module_name} has no `{name}`; {hint}")
    if not callable(function):
        raise SipoError(f"`{name}` is {type(function).__name__}; name a function")
    return cast(RewardFunction, function)


def _import(module_name: str) -> object:
    try:
        with undisturbed():
            return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            way_out = "check the spelling, or add the folder it is in to PYTHONPATH"
        else:
            way_out = f"{module_name} needs it, install it"
        raise SipoError(f"no module named `{missing}`; {way_out}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may be a script, and exit
        problem = f"importing {module_name} failed with {type(error).__name__}: {_text(error)}"
        raise SipoError(f"{problem}; mend the module") from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Code of users may set for all what it wants for itself; here what torch is set to and the folder come back."""
    folder, dtype, device = os.getcwd(), torch.get_default_dtype(), torch.get_default_device()
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


def _text(error: BaseException) -> str:
    """What it says; a class of one's own may fail at that."""
    try:
        return str(error)
    except Exception:
        return "it cannot be told"
