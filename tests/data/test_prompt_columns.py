"""Columns beside the prompt: those that belong to it are read or refused, every other one is named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sipo.cli.main import main
from sipo.data import read_prompts, read_rows
from sipo.data.cleaning import Choice
from sipo.data.context import NAMES, in_context
from sipo.data.datacard import Prepared
from sipo.data.prepare import prepare
from sipo.errors import SipoError
from sipo.message import Message

USER = Message("user", "hello")
TURNS = (Message("user", "hi"), Message("assistant", "ho"))
TRL = {"prompt": "hello", "chosen": "A", "rejected": "B"}
SOURCES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "trl": (TRL, ()),
    "pairs": ({"prompt": "hello", "response_0": "A", "response_1": "B", "good": 0}, ("good",)),
    "llama-factory": ({"instruction": "hello", "chosen": "A", "rejected": "B"}, ()),
    "sharegpt": ({"conversations": [{"from": "human", "value": "hello"}], "chosen": "A", "rejected": "B"}, ()),
    "pku": (
        {"prompt": "hello", "response_0": "A", "response_1": "B", "better_response_id": 0, "safer_response_id": 0},
        (),
    ),
}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def prepared(tmp_path: Path, *records: Any, **choice: Any) -> tuple[Prepared, list[Any]]:
    made = prepare(str(lines(tmp_path / "good.jsonl", *records)), tmp_path / "out", Choice(**choice))
    return made, read_rows(tmp_path / "out" / "rows.jsonl")


@pytest.mark.parametrize("column", [*NAMES["system"], "System Prompt", "SYSTEM", "custom_system_prompt"])
@pytest.mark.parametrize("record", SOURCES.values(), ids=SOURCES)
def test_a_system_text_opens_the_prompt(
    record: tuple[dict[str, Any], tuple[str, ...]], column: str, tmp_path: Path
) -> None:
    value, objectives = record
    made, rows = prepared(
        tmp_path, {**value, column: "In French."}, {**value, column: "In verse."}, objectives=objectives
    )
    assert [row.prompt for row in rows] == [(Message("system", text), USER) for text in ("In French.", "In verse.")]
    assert not made.unread and not made.dropped


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"input": "dog"}, (Message("user", "hello\ndog"),)),
        ({"input": "null"}, (Message("user", "hello\nnull"),)),  # a text like any other
        ({"context": "Dogs bark."}, (Message("user", "Dogs bark.\n\nhello"),)),
        ({"documents": ["One.", "Two."]}, (Message("user", "One.\n\nTwo.\n\nhello"),)),
        ({"documents": "['One.', 'Two.']"}, (Message("user", "One.\n\nTwo.\n\nhello"),)),
        ({"history": [["hi", "ho"]]}, (*TURNS, USER)),
        ({"history": "[['hi', 'ho']]"}, (*TURNS, USER)),
        ({"history": [turn._asdict() for turn in TURNS]}, (*TURNS, USER)),
        ({"chat_history": json.dumps([turn._asdict() for turn in TURNS])}, (*TURNS, USER)),
        ({"context": [turn._asdict() for turn in TURNS]}, (*TURNS, USER)),
        ({"system": '[{"role": "system", "content": "S"}]'}, (Message("system", "S"), USER)),
        (
            {"system": "S", "history": [["hi", "ho"]], "context": "C", "input": "I"},
            (Message("system", "S"), *TURNS, Message("user", "C\n\nhello\nI")),
        ),
        ({"system": "", "input": None, "context": [], "history": "[]", "images": [], "tools": "null"}, (USER,)),
        ({"input": "hello"}, (USER,)),  # it is there already
    ],
)
def test_what_belongs_to_the_prompt_is_read_into_it(
    columns: dict[str, Any], prompt: tuple[Message, ...], tmp_path: Path
) -> None:
    made, [row] = prepared(tmp_path, {**TRL, **columns})
    assert row.prompt == prompt
    assert not made.unread
    own = {"prompt": "hello", "response_0": "A", "response_1": "B", "preferred": {"good": 0}, **columns}
    assert read_rows(lines(tmp_path / "rows.jsonl", own))[0].prompt == prompt
    assert read_prompts(tmp_path / "rows.jsonl") == [prompt]


@pytest.mark.parametrize("column", NAMES["foreign"])
@pytest.mark.parametrize("record", SOURCES.values(), ids=SOURCES)
def test_what_a_text_model_cannot_read_is_refused(
    record: tuple[dict[str, Any], tuple[str, ...]], column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, objectives = record
    path = lines(tmp_path / "good.jsonl", {**value, column: []}, {**value, column: ["a.png"]})
    chosen = ["--objectives", ",".join(objectives)] if objectives else []
    assert main(["data", "prepare", str(path), "--to", str(tmp_path / "out"), *chosen]) == 2
    error = capsys.readouterr().err
    assert f"line 2: column `{column}` belongs to the prompt and is no text" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"history": [[1, "a"]]}, "`history` has a number"),
        ({"history": [3]}, "`history` has a number"),
        ({"history": [["a"]]}, "`history` has a list"),
        ({"history": "earlier"}, "`history` is a text"),
        ({"history": 7}, "`history` is a number"),
        ({"system": 7}, "`system` is a number"),
        ({"input": {"a": 1}}, "`input` has a message"),
        ({"context": ["a", 3]}, "`context` has a message"),
        ({"documents": [{"title": "a", "text": "b"}]}, "`documents` has a message"),
        ({"system": "a", "system_prompt": "b"}, "system and system_prompt are both"),
        ({"system": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, "`system` is a chat"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    columns: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "good.jsonl", TRL, {**TRL, **columns})
    assert main(["data", "prepare", str(path), "--to", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "line 2: " in error and problem in error and error.count("\n") == 1


def test_map_names_them(tmp_path: Path) -> None:
    orca = {"manner": "In French.", "question": "hello", "chosen": "A", "rejected": "B", "prompt": "unused"}
    made, [row] = prepared(tmp_path, orca, columns={"prompt": "question", "system": "manner"})
    assert row.prompt == (Message("system", "In French."), USER)
    assert list(made.unread) == ["prompt (not that of --map)"]


def test_a_question_is_not_lost_where_no_column_is_called_prompt(tmp_path: Path) -> None:
    for name in ("question", "query", "input", "context", "messages"):
        with pytest.raises(SipoError, match=f"`{name}` looks like one; say so, such as --map prompt={name}"):
            prepared(tmp_path, {name: "why?", "chosen": "Well, A", "rejected": "Well, B"})
    _, [row] = prepared(tmp_path, {"question": "why?", "chosen": "why? A", "rejected": "why? B"})
    assert row.prompt == (Message("user", "why?"),)


WHOLE = {
    "chosen": [*(turn._asdict() for turn in (*TURNS, USER)), {"role": "assistant", "content": "A"}],
    "rejected": [*(turn._asdict() for turn in (*TURNS, USER)), {"role": "assistant", "content": "B"}],
}


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"prompt": "hello"}, (*TURNS, USER)),
        ({"prompt": "hi"}, (*TURNS, USER)),
        (
            {"prompt": [{"role": "system", "content": "S"}, *WHOLE["chosen"][:3]]},
            (Message("system", "S"), *TURNS, USER),
        ),
        ({"system": "S"}, (Message("system", "S"), *TURNS, USER)),
        ({"history": [["hi", "ho"]], "context": "hello"}, (*TURNS, USER)),
        ({"prompt": "bye"}, None),
        ({"prompt": [{"role": "user", "content": "x"}, *WHOLE["chosen"][1:3]]}, None),
        ({"context": "Dogs bark."}, None),
        ({"history": [["a", "b"]]}, None),
    ],
)
def test_whole_chats_and_what_stands_beside_them(
    columns: dict[str, Any], prompt: tuple[Message, ...] | None, tmp_path: Path
) -> None:
    made, rows = prepared(tmp_path, {**WHOLE, **columns}, TRL)
    assert [row.prompt for row in rows] == [*([prompt] if prompt else []), (USER,)]
    assert (list(made.dropped.values()) == [1]) == (prompt is None)


def test_a_system_column_against_a_system_turn(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]
    made, rows = prepared(tmp_path, {**TRL, "prompt": chat, "system": "S "}, {**TRL, "prompt": chat, "system": "T"})
    assert len(rows) == 1
    assert made.dropped == {"a system column that disagrees with the chat's system turn": 1}


def test_unread_columns_are_named_wherever_rows_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {**TRL, "persona": "a", "id": 1, "empty": "", "votes": 3},
        {**TRL, "persona": "b", "id": 2, "empty": None, "votes": 3},
        {**TRL, "prompt": "bye", "persona": "a", "id": 3, "votes": 2},
    ]
    path = lines(tmp_path / "good.jsonl", *records)
    assert main(["data", "prepare", str(path), "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "not read: `persona`, `id`, `votes`" in said
    assert (
        "rows of one prompt differ there: `persona` in 1 prompt and `id` in 1 prompt" in said
        and "--map system=COLUMN" in said
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `persona` | 1 |" in card and "| `votes` | 0 |" in card and "empty" not in card
    own = [{"prompt": "p", "response_0": "A", "response_1": "B", "preferred": {"a": 0}, "mood": mood} for mood in "xy"]
    pq.write_table(pa.Table.from_pylist(own), tmp_path / "rows.parquet")
    for file in (lines(tmp_path / "rows.jsonl", *own), tmp_path / "rows.parquet"):
        assert main(["data", "inspect", str(file)]) == 0
        assert "not read: `mood`\nrows of one prompt differ there: `mood` in 1 prompt" in capsys.readouterr().out
        assert main(["data", "inspect", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["unread"] == {"mood": 1}
    assert main(["data", "convert", str(file), "--to", str(tmp_path / "converted")]) == 0
    assert "not read: `mood`" in capsys.readouterr().out


def test_answers_of_one_prompt_that_differ_in_what_is_not_read(tmp_path: Path) -> None:
    scores = [
        {"prompt": "p", "response": "A", "good": 1, "mood": "x"},
        {"prompt": "p", "response": "B", "good": 2, "mood": "y"},
    ]
    made, [_] = prepared(tmp_path, *scores, objectives=("good",))
    assert made.unread == {"mood": 1}


MESSAGE = {"role": "user", "content": "hello", "name": "Ann", "tool_calls": [], "weight": None}
SHAREGPT = {"conversations": [{"from": "human", "value": "hello", "weight": 0}], "id": "x", "system": ""}


@pytest.mark.parametrize(
    ("prompt", "unread"),
    [
        ([MESSAGE], {"prompt[].name"}),
        (json.dumps([MESSAGE]), {"prompt[].name"}),
        (MESSAGE, {"prompt[].name"}),
        ({"messages": [{**MESSAGE, "name": ""}]}, set()),
        (SHAREGPT, {"prompt[].weight", "prompt.id"}),
        ([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], set()),
        ("hello", set()),
    ],
)
@pytest.mark.parametrize("record", [TRL, SOURCES["pairs"][0]], ids=["trl", "pairs"])
def test_keys_of_messages_that_nobody_reads_are_named(
    record: dict[str, Any], prompt: Any, unread: set[str], tmp_path: Path
) -> None:
    answer = [{"role": "assistant", "content": "A", "reasoning_content": "hm"}]
    first = next(name for name in ("chosen", "response_0") if name in record)
    made, rows = prepared(tmp_path, {**record, "prompt": prompt, first: answer}, objectives=("good",))
    assert set(made.unread) == {*unread, f"{first}[].reasoning_content"}
    assert (rows[0].prompt, rows[0].responses) == ((USER,), ("A", "B"))
    if first == "response_0":
        own = lines(tmp_path / "rows.jsonl", {**record, "prompt": prompt, "preferred": {"good": 0}, "good": None})
        assert set(read_rows(own)[0].unread) == unread


def test_a_record_without_such_columns_is_left_as_it_is() -> None:
    chat = (Message("system", "S"), *TURNS, USER)
    assert in_context({"prompt": "x", "score": 3, "my_input": "y"}, chat) == chat
