"""Rewards: functions that score responses, named in a configuration as `module:function`."""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from traceback import extract_tb
from typing import Any, TypeAlias, cast

from sipo.errors import SipoError

Reward: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(prompts, responses) -> one finite number for each response; larger is more of what it measures."""


def load_reward(spec: str) -> Reward:
    """The function that `module:function` names. Raises SipoError if there is none."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise SipoError(f"reward `{spec}`: write it as module:function, such as sipo.rewards.text:words")
    module = _import(module_name, spec)
    function = getattr(module, name, None)
    if function is None:
        near = get_close_matches(name, vars(module), n=1)
        hint = f"did you mean `{module_name}:{near[0]}`?" if near else "name a function that it defines"
        raise SipoError(f"reward `{spec}`: {module_name} has no `{name}`; {hint}")
    if not callable(function):
        raise SipoError(f"reward `{spec}`: `{name}` is {type(function).__name__}; name a function")
    return cast(Reward, function)


def score(reward: Reward, spec: str, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """One finite number for each response. Raises SipoError naming `spec` and the first bad index, from 0."""
    try:
        values = list(reward(prompts, responses))
    except SipoError as error:
        raise SipoError(f"reward `{spec}`: {error}") from None
    except Exception as error:
        frames = extract_tb(error.__traceback__)[1:]  # the first is this function
        where = f" at {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
        problem = f"failed with {type(error).__name__}: {error}{where}"
        way_out = "it must take (prompts, responses) and return one number for each response"
        raise SipoError(f"reward `{spec}`: {problem}; {way_out}") from error
    if len(values) != len(responses):
        problem = f"gave {len(values)} numbers for {len(responses)} responses"
        raise SipoError(f"reward `{spec}`: {problem}; return one for each, in order")
    numbers = [_number(value) for value in values]
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            problem = f"gave {values[index]!r} for response {index}"
            raise SipoError(f"reward `{spec}`: {problem}; return a finite number for every text")
    return numbers


def _import(module_name: str, spec: str) -> object:
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            way_out = "check the spelling, or add the folder it is in to PYTHONPATH"
        else:
            way_out = f"{module_name} needs it, install it"
        raise SipoError(f"reward `{spec}`: no module named `{missing}`; {way_out}") from None
    except Exception as error:
        problem = f"importing {module_name} failed with {type(error).__name__}: {error}"
        raise SipoError(f"reward `{spec}`: {problem}; mend the module") from error


def _number(value: Any) -> float:
    """As a float; NaN for what is no number, text included."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
