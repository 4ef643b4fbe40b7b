"""The JSON schema and the table of keys are those of the code, and say something of every key."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sipo.cli.main import main
from sipo.config import Config
from sipo.config.file import dump_config, load_config
from sipo.config.schema import PAGE, SCHEMA, as_text, keys_of, schema, with_table

ROOT = Path(__file__).parents[1]
CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if "\nobjectives:" in path.read_text("utf-8")]


def test_what_is_in_the_documentation_is_current() -> None:
    page = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    assert with_table(page) == page, "make docs"
    assert (ROOT / "docs" / SCHEMA).read_text(encoding="utf-8") == as_text(), "make docs"


def test_every_key_says_what_it_means() -> None:
    keys = list(keys_of(Config))
    assert len({key.place for key in keys}) == len(keys) > 90
    assert [key.place for key in keys if not key.meaning] == []


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def fits(value: Any, part: dict[str, Any], whole: dict[str, Any]) -> bool:
    """As much of JSON schema as configurations need."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        return any(fits(value, each, whole) for each in part["anyOf"])
    if ("enum" in part and value not in part["enum"]) or ("const" in part and value != part["const"]):
        return False
    match part.get("type"):
        case "object":
            known, more = part.get("properties", {}), part.get("additionalProperties", True)
            return (
                isinstance(value, dict)
                and value.keys() >= set(part.get("required", ()))
                and all(
                    fits(inner, known[key], whole)
                    if key in known
                    else fits(inner, more, whole)
                    if isinstance(more, dict)
                    else more
                    for key, inner in value.items()
                )
            )
        case "array":
            return isinstance(value, list) and all(fits(each, part.get("items", {}), whole) for each in value)
        case "number" | "integer":
            bounds = (
                (value > part.get("exclusiveMinimum", value - 1), value >= part.get("minimum", value))
                if isinstance(value, int | float)
                else (False,)
            )
            return all(bounds) and value <= part.get("maximum", value)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
    return True


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_fit_it_and_name_it(path: Path) -> None:
    text, whole = path.read_text(encoding="utf-8"), schema()
    named = text.partition("$schema=")[2].split()[0]
    assert (path.parent / named).resolve() == ROOT / "docs" / SCHEMA
    assert fits(yaml.safe_load(text), whole, whole)
    assert fits(yaml.safe_load(dump_config(load_config(path))), whole, whole)


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"filter": "calibrated"}, True),
        ({"filter": {"rule": "calibrated", "keep": 0.5}}, True),
        ({"filter": {"pool": "kept"}}, True),
        ({"filter": {"keep": 0.5}}, False),
        ({"filter": "papers"}, False),
        ({"raco": {"rule": "mgda", "c": 0.5}}, False),
        ({"methods": ["sippo"]}, False),
        ({"align": {"epochs": 0}}, False),
        ({"algin": {}}, False),
        ({"data": {"source": "trl"}}, True),
        ({"data": {"source": {"format": "trl"}}}, False),
    ],
)  # fmt: skip
def test_it_takes_what_a_configuration_takes(changes: dict[str, Any], right: bool) -> None:
    values, whole = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8")), schema()
    assert fits({**values, **changes}, whole, whole) == right
