"""`sipo generate`: prompts from wherever they are, answered by one model or many at one load."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sipo.commands import evenly, ratios
from sipo.data.prompts import parse_prompt, read_prompts, text_of
from sipo.errors import SipoError
from sipo.finished.built import spec_of
from sipo.message import Message
from sipo.methods.registry import usual
from sipo.plain import plain
from sipo.progress import say_json

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel, FinishedRun, How

Chat = tuple[Message, ...]
STDIN = Path("-")


def prompts_of(texts: Sequence[str], file: Path | None, stdin: TextIO) -> list[Chat]:
    """Those of the command line, then those of a file: lines of text, or records with a column `prompt`.

    `-` is stdin, as are no prompts at all where something is piped in; a line there is a prompt, or JSON.
    """
    chats = [_parsed(text, "--prompt") for text in texts]
    if file is None and not texts:
        if stdin.isatty():
            raise SipoError("say what to answer by --prompt TEXT or --prompts FILE, or pipe prompts in, one a line")
        file = STDIN
    if file == STDIN:
        chats += _of_lines(stdin, "stdin")
    elif file is not None and file.suffix.lower() == ".txt":
        with file.open(encoding="utf-8") as lines:
            chats += _of_lines(lines, str(file))
    elif file is not None:
        chats += read_prompts(file)
    return chats


def _of_lines(lines: TextIO, place: str) -> list[Chat]:
    try:
        found = [_line(line, f"{place} line {at}") for at, line in enumerate(lines, 1) if line.strip()]
    except UnicodeDecodeError as problem:
        raise SipoError(f"{place}: is no text in UTF-8 ({problem})") from None
    if not found:
        raise SipoError(f"{place}: holds no prompt; write one a line")
    return found


def _line(line: str, place: str) -> Chat:
    """A text; or a JSON object with a `prompt`, or a JSON list of messages."""
    if line.lstrip()[0] not in "{[":
        return _parsed(line.strip(), place)
    try:
        found = json.loads(line)
    except ValueError:
        return _parsed(line.strip(), place)  # a text that begins so
    if not isinstance(found, dict):
        return _parsed(found, place)
    if "prompt" not in found:
        raise SipoError(f'{place}: has no `prompt`; write a text, {{"prompt": ...}} or a list of messages a line')
    return _parsed(found["prompt"], place, found)


def _parsed(value: object, place: str, beside: Mapping[str, Any] | None = None) -> Chat:
    try:
        return parse_prompt(value, beside)
    except SipoError as problem:
        raise SipoError(f"{place}: {problem}") from None


def models_of(
    run: "FinishedRun", methods: Sequence[str], shares: Sequence[Mapping[str, float]]
) -> list["AlignedModel"]:
    """Every method at every weight; those that no weight steers once."""
    found = []
    for method in dict.fromkeys(methods) or [usual(run.config.methods)]:
        if not spec_of(method).steered:
            found.append(run.at(None, method))
            continue
        if not shares:
            example = ratios(evenly(run.objectives))
            raise SipoError(f"--weights is missing; give a share for each objective, such as --weights {example}")
        found += [run.at(each, method) for each in shares]
    return found


def answer(
    run: "FinishedRun", chats: Sequence[Chat], models: Sequence["AlignedModel"], how: "How", *, as_json: bool
) -> None:
    """Print every model's answer to every prompt: one alone as it comes, several with their prompts, or JSON lines."""
    asks = [(chat, model) for chat in chats for model in models]
    shown = plain if sys.stdout.isatty() else str  # a pipe gets what the model wrote
    if len(asks) == 1 and not as_json:
        told: How = {**how, "watch": lambda _, piece: print(shown(piece), end="", flush=True)}
        run.generate(asks, **told)
        print()
        return
    answers = run.generate(asks, **how)
    if as_json:
        for (chat, model), text in zip(asks, answers, strict=True):
            say_json(_record(chat, model, text))
        return
    for line in _told(asks, answers):
        print(shown(line))


def _record(chat: Chat, model: "AlignedModel", text: str) -> dict[str, Any]:
    alone = len(chat) == 1 and chat[0].role == "user"
    prompt = chat[0].content if alone else [turn._asdict() for turn in chat]
    return {"prompt": prompt, "method": model.method, "weights": model.weights, "response": text}


def _told(asks: Sequence[tuple[Chat, "AlignedModel"]], answers: Sequence[str]) -> Iterator[str]:
    several = len({id(model) for _, model in asks}) > 1
    before = None
    for (chat, model), text in zip(asks, answers, strict=True):
        if chat is not before:
            yield f"{'' if before is None else chr(10)}> {text_of(chat)}"
        before = chat
        yield f"\n[{named(model)}]\n{text}" if several else f"\n{text}"


def named(model: "AlignedModel") -> str:
    """A model for people: its method and weights."""
    return f"{model.method} {ratios(model.weights)}" if model.weights else model.method
