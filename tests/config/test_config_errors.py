"""Whatever is written at whatever key of a configuration: it is taken, or one plain line names the key."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sipo.config import Config
from sipo.config.file import load_config, parse_config
from sipo.errors import SipoError
from sipo.settings.explain import rules_of

REWARDS: list[Any] = [
    "m:f",
    {"model": "owner/name", "revision": "v1", "head": 0, "scale": 1.0, "shift": 0.0, "format": "chat", "dtype": "auto"},
    {"preset": "name", "model": "owner/name", "dtype": "auto"},
    {"policy": "folder", "beta": 0.1, "base": "owner/name", "dtype": "auto", "prompt_template": "{prompt}"},
    {"judge": "http://here/v1", "model": "m", "lowest": 1, "highest": 10, "json_schema": True, "key_variable": "KEY",
     "key_header": "Authorization", "concurrency": 8, "requests_per_minute": 9.0, "timeout": 9.0, "retries": 3},
]  # fmt: skip
WRONG: list[Any] = [
    float("nan"), float("inf"), float("-inf"), True, None, -1, 0, 10**30, 1e300, 1e-320, 2.5, "", "zz", "a\0b", [], {},
    [[1]], {"zz": 1}, {"x": True}, {"x": float("nan"), "y": 1}, {"x": 1}, [{"x": float("inf")}], {3: 4}, [float("nan")],
]  # fmt: skip
JARGON = re.compile(
    r"Input|valid\b|validation error|after validation|instance|constrained|pydantic|function-|Tuple|List|type=|dict\[|[Ss]tring |Extra|Keys "
    r"|something else|Traceback|\n"
)


def everything(reward: Any) -> dict[str, Any]:
    """A configuration with every key."""
    objectives = [{"name": "x", "better": "more", "reward": reward}, {"name": "y", "better": "less", "reward": "m:f"}]
    given = {
        "run_dir": "run", "model": {"path": "owner/name"}, "objectives": objectives, "sft": {"lora": {}},
        "data": {"path": "made/rows.jsonl", "source": {"name": "owner/rows", "tokenizer": "owner/name"}},
        "weights": {"grid": [{"x": 0.5, "y": 0.5}]}, "refine": {"reviewer": {"x": 0.5, "y": 0.5}},
        "align": {"lr": {"x": 1e-3, "y": 1e-3}}, "realign": {"lr": {"x": 1e-3, "y": 1e-3}},
        "evaluate": {"reference_point": {"x": 0.0, "y": 0.0}},
    }  # fmt: skip
    values: dict[str, Any] = parse_config(given, "whole").model_dump(mode="json")
    values["objectives"][0]["reward"] = reward
    return values


def places(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key, of mappings and lists."""
    if place:
        yield place
    for key, inner in (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    ):
        yield from places(inner, (*place, key))


def turned(values: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    target: Any = changed
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    return changed


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, float):
        yield values
    for inner in values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ():
        yield from numbers(inner)


@pytest.mark.parametrize("reward", REWARDS, ids=["function", "model", "preset", "policy", "judge"])
def test_whatever_is_written_is_taken_or_named_in_plain_words(reward: Any) -> None:
    values = everything(reward)
    every = [place for place in places(values) if isinstance(reward, str) or place[:3] == ("objectives", 0, "reward")]
    assert len(every) > (80 if isinstance(reward, str) else 3)
    for place in every:
        for value in WRONG:
            try:
                config = parse_config(turned(values, place, value), "run.yaml")
            except SipoError as error:
                line = str(error)
                assert line.startswith("run.yaml: ") and not JARGON.search(line), (place, value, line)
                named = [str(part) for part in place if not isinstance(part, int)]
                assert any(part in line for part in (*named[-2:], str(value))), (place, value, line)
                assert len(line) < 400, (place, value, line)
            else:
                found = numbers(config.model_dump())
                assert all(abs(number) < float("inf") for number in found), (place, value)
                if value is True and place[-1] not in ("enabled", "reference", "per_token", "json_schema"):
                    assert place[-1] in ("trust_remote_code", "thinking", "labels", "gradient_checkpointing"), place


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"align": {"lr": {"x": 1e-3}}}, "align.lr: leaves out `y`; give a number for each of x, y"),
        ({"realign": {"lr": {"y": 1}}}, "realign.lr: leaves out `x`; give a number for each of x, y"),
        ({"evaluate": {"reference_point": {"x": 0}}}, "evaluate.reference_point: leaves out `y`; give a number for"),
        ({"align": {"lr": "fast"}}, "`align.lr` is 'fast'; write a number, or a mapping, such as {name: value}"),
        ({"align": {"lr": {"x": "fast", "y": 1}}}, "`align.lr.x` is 'fast'; write a number"),
        ({"align": {"lr": {"x": -1, "y": 1}}}, "`align.lr.x` is -1; write a number above 0"),
        ({"align": 5}, "`align` is 5; write keys below it; they are beta, lr, strengths"),
        ({"align": {"epochs": 10**12}}, "`align.epochs` is 1000000000000; write a number of at most 10000"),
        ({"evaluate": {"bootstrap": 10**11}}, "`evaluate.bootstrap` is 100000000000; write a number of at most 100000"),
        ({"weights": {"divisions": 10**6}}, "weights.divisions: 1000000 makes 1,000,001 weights over 2 objectives; take"),
        ({"seed": 2**63}, "`seed` is 9223372036854775808; write a number below 9223372036854775808"),
        ({"seed": True}, "`seed` is true; write a whole number"),
        ({"align": {"epochs": 2.5}}, "`align.epochs` is 2.5; write a whole number"),
        ({"filter": {"rule": "papers"}}, "`filter.rule` is 'papers'; write paper, calibrated, longest, shortest, random or rewards (did you"),
        ({"filter": "papers"}, "`filter.rule` is 'papers'; write paper, calibrated, longest, shortest, random or rewards (did you"),
        ({"filter": {"rule": ["paper"]}}, "`filter.rule` is ['paper']; write paper, calibrated"),
        ({"filter": {"rule": "random", "poul": 1}}, "unknown key `poul` in `filter`, did you mean `pool`?"),
        ({"filter": {"paper": 1}}, "unknown key `paper` in `filter`, the keys here are rule, pool, beta"),
        ({"filter": {"rule": "calibrated", "keep": 2}}, "`filter.keep` is 2; write a number of at most 1"),
        ({"filter": {"keep": 0.5}}, "`filter.keep`: the rule paper does not read keep; leave it out, or set filter.rule to c"),
        ({"filter": {"rule": "rewards", "beta": 1}}, "`filter.beta`: the rule rewards does not read beta; leave it out, or "),
        ({"raco": {"rule": "mgda", "c": 0.4}}, "`raco.c`: the rule mgda does not read c; leave it out, or set raco.rule to r"),
        ({"objectives": [{"name": "x", "better": "b"}]}, "`objectives` is"),
        ({"objectives": [{"name": "a b", "better": "b"}] * 2}, "`objectives.0.name` is 'a b'; write a name of letters"),
        ({"model": {"path": "m", "quantise": "2bit"}}, "`model.quantise` is '2bit'; write 4bit or 8bit"),
        ({"model": {"path": "m", "quantise": "4bits"}}, "`model.quantise` is '4bits'; write 4bit or 8bit (did you mean `4bit`?)"),
        ({"refine": {"reviewer": {"xx": 1}}}, "refine.reviewer: `xx` is no objective; did you mean `x`?"),
    ],
)  # fmt: skip
def test_the_way_out_is_told(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SipoError) as caught:
        parse_config({**everything("m:f"), **changes}, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml: {line}")


RULES = [(place, rule) for place in ("filter", "raco") for rule in rules_of(Config.model_fields[place])]


@pytest.mark.parametrize(("place", "rule"), RULES)
def test_a_rule_reads_its_own_keys_and_no_other_s(place: str, rule: str) -> None:
    sections = rules_of(Config.model_fields[place])
    short = parse_config({**everything("m:f"), place: rule}, "run.yaml")
    written = getattr(short, place).model_dump(mode="json")
    assert written.keys() == sections[rule].model_fields.keys()
    assert getattr(parse_config({**everything("m:f"), place: written}, "run.yaml"), place) == getattr(short, place)
    for key in {key for each in sections.values() for key in each.model_fields} - written.keys():
        with pytest.raises(SipoError, match=f"`{place}.{key}`: the rule {rule} does not read {key}; leave it out, or"):
            parse_config({**everything("m:f"), place: {"rule": rule, key: None}}, "run.yaml")


@pytest.mark.parametrize("value", [3, 3.0, "3", "3e0", "3.0"])
def test_a_whole_number_may_be_written_in_several_ways(value: Any) -> None:
    assert parse_config(turned(everything("m:f"), ("align", "epochs"), value), "x").align.epochs == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nrun_dir: x\nseed: 2\n", " line 3: the key `seed` is there twice; keep one"),
        ("align:\n  lr: 1\n  beta: 2\n  lr: 3\n", " line 4: the key `lr` is there twice; keep one"),
        ("objectives:\n- {name: x, name: y}\n", " line 2: the key `name` is there twice; keep one"),
        ("seed: 1\nrealign: {lr: {x:1, y: 2}}\n", " line 2: write a space after the colon of `x:`"),
        ("- {judge:\"http://h:1/v1\", model: y}\n", " line 1: write a space after the colon of `judge:`"),
        ("rubbish: {a: http://h:1/v1, b: c:d, 'e:f': , g: }\n", ": unknown key `rubbish`"),
        ("a: " + "[" * 1000 + "]" * 1000, ": is not YAML that can be read"),
        ("a: " + "{b: " * 1000 + "}" * 1000, ": is not YAML that can be read"),
        ("seed: 2024-13-45\n", ": is not YAML that can be read"),
        ("seed: " + "9" * 5000, ": is not YAML that can be read"),
        ("? [a]\n: b\n", " line 1: is not YAML"),
        ("a: &a [*a]\n", ": unknown key `a`"),
        ("seed: !!python/object:os.system {}\n", " line 1: is not YAML"),
    ],
)  # fmt: skip
def test_a_file_that_says_two_things_or_none(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SipoError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}{line}") and len(str(caught.value)) < 400


def test_merged_keys_may_be_written_again(tmp_path: Path) -> None:
    values = everything("m:f")
    text = yaml.safe_dump({name: value for name, value in values.items() if name not in ("align", "realign")})
    text += "align: &shared {beta: 0.2, epochs: 2}\nrealign: {<<: *shared, epochs: 4}\n"
    (tmp_path / "run.yaml").write_text(text)
    config: Config = load_config(tmp_path / "run.yaml")
    assert (config.realign.beta, config.realign.epochs, config.align.epochs) == (0.2, 4, 2)


@pytest.mark.parametrize("override", ["align.lr={x: 1, x: 2}", "seed=[[[", "seed=" + "[" * 1000, "seed=2024-13-45"])
def test_an_override_that_is_no_value(override: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(everything("m:f")))
    with pytest.raises(SipoError, match="^--set"):
        load_config(tmp_path / "run.yaml", [override])
