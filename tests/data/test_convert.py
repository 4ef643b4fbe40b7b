"""Rows in TRL's and LLaMA-Factory's formats: they come back as they went, and nothing goes that cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.data import Row, read_rows, write_rows
from sipo.data.convert import WRITERS, convert
from sipo.data.prepare import prepare
from sipo.data.sources.reading import read_path
from sipo.errors import SipoError
from sipo.message import Message

text = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
turns = st.lists(st.tuples(text, text), max_size=2).map(
    lambda pairs: tuple(
        Message(role, said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)
    )
)
system = st.none() | text


@st.composite
def labelled_rows(draw: st.DrawFn, plain: bool = False, splits: bool = False) -> list[Row]:
    names = draw(st.lists(st.sampled_from(["helpful", "harmless", "brief", "gpt-4", "obj_2"]), min_size=1, unique=True))
    rows: dict[str, Row] = {}
    for _ in range(draw(st.integers(1, 4))):
        start = () if plain else draw(turns)
        said = None if plain else draw(system)
        prompt = (*([Message("system", said)] if said else []), *start, Message("user", draw(text)))
        pair = draw(st.tuples(text, text).filter(lambda pair: pair[0].strip() != pair[1].strip()))
        labels = {name: draw(st.sampled_from([0, 1, None])) for name in names}
        row = Row(prompt, pair, labels, draw(st.sampled_from(["train", "test", "validation"])) if splits else None)
        rows.setdefault(row.key, row)
    for name in names:  # each objective prefers something somewhere
        next(iter(rows.values())).preferred[name] = 0
    return list(rows.values())


def canonical(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Rows without regard to their order, to that of their responses, and to what prefers nothing."""
    found = []
    for row in rows:
        order = sorted(range(2), key=lambda index: row.responses[index])
        labels = {name: order.index(label) for name, label in sorted(row.preferred.items()) if label is not None}
        if labels:
            found.append((row.prompt, *(row.responses[index] for index in order), tuple(labels.items())))
    return sorted(found)


@pytest.mark.parametrize("format", ["trl", "trl-implicit", "trl-plain", "llama-factory", "llama-factory-alpaca"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_rows_survive_a_round_trip(format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = data.draw(labelled_rows(plain=format == "trl-plain", splits=data.draw(st.booleans())))
    folder = tmp_path_factory.mktemp("trip")
    write_rows(folder / "rows.jsonl", rows)
    counts = convert(folder / "rows.jsonl", folder / "out", format).pairs
    assert sum(counts.values()) == sum(label is not None for row in rows for label in row.preferred.values())
    if format == "trl-implicit":  # answers that begin with the same turn would be told apart by nothing
        assert all("prompt" not in record.value for record in read_path(folder / "out"))
    made = prepare(str(folder / "out"), folder / "back", None)
    assert made.found.source.name == format.split("-")[0].replace("llama", "llama-factory")
    assert canonical(read_rows(folder / "back" / "rows.jsonl")) == canonical(rows)


def test_plain_implicit_prompts_come_back_where_answers_begin_apart(tmp_path: Path) -> None:
    row = Row((Message("user", "Why is it?\n"),), ("Ab", "Cd"), {"brief": 1})
    write_rows(tmp_path / "rows.jsonl", [row])
    convert(tmp_path / "rows.jsonl", tmp_path / "out", "trl-plain-implicit")
    prepare(str(tmp_path / "out" / "brief.jsonl"), tmp_path / "back")
    assert canonical(read_rows(tmp_path / "back" / "rows.jsonl")) == canonical([row])


def test_exports_keep_splits_apart_and_describe_themselves(tmp_path: Path) -> None:
    prompts = {split: (Message("user", split),) for split in ("train", "test")}
    rows = [Row(prompt, ("A", "B"), {"brief": 1, "kind": None}, split) for split, prompt in prompts.items()]  # type: ignore[arg-type]
    write_rows(tmp_path / "rows.jsonl", [*rows, Row(prompts["train"], ("A", "C"), {"brief": 0, "kind": 1}, "train")])
    counts = convert(tmp_path / "rows.jsonl", tmp_path / "out", "llama-factory-alpaca").pairs
    assert counts == {"brief/test.jsonl": 1, "brief/train.jsonl": 2, "kind/train.jsonl": 1}
    about = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert set(about) == {"brief-test", "brief-train", "kind-train"}
    assert about["kind-train"]["file_name"] == "kind/train.jsonl" and about["kind-train"]["ranking"] is True
    record = json.loads((tmp_path / "out" / "kind" / "train.jsonl").read_text())
    assert set(about["kind-train"]["columns"].values()) == set(record)
    assert (record["chosen"], record["rejected"]) == ("C", "A")


def test_what_a_format_has_no_place_for(tmp_path: Path) -> None:
    asked_twice = (Message("user", "a"), Message("user", "b"))
    chat = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    path = tmp_path / "rows.jsonl"
    for prompt, format in [
        (chat, "trl-plain"),
        (asked_twice, "llama-factory"),
        (asked_twice, "llama-factory-alpaca"),
    ]:
        write_rows(path, [Row((Message("user", "x"),), ("A", "B"), {"a": 0}), Row(prompt, ("A", "B"), {"a": 0})])
        with pytest.raises(SipoError, match=r"rows\.jsonl row 2: .*use the format trl"):
            convert(path, tmp_path / "out", format)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.jsonl"]
    write_rows(path, [Row(asked_twice, ("A", "B"), {"test": 0})])
    for format, problem in [("trl", "`test` cannot name a file"), ("dpo", f"they are {', '.join(WRITERS)}")]:
        with pytest.raises(SipoError, match=problem):
            convert(path, tmp_path / "out", format)
