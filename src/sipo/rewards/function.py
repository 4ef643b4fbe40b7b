"""Rewards that are Python functions, named in a configuration as `module:function`."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import TypeAlias, cast

import torch

from sipo.data.prompts import text_of
from sipo.errors import SipoError
from sipo.rewards.interface import Item
from sipo.rewards.objective import file_of
from sipo.words import nearest, quantity

RewardFunction: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(prompts, responses) -> one finite number for each response; larger is more of what it measures."""


class FunctionScorer:
    """A Python function as a scorer. Its prompts are texts: a longer chat has one `role: content` a line."""

    identity: str | None = None

    def __init__(self, name: str) -> None:
        self.name, self.file = name, file_of(name)
        self.function = load_function(name)

    def check(self) -> None:
        """Nothing more than loading it."""

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        if not items:
            return
        prompts, responses = [text_of(item.prompt) for item in items], [item.response for item in items]
        try:
            with undisturbed(), beside(self.file[0]) if self.file else nullcontext():
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
            wanted = quantity(len(items), "response")
            more = f"more than {quantity(len(items), 'number')}"
            problem = f"gave {more if len(numbers) > len(items) else quantity(len(numbers), 'number')} for {wanted}"
            raise SipoError(f"{problem}; return one for each, in order")
        for index, number in enumerate(numbers):
            yield index, [number]


def load_function(spec: str) -> RewardFunction:
    """The function that `module:function` names. Raises SipoError, which does not repeat the name, without one."""
    module_name, colon, name = spec.rpartition(":")
    if not (module_name and colon and name):
        raise SipoError("write it as module:function, such as sipo.rewards.text:words")
    module = _import(module_name)
    function = getattr(module, name, None)
    if function is None:
        near = nearest(name, vars(module))
        hint = f"did you mean `{module_name}:{near}`?" if near else "name a function that it defines"
        raise SipoError(f"{module_name} has no `{name}`; {hint}")
    if not callable(function):
        raise SipoError(f"`{name}` is {type(function).__name__}; name a function")
    return cast(RewardFunction, function)


def _import(module_name: str) -> object:
    try:
        with undisturbed():
            return _from_file(Path(module_name)) if module_name.endswith(".py") else import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            way_out = "check the spelling, put the file beside the configuration, or its folder in PYTHONPATH"
        else:
            way_out = f"{module_name} needs it, install it"
        raise SipoError(f"no module named `{missing}`; {way_out}") from None
    except (KeyboardInterrupt, SipoError):
        raise
    except BaseException as error:  # a module may be a script, and exit
        problem = f"importing {module_name} failed with {type(error).__name__}: {_text(error)}"
        raise SipoError(f"{problem}; mend the module") from error


def _from_file(file: Path) -> ModuleType:
    """The module in a file, once a process. Its name is its own, so that it is no other file of that name."""
    path = os.path.abspath(file)
    name = f"{file.stem}_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not file.is_file():
        raise SipoError("there is no such file")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with beside(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def beside(file: Path) -> Iterator[None]:
    """The block may import what lies beside the file. Python forgets it then, as another folder's may
    have the same name.
    """
    folder = os.path.dirname(os.path.abspath(file))
    if folder in sys.path:
        yield
        return
    before = set(sys.modules)
    sys.path.append(folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
        tops = {name.partition(".")[0] for name in set(sys.modules) - before}
        mine = {top for top in tops if top in sys.modules and _place(sys.modules[top]) == os.path.join(folder, top)}
        for name in [name for name in sys.modules if name.partition(".")[0] in mine and name not in before]:
            del sys.modules[name]


def _place(module: ModuleType) -> str:
    """Of a module its file without the suffix, of a package its folder."""
    packages = list(getattr(module, "__path__", []))
    return packages[0] if packages else os.path.splitext(getattr(module, "__file__", None) or "")[0]


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
