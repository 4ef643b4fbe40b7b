"""What a configuration's validation found, as one line that names the key and says what to write there."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sipo.errors import SipoError
from sipo.settings.section import RULE
from sipo.words import nearest

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
    problems = [(_place(problem, values, section), problem) for problem in found]
    first = problems[0][0]
    alike = [(place, problem) for place, problem in problems if place[: len(first)] == first]
    deepest = max(len(place) for place, _ in alike)
    meant = [(place, problem) for place, problem in alike if len(place) == deepest]
    place, problem = meant[0]
    name, kind = ".".join(map(str, place)), problem["type"]
    if kind == "extra_forbidden":
        return _unknown(place, section, values)
    if kind == "missing":
        return f"`{name}` is missing; add it"
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"`{name}`: {message}" if name else message
    ways = list(dict.fromkeys(_way(each, _section_at(place, section, values)) for at, each in meant if at == place))
    if kind == "union_tag_invalid":
        return f"`{name}.{RULE}` is {shown(problem['input'][RULE])}; write {ways[0]}"
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
        return _option(told["expected"].replace("'", "").replace(" or ", ", ").split(", "), problem["input"])
    if kind == "union_tag_invalid":
        return _option(told["expected_tags"].replace("'", "").split(", "), told["tag"])
    if kind == "too_short":
        return f"at least {told['min_length']}"
    if kind == "string_pattern_mismatch":
        return NAMES if "_" in told["pattern"] else HEADERS
    if kind in ("model_type", "model_attributes_type") and section is not None:
        return f"keys below it; they are {', '.join(section.model_fields)}"
    return WRITE.get(kind, f"something else ({problem['msg']})")


def _option(options: Sequence[str], written: Any) -> str:
    near = nearest(str(written), options)
    return _listed(options) + (f" (did you mean `{near}`?)" if near else "")


def _listed(options: Sequence[str]) -> str:
    *most, last = options
    return f"{', '.join(most)} or {last}" if most else last


def _place(problem: ErrorDetails, values: Any, section: type[BaseModel]) -> tuple[str | int, ...]:
    """Where it is in what was written, without pydantic's names for the ways to read a value."""
    place: list[str | int] = []
    *parents, last = _without_rules(problem["loc"], section) or [""]
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


def _without_rules(loc: Sequence[str | int], section: type[BaseModel]) -> list[str | int]:
    """pydantic puts the rule behind the place of a section that is told apart by it; nobody wrote it there."""
    place: list[str | int] = []
    field: FieldInfo | None = None
    inside: type[BaseModel] | None = section
    for part in loc:
        if field and field.discriminator and place and isinstance(part, str) and part in rules_of(field):
            inside, field = rules_of(field)[part], None
            continue
        place.append(part)
        if isinstance(part, str):
            field = inside.model_fields.get(part) if inside else None
            inside = _inside(field)
    return place


def _unknown(place: Sequence[str | int], root: type[BaseModel], values: Any) -> str:
    *parents, key = place
    section, where = _section_at(parents, root, values), ".".join(map(str, parents))
    known = list(section.model_fields) if section else []
    field = _field_at(parents, root, values)
    others = [rule for rule, each in rules_of(field).items() if key in each.model_fields]
    if others and section:
        rule = _rule(_value_at(parents, values), section)
        way_out = f"leave it out, or set {where}.{RULE} to {_listed(others)}"
        return f"`{where}.{key}`: the {RULE} {rule} does not read {key}; {way_out}"
    near = nearest(str(key), known)
    hint = f"did you mean `{near}`?" if near else f"the keys here are {', '.join(known)}"
    return f"unknown key `{key}`{f' in `{where}`' if where else ''}, {hint}"


def rules_of(field: FieldInfo | None) -> dict[str, type[BaseModel]]:
    """The sections of which a field holds one, by the rule that tells them apart; none where it holds no such."""
    if field is None or field.discriminator is None:
        return {}
    return {rule: each for each in get_args(field.annotation) for rule in get_args(each.model_fields[RULE].annotation)}


def _section_at(place: Sequence[str | int], section: type[BaseModel], values: Any) -> type[BaseModel] | None:
    """The section at a place, None where there is none."""
    found: type[BaseModel] | None = section
    for part in place:
        values = _value_at([part], values)
        if isinstance(part, str) and found is not None:
            field = found.model_fields.get(part)
            found = _inside(field)
            if found is not None:
                found = rules_of(field).get(_rule(values, found), found)
    return found


def _field_at(place: Sequence[str | int], section: type[BaseModel], values: Any) -> FieldInfo | None:
    *parents, last = place or [""]
    inside = _section_at(parents, section, values)
    return inside.model_fields.get(last) if inside and isinstance(last, str) else None


def _inside(field: FieldInfo | None) -> type[BaseModel] | None:
    """The section that a field holds; of several, the usual one."""
    candidates = [field.annotation, *get_args(field.annotation)] if field else []
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _rule(values: Any, usual: type[BaseModel]) -> str:
    """The rule that a section is written with."""
    written = values.get(RULE) if isinstance(values, Mapping) else values if isinstance(values, str) else None
    default = usual.model_fields[RULE].default if RULE in usual.model_fields else None
    return str(default if written is None else written)


def _value_at(place: Sequence[str | int], values: Any) -> Any:
    for part in place:
        there = isinstance(values, Mapping) or (isinstance(values, list) and isinstance(part, int))
        values = values[part] if there and (isinstance(part, int) or part in values) else None
    return values
