"""Chats in every form that files have them: none is taken for a text, in any column of any source."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipo.cli.main import main
from sipo.data import read_prompts, read_rows
from sipo.data.chats import UnusableError, agreed, answered, said
from sipo.data.prepare import prepare
from sipo.errors import SipoError
from sipo.message import Message

USER, REPLY, OTHER = (
    Message("user", "hello"),
    Message("assistant", "Hi!"),
    Message("assistant", "Go \"away\", it's 'me'."),
)
SYSTEM = Message("system", "Be kind.")


def openai(*turns: Message) -> list[dict[str, Any]]:
    return [turn._asdict() for turn in turns]


def sharegpt(*turns: Message) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn.role], "value": turn.content} for turn in turns]


def in_parts(*turns: Message) -> list[dict[str, Any]]:
    halves = [(turn, len(turn.content) // 2) for turn in turns]
    return [
        {"role": turn.role, "content": [{"type": "text", "text": turn.content[:at]}, {"type": "text", "text": turn.content[at:]}]}
        for turn, at in halves
    ]  # fmt: skip


def printed(value: Any) -> str:
    """As numpy prints an array of objects, and pandas writes it to CSV."""
    return "[" + "\n ".join(map(repr, value)) + "]" if isinstance(value, list) else repr(value)


KEYS: dict[str, Callable[..., Any]] = {"openai": openai, "sharegpt": sharegpt, "parts": in_parts}
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "list": lambda chat: chat,
    "messages": lambda chat: {"messages": chat, "tools": []},
    "conversations": lambda chat: {"id": 3, "conversations": chat},
}
WRITTEN: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda value: value,
    "json": json.dumps,
    "indented": lambda value: json.dumps(value, indent=2),
    "python": repr,
    "numpy": printed,
    "twice": lambda value: json.dumps(json.dumps(value)),
    "spaces": lambda value: f"\n {json.dumps(value, ensure_ascii=False)} ",
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_chat_in_any_form_is_the_same_chat(
    keys: Callable[..., Any], wrapped: Callable[[Any], Any], written: Callable[[Any], Any]
) -> None:
    chat = (SYSTEM, USER, OTHER, Message("user", "and\n\tnow? \u2600 \\d é"), REPLY)
    assert said(written(wrapped(keys(*chat))), "it") == chat


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1))
def test_any_text_survives_being_serialised(turns: list[tuple[str, str]]) -> None:
    chat = [{"role": role, "content": content} for role, content in turns]
    expected = tuple(Message(*turn) for turn in turns)
    assert said(json.dumps(chat), "it") == said(repr(chat), "it") == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "hello", "[]", "{}", "[1, 2]", "[citation needed] The sun.", "{role: x}", '{"role": "admin"}', '["role"]',
        '[{"from": "Paris", "to": "Rome"}]', '{"value": 3}', "{x | x > 0}", "(see below)", '"quoted"', "[{}]",
        'Write [{"role": "user", "content": "x"}] to the API.', '{"messages": 3}', '[{"name": "role", "type": "content"}]',
    ],
)  # fmt: skip
def test_other_texts_are_texts(text: str) -> None:
    assert said(text, "it") == text


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "hel', "[{'role': 'user', 'content': 'it's'}]", '{"messages": [{"role": "us',
        "[{'content': 'a', 'role': 'user'} {'content': 'b', 'role': 'assistant'}", '[{"from": "human", "value": "x"},',
        "array([{'role': 'user', 'content': 'a'}], dtype=object)", '{"id": 1, "role": "user", "content": }',
    ],
)  # fmt: skip
def test_what_looks_like_a_chat_and_cannot_be_read_is_no_text(text: str) -> None:
    with pytest.raises(UnusableError, match="looks like a serialised chat"):
        said(text, "it")


UNUSABLE: dict[str, tuple[Any, str]] = {
    "no content": ([{"role": "assistant", "content": None}], "without content"),
    "tool call": ([{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}], "calls tools"),
    "call alone": ([{"role": "assistant", "tool_calls": [{"name": "f"}]}], "calls tools"),
    "old call": ([{"role": "assistant", "content": "", "function_call": {"name": "f"}}], "calls tools"),
    "tool": ([{"role": "tool", "content": "4"}], "a role other than"),
    "list": ([{"role": ["user"], "content": "a"}], "a role other than"),
    "mapping": ([{"role": {"name": "user"}, "content": "a"}], "a role other than"),
    "number": ([{"role": 1, "content": "a"}], "a role other than"),
    "null": ([{"role": None, "content": "a"}], "a role other than"),
    "image": ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "parts that are not text"),
    "tools": ({"messages": openai(USER), "tools": [{"name": "f"}]}, "tools, images or sound"),
}
MALFORMED = (
    3,
    True,
    ["a"],
    [[USER]],
    [{"content": "a"}],
    [{"role": "user"}],
    [{"role": "user", "content": 3}],
    {"a": 1},
)


@pytest.mark.parametrize(("value", "why"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("written", [WRITTEN["as it is"], WRITTEN["json"], WRITTEN["python"]])
def test_turns_that_are_no_text_leave_the_record_out(value: Any, why: str, written: Callable[[Any], Any]) -> None:
    with pytest.raises(UnusableError, match=why):
        said(written(value), "it")


@pytest.mark.parametrize("value", MALFORMED, ids=map(str, MALFORMED))
def test_what_is_neither_text_nor_chat_is_one_line(value: Any) -> None:
    with pytest.raises(SipoError, match="column `a` ") as caught:
        said(value, "column `a`")
    assert not isinstance(caught.value, UnusableError)


def test_a_prompt_and_the_whole_chat_beside_it() -> None:
    again = Message("user", "again")
    chat = (SYSTEM, USER, REPLY, again)
    for stated in (chat, chat[1:], (USER,), (again,), (Message("user", " hello\n"),)):
        assert agreed(chat, stated) == chat
    assert agreed(chat[1:], chat) == chat  # the fuller of the two
    for stated in (
        (Message("user", "other"),),
        (SYSTEM,),
        (USER, again),
        (REPLY,),
        (Message("system", "x"), *chat[1:]),
    ):
        with pytest.raises(UnusableError, match="disagrees"):
            agreed(chat, stated)
    assert answered(openai(SYSTEM, USER, REPLY), "it", (USER,)) == ((SYSTEM, USER), "Hi!")
    for bad in (openai(USER), openai(REPLY, USER), []):
        with pytest.raises(UnusableError):
            answered(bad, "it", (USER,))


SERIALISED = [json.dumps, repr]
PAIRS: dict[str, Callable[[Callable[[Any], str]], dict[str, Any]]] = {
    "trl": lambda w: {"prompt": w(openai(USER)), "chosen": w(openai(REPLY)), "rejected": w(openai(OTHER))},
    "trl whole": lambda w: {"chosen": w(openai(USER, REPLY)), "rejected": w({"messages": openai(USER, OTHER)})},
    "trl beside": lambda w: {"prompt": "hello", "chosen": w(openai(USER, REPLY)), "rejected": w(openai(USER, OTHER))},
    "trl one": lambda w: {"prompt": "hello", "chosen": w(openai(REPLY)[0]), "rejected": OTHER.content},
    "sharegpt": lambda w: {"conversations": w(sharegpt(USER)), "chosen": w(sharegpt(REPLY)), "rejected": w(sharegpt(OTHER))},
    "alpaca": lambda w: {"instruction": "hello", "chosen": w(sharegpt(USER, REPLY)), "rejected": w(openai(OTHER))},
    "pairs": lambda w: {
        "prompt": w(openai(USER)), "response_0": w(openai(REPLY)), "response_1": w(openai(USER, OTHER)), "good": 0,
    },
    "pku": lambda w: {
        "prompt": "hello", "response_0": w(openai(REPLY)), "response_1": w(openai(OTHER)),
        "better_response_id": 0, "safer_response_id": 0,
    },
    "helpsteer3": lambda w: {
        "context": w(openai(USER)), "response1": w(openai(REPLY)), "response2": w(openai(OTHER)), "overall_preference": -2,
    },
    "helpsteer2": lambda w: {
        "prompt": w(openai(USER)), "response_1": w(openai(REPLY)), "response_2": OTHER.content, "preference_strength": -1,
    },
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("write", SERIALISED)
@pytest.mark.parametrize("record", PAIRS.values(), ids=PAIRS)
def test_serialised_chats_are_read_in_every_source(
    record: Callable[[Callable[[Any], str]], dict[str, Any]], write: Callable[[Any], str], suffix: str, tmp_path: Path
) -> None:
    value, path = record(write), tmp_path / f"good.{suffix}"
    write_file(path, [value])
    made = prepare(str(path), tmp_path / "out", choice_of(value))
    [row] = read_rows(tmp_path / "out" / made.file)
    assert (row.prompt, row.responses) == ((USER,), (REPLY.content, OTHER.content))
    assert set(row.preferred.values()) == {0}


def choice_of(value: dict[str, Any]) -> Any:
    from sipo.data.cleaning import Choice

    return Choice(objectives=("good",) if "good" in value else ())


def write_file(path: Path, records: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0].keys())
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("write", SERIALISED)
def test_scored_responses_and_prompts(write: Callable[[Any], str], tmp_path: Path) -> None:
    scored = [
        {"prompt": write(openai(USER)), "response": write(openai(turn)), "good": at}
        for at, turn in enumerate((OTHER, REPLY))
    ]
    write_file(tmp_path / "scored.csv", scored)
    prepare(str(tmp_path / "scored.csv"), tmp_path / "out", choice_of({"good": 1}))
    [row] = read_rows(tmp_path / "out" / "rows.jsonl")
    assert (row.prompt, row.responses, row.preferred) == ((USER,), (OTHER.content, REPLY.content), {"good": 1})
    write_file(tmp_path / "prompts.jsonl", [{"prompt": write(openai(SYSTEM, USER))}, {"prompt": "plain"}])
    assert read_prompts(tmp_path / "prompts.jsonl") == [(SYSTEM, USER), (Message("user", "plain"),)]


@pytest.mark.parametrize("write", SERIALISED)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_of_our_own(write: Callable[[Any], str], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    good = {
        "prompt": write(openai(SYSTEM, USER)), "response_0": write(openai(REPLY)),
        "response_1": write(openai(SYSTEM, USER, OTHER)), "preferred": {"good": 1},
    }  # fmt: skip
    write_file(path, [good])
    [row] = read_rows(path)
    assert (row.prompt, row.responses) == ((SYSTEM, USER), (REPLY.content, OTHER.content))
    write_file(path, [good, {**good, "response_0": write(openai(REPLY))[:30]}])
    with pytest.raises(SipoError, match="(line|row) 2: a text that looks like a serialised chat"):
        read_rows(path)


def test_what_cannot_be_used_is_counted_and_never_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompt": "hello", "chosen": openai(REPLY), "rejected": openai(OTHER)}
    records = [good]
    for value, _ in UNUSABLE.values():
        records.append({**good, "rejected": value})
    records.append({**good, "prompt": "bye", "chosen": json.dumps(openai(REPLY))[:-5]})
    write_file(tmp_path / "good.jsonl", [{key: json.dumps(value) for key, value in each.items()} for each in records])
    assert main(["data", "prepare", str(tmp_path / "good.jsonl"), "--to", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for why in ("a turn that calls tools", "a role other than", "parts that are not text", "cannot be read"):
        assert why in out
    assert "1 row, 1 prompt" in out
