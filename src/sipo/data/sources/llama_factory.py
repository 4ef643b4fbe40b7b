"""LLaMA-Factory's preference formats, in and out: alpaca (`instruction`, `input`) and sharegpt (`conversations`).

One file holds one objective, and is named after it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sipo.data.chats import SHAREGPT
from sipo.data.rows import Row
from sipo.data.sources.fields import chosen_first, pair, prompt
from sipo.data.sources.interface import Dropped, Record, Source, each
from sipo.errors import SipoError
from sipo.message import Message

TAGS = {role: tag for tag, role in SHAREGPT.items()}


def rows(records: Iterable[Record], asked_for: tuple[str, ...]) -> Iterator[Row | Dropped]:
    def read(record: Record) -> Iterator[Row]:
        value = record.value
        asked = prompt(value, "conversations" if "conversations" in value else "instruction")
        asked, responses = pair(value, asked, "chosen", "rejected")
        yield Row(asked, responses, chosen_first(record, asked_for), record.split)

    return each(records, read)


def sharegpt(row: Row, chosen: int) -> dict[str, Any]:
    system, turns = _taken_apart(row)
    one, other = (_turn(Message("assistant", row.responses[index])) for index in (chosen, 1 - chosen))
    return {**system, "conversations": [_turn(turn) for turn in turns], "chosen": one, "rejected": other}


def alpaca(row: Row, chosen: int) -> dict[str, Any]:
    system, turns = _taken_apart(row)
    said = [turn.content for turn in turns]
    history = [list(pair) for pair in zip(said[:-1:2], said[1::2], strict=True)]
    answers = {"chosen": row.responses[chosen], "rejected": row.responses[1 - chosen]}
    return {**system, "instruction": said[-1], "input": "", "history": history, **answers}


def _taken_apart(row: Row) -> tuple[dict[str, str], tuple[Message, ...]]:
    """The system prompt, empty where there is none, and turns that alternate, as LLaMA-Factory wants them."""
    system, turns = ("", row.prompt) if row.prompt[0].role != "system" else (row.prompt[0].content, row.prompt[1:])
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise SipoError("LLaMA-Factory has no place for a chat whose turns do not alternate; use the format trl")
    return {"system": system}, turns


def _turn(message: Message) -> dict[str, str]:
    return {"from": TAGS[message.role], "value": message.content}


def description(file_name: str, writer: str) -> dict[str, Any]:
    """The entry of a file in LLaMA-Factory's dataset_info.json."""
    answers = {"chosen": "chosen", "rejected": "rejected", "system": "system"}
    if writer == "llama-factory":
        columns = {"messages": "conversations", **answers}
        return {"file_name": file_name, "formatting": "sharegpt", "ranking": True, "columns": columns}
    columns = {"prompt": "instruction", "query": "input", "history": "history", **answers}
    return {"file_name": file_name, "ranking": True, "columns": columns}


WRITERS: dict[str, Callable[[Row, int], dict[str, Any]]] = {"llama-factory": sharegpt, "llama-factory-alpaca": alpaca}

SOURCE = Source(
    "llama-factory",
    "chosen, rejected, and instruction or conversations",
    lambda value: value.keys() >= {"chosen", "rejected"} and bool({"instruction", "conversations"} & value.keys()),
    rows,
    general=1,
)
