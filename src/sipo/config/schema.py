"""All keys of a configuration from its classes: as a JSON schema, for editors, and as the table of the documentation.

python -m sipo.config.schema docs   # writes both into docs/
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from sipo.config.run import Config
from sipo.methods.registry import specs
from sipo.rewards.objective import Objective
from sipo.settings.explain import rules_of
from sipo.settings.section import RULE

SCHEMA, PAGE = "config.schema.json", "configuration.md"
BEGIN, END = "<!-- The table of keys: make docs writes it from the code. -->", "<!-- Its end. -->"
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""pydantic leaves the bounds of numbers that it reads in our way under its own names."""


class Key(NamedTuple):
    place: str
    """With dots, `[]` behind a list of sections."""
    default: str
    """As YAML has it; empty where it must be written."""
    meaning: str
    rules: tuple[str, ...] = ()
    """Those that read it, where not all do."""


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, with what each key means."""
    made = _with_bounds(Config.model_json_schema(schema_generator=_Plain))
    made["required"].remove("run_dir")  # it is named after the file
    made["description"] = "The settings of a run of sipo."
    made["properties"]["methods"]["items"] = {"enum": list(specs())}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


class _Plain(GenerateJsonSchema):
    """Without titles, which only say a key again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _with_bounds(part: Any) -> Any:
    if isinstance(part, dict):
        return {BOUNDS.get(name, name): _with_bounds(value) for name, value in part.items()}
    return [_with_bounds(each) for each in part] if isinstance(part, list) else part


def keys_of(section: type[BaseModel], place: str = "") -> Iterator[Key]:
    """Every key that can be written, in order; a section's own line is there where it says something."""
    for name, field in section.model_fields.items():
        here, inner = place + name, _section_in(field)
        if rules := rules_of(field):
            yield from _of_rules(rules, f"{here}.")
        elif inner is Objective:
            yield from keys_of(inner, f"{here}[].")
        elif inner is None or field.description:
            yield Key(here, _default(field), _meaning(field))
        if inner is not None and inner is not Objective and not rules:
            yield from keys_of(inner, f"{here}.")


def _of_rules(rules: dict[str, type[BaseModel]], place: str) -> Iterator[Key]:
    """Keys of sections that are told apart by their rule, each key once."""
    readers: dict[Key, list[str]] = {}
    for rule, each in rules.items():
        for key in keys_of(each, place):
            same = next((known for known in readers if known.place == key.place), key)
            readers.setdefault(same, []).append(rule)
    for key, reading in readers.items():
        if key.place == f"{place}{RULE}":
            default, *options = rules
            names = {each: ", ".join(rule for rule in rules if rules[rule] is each) for each in rules.values()}
            told = [f"{name}: {_meaning(each.model_fields[RULE])}" for each, name in names.items()]
            yield key._replace(default=f"{default}, or {', '.join(options)}", meaning=" ".join(told))
        else:
            yield key._replace(rules=() if len(reading) == len(rules) else tuple(reading))


def _section_in(field: FieldInfo) -> type[BaseModel] | None:
    """The one section that a field holds, or a list of; None for plain values, or where it has several forms."""
    found = [each for each in _forms(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    return found[0] if len(found) == 1 else None


def _forms(annotation: Any) -> list[Any]:
    return [annotation, *(form for each in get_args(annotation) for form in _forms(each))]


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    """With the other options, where there are few."""
    value = field.default
    if field.is_required() or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple | dict):
        return ", ".join(map(str, value)) or "none"
    written = f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str).strip('"')
    options = [each for form in _forms(field.annotation) if get_origin(form) is Literal for each in get_args(form)]
    others = ", ".join(each for each in options if each != value)
    return f"{written}, or {others}" if others else written


def table() -> str:
    """Markdown: a row for each key."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key in keys_of(Config):
        only = f"({', '.join(key.rules)}) " if key.rules else ""
        rows.append(f"| `{key.place}` | {key.default} | {only}{key.meaning} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def as_text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    docs = Path(sys.argv[1])
    (docs / SCHEMA).write_text(as_text(), encoding="utf-8")
    (docs / PAGE).write_text(with_table((docs / PAGE).read_text(encoding="utf-8")), encoding="utf-8")
