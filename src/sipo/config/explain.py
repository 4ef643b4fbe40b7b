"""What a configuration's validation found, as one line that names the key and says what to write there."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sipo.errors import SipoError

S = TypeVar("S", bound=BaseModel)

WRITE = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text (numbers and the like in quotes)",
    "string_too_short": "a text that is not empty",
    "path_type": "a path",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "a mapping, such as {name: value}",
    "invalid_key": "a text as its name",
}
BOUND = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
NAMES = "a name of letters, digits, _ and - that begins with a letter"
HEADERS = "letters, digits and - alone"

_short = Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 4
_short.maxlevel = 2


def explain(error: ValidationError, values: Any, section: type[BaseModel]) -> str:
    """The first problem of `values` as `section`; of a key with several forms, that of the form which is meant."""
    found = sorted(
        error.errors(), key=lambda each: each["type"] != "extra_forbidden"
    )  # what is missing may be misspelt
    problems = [(_place(problem, values), problem) for problem in found]
    first = problems[0][0]
    alike = [(place, problem) for place, problem in problems if place[: len(first)] == first]
    deepest = max(len(place) for place, _ in alike)
    meant = [(place, problem) for place, problem in alike if len(place) == deepest]
    place, problem = meant[0]
    name, kind = ".".join(map(str, place)), problem["type"]
    if kind == "extra_forbidden":
        return _unknown(place, section)
    if kind == "missing":
        return f"`{name}` is missing; add it"
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"`{name}`: {message}" if name else message
    ways = list(dict.fromkeys(_way(each, _section_at(place, section)) for at, each in meant if at == place))
    return f"`{name}` is {shown(problem['input'])}; write {', or '.join(ways)}"


def adjusted(settings: S, **changes: Any) -> S:
    """The settings with what is not None changed. Raises SipoError for a value that makes no sense."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return type(settings)(**{**settings.model_dump(), **given})
    except ValidationError as error:
        raise SipoError(explain(error, given, type(settings))) from None


def shown(value: Any) -> str:
    """A value as YAML has it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence | Mapping) and not value:
        return "empty"
    return _short.repr(value)


def _way(problem: ErrorDetails, section: type[BaseModel] | None) -> str:
    """What to write instead."""
    kind, told = problem["type"], problem.get("ctx", {})
    if kind in BOUND:
        bound, words = BOUND[kind]
        return f"a number {words} {told[bound]}"
    if kind == "literal_error":
        options = told["expected"].replace("'", "")
        near = get_close_matches(str(problem["input"]), options.replace(" or ", ", ").split(", "), n=1)
        return options + (f" (did you mean `{near[0]}`?)" if near else "")
    if kind == "too_short":
        return f"at least {told['min_length']}"
    if kind == "string_pattern_mismatch":
        return NAMES if "_" in told["pattern"] else HEADERS
    if kind in ("model_type", "model_attributes_type") and section is not None:
        return f"keys below it; they are {', '.join(section.model_fields)}"
    return WRITE.get(kind, f"something else ({problem['msg']})")


def _place(problem: ErrorDetails, values: Any) -> tuple[str | int, ...]:
    """Where it is in what was written, without pydantic's names for the ways to read a value."""
    place: list[str | int] = []
    *parents, last = problem["loc"] or [""]
    for part in parents:
        if (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]  # type: ignore[index]
            place.append(part)
    written = (isinstance(values, Mapping) and last in values) or (
        isinstance(values, list | tuple) and isinstance(last, int)
    )
    absent = problem["type"] in ("missing", "extra_forbidden", "value_error")
    return (*place, last) if problem["loc"] and (written or absent) else tuple(place)


def _unknown(place: Sequence[str | int], root: type[BaseModel]) -> str:
    *parents, key = place
    section = _section_at(parents, root)
    known = list(section.model_fields) if section else []
    near = get_close_matches(str(key), known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"the keys here are {', '.join(known)}"
    where = f" in `{'.'.join(map(str, parents))}`" if parents else ""
    return f"unknown key `{key}`{where}, {hint}"


def _section_at(place: Sequence[str | int], section: type[BaseModel]) -> type[BaseModel] | None:
    """The section at a place, None where there is none."""
    for part in place:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        found = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if found is None:
            return None
        section = found
    return section
