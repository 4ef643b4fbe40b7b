"""Reading and writing preference rows: what comes back, and the one line for whatever is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.data import Row, objectives_of, read_rows, write_rows
from sipo.errors import SipoError
from sipo.message import Message

CHAT = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why is the sky blue?"},
]


def record(**changes: Any) -> dict[str, Any]:
    labels = {"helpful": 0, "brief": 1}
    return {"prompt": "Why?", "response_0": "So.", "response_1": "Because.", "preferred": labels, **changes}


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


text = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(st.characters(codec="utf-8")))
prompts = st.tuples(st.lists(messages, max_size=3), text).map(lambda parts: (*parts[0], Message("user", parts[1])))
pairs = st.tuples(text, text).filter(lambda pair: pair[0].strip() != pair[1].strip())


@st.composite
def rows_of_any_objectives(draw: st.DrawFn) -> list[Row]:
    names = draw(st.lists(st.text("abcXYZ_-é ", min_size=1), min_size=1, max_size=4, unique=True))
    labels = st.fixed_dictionaries({name: st.sampled_from([0, 1, None]) for name in names})
    first = Row(draw(prompts), draw(pairs), dict.fromkeys(names, 1))  # so that every objective has a label
    rows = draw(st.lists(st.builds(Row, prompts, pairs, labels), max_size=4, unique_by=lambda row: row.key))
    return [first, *(row for row in rows if row.key != first.key)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@settings(deadline=None, max_examples=50)
@given(rows=rows_of_any_objectives())
def test_written_rows_are_read_back_equal(
    rows: list[Row], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert os.listdir(path.parent) == [path.name]


def test_the_key_is_of_the_prompt_alone(tmp_path: Path) -> None:
    as_message = record(prompt=[{"content": "Why?", "role": "user"}], response_0="Else.")
    path = write_lines(tmp_path / "rows.jsonl", record(), as_message, record(prompt=CHAT))
    plain, message, chat = read_rows(path)
    assert plain.key == message.key != chat.key
    assert len(plain.key) == 16 and int(plain.key, 16) >= 0
    assert message.as_record()["prompt"] == "Why?"
    assert chat.as_record()["prompt"] == CHAT
    assert (plain.text, chat.text.splitlines()[1]) == ("Why?", "user: Hi")


def test_objectives_asked_for_are_the_only_ones_looked_at(tmp_path: Path) -> None:
    odd = {"helpful": 1, "score": 3.7, "note": None}
    path = write_lines(tmp_path / "rows.jsonl", record(), record(response_0="Else.", preferred=odd))
    rows = read_rows(path, ["brief", "helpful"])
    assert [row.preferred for row in rows] == [{"brief": 1, "helpful": 0}, {"brief": None, "helpful": 1}]
    assert objectives_of(rows) == ("brief", "helpful")


def test_other_peoples_files(tmp_path: Path) -> None:
    """A byte order mark, blank lines, Windows line ends, extra columns, labels that became floats."""
    line = json.dumps(record(preferred={"helpful": 1.0}, source="x", prompt="a\u2028b"), ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n".encode())
    [row] = read_rows(tmp_path / "rows.jsonl")
    assert row.preferred == {"helpful": 1} and isinstance(row.preferred["helpful"], int)

    unlabelled = record(preferred={"helpful": 0, "brief": 1, "polite": None})
    mapping = pa.map_(pa.string(), pa.float64())
    table = pa.Table.from_pylist([unlabelled, record(prompt="Who?", preferred={"helpful": 1, "brief": None})])
    labels = pa.array([list(labels.items()) for labels in table["preferred"].to_pylist()], mapping)
    for name, column in (("struct", table["preferred"]), ("map", labels)):
        path = tmp_path / f"{name}.parquet"
        columns = ["prompt", "response_0", "response_1"]
        pq.write_table(table.select(columns).append_column("preferred", column), path)
        with pytest.raises(SipoError, match="`polite` never differs"):
            read_rows(path)
        labelled = [row.preferred for row in read_rows(path, ["helpful", "brief"])]
        assert labelled == [{"helpful": 0, "brief": 1}, {"helpful": 1, "brief": None}]


BAD_RECORDS: dict[str, tuple[Any, str, str]] = {
    "not an object": ([1], "a list, not an object", "write one row a line"),
    "no columns": ({}, "has the columns none; needs prompt,", "rename or add"),
    "TRL": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        "columns prompt, chosen, rejected",
        "rename chosen",
    ),
    "PKU": (
        {"prompt": "a", "better_response_id": 0},
        "needs prompt, response_0",
        '"helpful": better_response_id',
    ),
    "HelpSteer": (
        {"prompt": "a", "response": "b"},
        "has the columns prompt, response",
        "pair those of a prompt",
    ),
    "prompt of a number": (record(prompt=3), "prompt is a number", "make it a string"),
    "empty prompt": (record(prompt=" \n"), "prompt is empty", "leave the row out"),
    "empty chat": (record(prompt=[]), "prompt is empty", "leave the row out"),
    "empty last turn": (
        record(prompt=[*CHAT[:3], {"role": "user", "content": ""}]),
        "prompt is empty",
        "mend it",
    ),
    "bad role": (record(prompt=[{"role": "tool", "content": "a"}]), "a role other than system", "leave the row out"),
    "no content": (record(prompt=[{"role": "user"}]), "prompt has a message without `content`", "{role, content}"),
    "content of parts": (
        record(prompt=[{"role": "user", "content": [{"type": "image"}]}]),
        "a turn with parts that are not text",
        "leave the row out",
    ),
    "ends with the assistant": (
        record(prompt=CHAT[:3]),
        "ends with the role assistant",
        "must be the user's",
    ),
    "empty response": (record(response_1=""), "response_1 is empty", "leave the row out"),
    "no response": (record(response_0=None), "response_0 is null", "make it a string"),
    "half a character": (record(response_0="\ud83d"), "a lone surrogate", "mend the text's encoding"),
    "identical responses": (
        record(response_0="Same. ", response_1="Same."),
        "are identical",
        "leave the row out",
    ),
    "labels in a list": (record(preferred=[0, 1]), "preferred is a list", "make it a mapping"),
    "no labels": (record(preferred=None), "preferred is null", "make it a mapping"),
    **{
        f"label {label!r}": (record(preferred={"brief": label}), "preferred.brief is", "use 0, 1, or null")
        for label in (2, -1, 0.5, True, False, "2", "True", [0])
    },
}


@pytest.mark.parametrize(("bad", "problem", "way_out"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_bad_record_is_one_line_with_its_place(bad: Any, problem: str, way_out: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", record(), bad)
    line = refusal(path)
    assert line.startswith(f"{path} line 2: ")
    assert problem in line and way_out in line


def refusal(path: Path, objectives: list[str] | None = None) -> str:
    with pytest.raises(SipoError) as caught:
        read_rows(path, objectives)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BAD_BYTES = {
    "malformed": (b'{"prompt": \n', "line 2: not JSON (Expecting value", "write one object a line"),
    "huge number": (b"1" * 5000, "line 2: not JSON", "write one object a line"),
    "deep": (b"[" * 100_000, "line 2: not JSON", "write one object a line"),
    "latin 1": ("caf\xe9".encode("latin-1"), "line 2: not UTF-8", "save the file again"),
}


@pytest.mark.parametrize(("line", "problem", "way_out"), BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_a_malformed_line_is_named(line: bytes, problem: str, way_out: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b"\n" + line)
    assert refusal(path).startswith(f"{path} {problem}")
    assert way_out in refusal(path)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", record())
    (tmp_path / "rows.csv").write_text("prompt\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert refusal(tmp_path / "row.jsonl").endswith("no such file; did you mean `rows.jsonl`?")
    assert refusal(tmp_path / "qqq.parquet").endswith("no such file; check the path")
    assert f"no folder {tmp_path / 'a'}" in refusal(tmp_path / "a" / "rows.jsonl")
    (tmp_path / "folder").mkdir()
    assert "is a folder; name a .jsonl" in refusal(tmp_path / "folder")
    assert "ending in .csv is no file of rows; use .jsonl" in refusal(tmp_path / "rows.csv")
    assert f"{tmp_path / 'empty.jsonl'}: no rows; each needs the columns prompt" in refusal(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_folder_that_was_prepared_is_its_rows(name: str, tmp_path: Path, rows_file: Path) -> None:
    rows, made = read_rows(rows_file), tmp_path / "made"
    made.mkdir()
    write_rows(made / name, rows)
    assert read_rows(made) == read_rows(made / name) == rows
    (made / name).rename(made / "others.jsonl")
    with pytest.raises(SipoError, match="is a folder; name a"):
        read_rows(made)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "chosen": "b", "rejected": "c"}]), path)
    assert refusal(path).startswith(f"{path} row 1: has the columns prompt, chosen, rejected; needs")
    pq.write_table(pa.Table.from_pylist([record(preferred={"a": 0}), record(preferred={"a": 2})]), path)
    assert refusal(path).startswith(f"{path} row 2: preferred.a is 2; use 0, 1, or null")
    whole = path.read_bytes()
    for corrupt in (b"", b"PAR1", whole[:-9], whole[:40] + bytes(200) + whole[240:]):
        path.write_bytes(corrupt)
        assert refusal(path).startswith(f"{path}: not a readable Parquet file")
        assert "write or download it again" in refusal(path)


def test_objectives_that_cannot_be_learned(tmp_path: Path) -> None:
    labels = {"helpful": 0, "brief": 1, "polite": None}
    path = write_lines(tmp_path / "rows.jsonl", record(preferred=labels))
    assert refusal(path).startswith(f"{path}: objective `polite` never differs")
    assert "label or remove it" in refusal(path, ["helpful", "polite"])
    assert refusal(path, ["helpfull"]).endswith("no row has the objective `helpfull`; did you mean `helpful`?")
    assert refusal(path, ["xyz"]).endswith("it has helpful, brief, polite")
    write_lines(path, record(preferred={}))
    assert refusal(path).startswith(f"{path}: no row names an objective; label them")
    assert refusal(path, ["a"]).endswith("it has none")


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    swapped = {"response_0": "Because.", "response_1": "So."}
    first = record(preferred={"helpful": 0, "brief": None})
    other = record(prompt="Who?")
    write_lines(path, first, first, record(**swapped, preferred={"helpful": 1, "brief": 0}))
    assert len(read_rows(path)) == 3
    for changed in ({"preferred": {"helpful": 1}}, {**swapped, "preferred": {"helpful": 0}}):
        write_lines(path, other, first, record(**changed))
        assert refusal(path).startswith(f"{path} line 3: contradicts line 2: `helpful` prefers the other")
        assert "keep one of the rows" in refusal(path)


def test_writing_what_cannot_be_written(tmp_path: Path) -> None:
    row = Row((Message("user", "Why?"),), ("So.", "Because."), {"helpful": 0})
    with pytest.raises(SipoError, match=r"ending in \.csv is no file of rows"):
        write_rows(tmp_path / "rows.csv", [row])
    with pytest.raises(SipoError, match="no labelled rows to write"):
        write_rows(tmp_path / "rows.jsonl", [])
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_rows(tmp_path / "a" / "rows.parquet", [row])
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    row = Row((Message("user", "Why?"),), ("So.", "Because."), {"helpful": 0})
    write_rows(path, [row])

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dumps", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        write_rows(path, [row, row])
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    assert read_rows(path) == [row]
