"""What all sections of a configuration have in common: finite numbers within bounds, no key that is not known."""

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticKnownError

MOST = 2**31 - 1
"""Larger counts are slips; many would end in the depths of a library."""


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # Python would count true as 1
        raise PydanticKnownError("float_type")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    if isinstance(value, str):  # YAML takes 1e3 for a text
        try:
            value = float(value)
        except ValueError:
            raise PydanticKnownError("int_type") from None
    return value


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(gt=0, le=MOST)]
Natural = Annotated[Whole, Field(ge=0, le=MOST)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Shares = dict[str, Number]
"""By objective."""
NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]


def check_name(name: Any) -> None:
    """Of what a plug-in declares: folders, keys and reports have it. Raises ValueError."""
    if not isinstance(name, str) or not re.match(NAME, name):
        raise ValueError(f"{name!r} is no name of letters, digits, _ and - that begins with a letter")


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _can_be_a_path(cls, value: Any) -> Any:
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("holds a NUL character; leave it out")
        return value


def check_section(settings: Any) -> None:
    """Raises ValueError for what cannot hold the keys of what declares it."""
    if not (isinstance(settings, type) and issubclass(settings, Section)):
        raise ValueError(f"{settings!r} is no class of Section, which holds keys")


RULE = "rule"
"""The key that tells sections apart of which a place holds one, each with keys of its own."""


def rules_in(settings: type[Section]) -> tuple[str, ...]:
    """What the key `rule` of a section may be. Raises ValueError where it is no such section."""
    check_section(settings)
    field = settings.model_fields.get(RULE)
    names = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    if not names:
        raise ValueError(f"the key `{RULE}` of {settings.__name__} is no Literal of its names")
    for name in names:
        check_name(name)
    return names


def field_of(settings: "type[Section] | tuple[type[Section], ...]") -> tuple[Any, Section]:
    """Annotation and default of a place that holds a section, or one of several, told apart by their `rule`.

    That of the default alone has a default, and is meant where none is written. A text is short for a rule alone.
    Raises ValueError where they cannot be told apart, or the default one needs a key.
    """
    if not isinstance(settings, tuple):
        return settings, _default(settings)
    names = [name for each in settings for name in rules_in(each)]
    if len(set(names)) < len(names):
        raise ValueError(f"of {', '.join(names)}, two are the same")
    defaults = [each for each in settings if not each.model_fields[RULE].is_required()]
    if len(defaults) != 1:
        raise ValueError(f"{len(defaults)} of {', '.join(names)} have a default, not the one that is meant without it")
    (default,) = defaults
    rest = [each for each in settings if each is not default]
    rule = default.model_fields[RULE].default

    def with_rule(value: Any) -> Any:
        if isinstance(value, str):
            return {RULE: value}
        return {RULE: rule, **value} if isinstance(value, Mapping) else value

    one: Any = reduce(or_, [default, *rest])
    rules: Any = reduce(or_, [each.model_fields[RULE].annotation for each in (default, *rest)])
    as_written = BeforeValidator(with_rule, json_schema_input_type=one | rules)
    return Annotated[one, Field(discriminator=RULE), as_written], _default(default)


def _default(settings: Any) -> Section:
    check_section(settings)
    if needed := [name for name, field in settings.model_fields.items() if field.is_required()]:
        raise ValueError(f"{settings.__name__}.{needed[0]} has no default, which a key needs that may be left out")
    return settings()
