"""`sipo generate`: prompts from wherever they are, answered by one model or many at one load."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sipo.commands import evenly, ratios
from sipo.data.chats import UnusableError
from sipo.data.prompts import parse_prompt, read_prompts, text_of
from sipo.disk.publishing import check_on_disk
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
        check_on_disk(file)
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
    except UnusableError as why:
        raise SipoError(f"{place}: {why}; mend it or leave it out") from None
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
            raise missing_weights(run.objectives)
        found += [run.at(each, method) for each in shares]
    return found


def missing_weights(objectives: Sequence[str]) -> SipoError:
    example = ratios(evenly(objectives))
    return SipoError(f"--weights is missing; give a share for each objective, such as --weights {example}")


def answer(
    run: "FinishedRun", chats: Sequence[Chat], models: Sequence["AlignedModel"], how: "How", *, as_json: bool
) -> None:
    """Print every model's answer to every prompt, in order, as they come: several with their prompts, or JSON lines."""
    asks = [(chat, model) for chat in chats for model in models]
    texts = _Texts(asks)
    end = (lambda at, text: say_json(_record(*asks[at], text))) if as_json else texts.end
    told: How = {**how, "watch": None if as_json else texts.piece, "done": in_order(end)}
    try:
        run.generate(asks, **told)
    except KeyboardInterrupt:
        texts.leave()
        raise


def in_order(tell: Callable[[int, str], None]) -> Callable[[int, str], None]:
    """Is told of places from 0 on in any order, and hands each on once all before it are there."""
    ended: dict[int, str] = {}
    turn = 0

    def done(place: int, text: str) -> None:
        nonlocal turn
        ended[place] = text
        while turn in ended:
            tell(turn, ended.pop(turn))
            turn += 1

    return done


class _Texts:
    """Prints one answer while it is written; pieces of the ones after it wait for their turn."""

    def __init__(self, asks: Sequence[tuple[Chat, "AlignedModel"]]) -> None:
        self.heads = list(_heads(asks))
        self.shown = plain if sys.stdout.isatty() else str  # a pipe gets what the model wrote
        self.turn, self.begun = 0, False
        self.waiting: defaultdict[int, str] = defaultdict(str)

    def piece(self, place: int, text: str) -> None:
        if place == self.turn:
            self._say(text)
        else:
            self.waiting[place] += text

    def end(self, place: int, _: str) -> None:
        self._say("\n")
        self.turn, self.begun = place + 1, False
        if waiting := self.waiting.pop(self.turn, ""):
            self._say(waiting)

    def leave(self) -> None:
        """In the middle of an answer, perhaps."""
        if self.begun:
            self._say("\n")

    def _say(self, text: str) -> None:
        head = "" if self.begun else self.heads[self.turn]
        self.begun = True
        print(self.shown(head + text), end="", flush=True)


def _record(chat: Chat, model: "AlignedModel", text: str) -> dict[str, Any]:
    alone = len(chat) == 1 and chat[0].role == "user"
    prompt = chat[0].content if alone else [turn._asdict() for turn in chat]
    return {"prompt": prompt, "method": model.method, "weights": model.weights, "response": text}


def _heads(asks: Sequence[tuple[Chat, "AlignedModel"]]) -> Iterator[str]:
    """What stands before each answer: nothing where there is one alone, else its prompt, and its model if there are
    several.
    """
    several = len({id(model) for _, model in asks}) > 1
    before = None
    for chat, model in asks:
        head = "" if chat is before else f"{'' if before is None else chr(10)}> {text_of(chat)}\n"
        before = chat
        yield "" if len(asks) == 1 else f"{head}\n[{named(model)}]\n" if several else f"{head}\n"


def named(model: "AlignedModel") -> str:
    """A model for people: its method and weights."""
    return f"{model.method} {ratios(model.weights)}" if model.weights else model.method
