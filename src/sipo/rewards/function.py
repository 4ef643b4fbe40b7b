"""Rewards that are Python functions, named in a configuration as `module:function`."""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from traceback import extract_tb
from typing import TypeAlias, cast

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
        prompts, responses = [text_of(item.prompt) for item in items], [item.response for item in items]
        try:
            numbers = list(self.function(prompts, responses))
        except SipoError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too, would end sipo without a word
            frames = extract_tb(error.__traceback__)[1:]  # the first is this function
            where = f" at {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
            problem = f"failed with {type(error).__name__}: {_text(error)}{where}"
            raise SipoError(f"{problem}; it must take (prompts, responses) and return one number for each") from error
        if len(numbers) != len(items):
            problem = f"gave {len(numbers)} numbers for {len(items)} responses"
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


def _text(error: BaseException) -> str:
    """What it says; a class of one's own may fail at that."""
    try:
        return str(error)
    except Exception:
        return "it cannot be told"
