"""`sipo chat`: a conversation with a finished run, whose knob may be turned in the middle of it."""

import sys
from collections.abc import Mapping
from typing import TextIO

from sipo.cli.arguments import parse_weights
from sipo.cli.generate import named
from sipo.commands import evenly
from sipo.errors import SipoError
from sipo.finished.handle import AlignedModel, FinishedRun, How
from sipo.message import Message
from sipo.plain import plain

HELP = """\
/weights A=0.3   turn the knob; what is left is shared among the objectives that are not named
/method NAME     answer by another method
/again           answer the last question again
/clear           begin anew
/help            this
/quit            end; so does the end of input"""


class Conversation:
    """The messages so far and who answers; the model is loaded once."""

    def __init__(self, run: FinishedRun, weights: str | None, method: str | None, how: How) -> None:
        self.run, self.how, self.method = run, how, method
        self.shares: Mapping[str, float] = evenly(run.objectives)
        self.turns: list[Message] = []
        self.asked = 0
        self.model = self._at(self._completed(weights) if weights else self.shares, method)

    def answer(self, text: str) -> None:
        """Print the answer as it comes; it becomes part of the conversation."""
        self.turns.append(Message("user", text))
        shown = plain if sys.stdout.isatty() else str
        how: How = {
            **self.how,
            "seed": self.how.get("seed", 0) + self.asked,
            "watch": lambda _, piece: print(shown(piece), end="", flush=True),
        }
        try:
            said = self.model.generate(self.turns, **how)
        except SipoError:
            self.turns.pop()
            raise
        print(flush=True)
        self.asked += 1
        self.turns.append(Message("assistant", said))

    def command(self, line: str) -> bool:
        """Do what a line with a slash says; False where it ends the conversation."""
        verb, _, rest = line.partition(" ")
        match verb, rest.strip():
            case "/quit" | "/exit", "":
                return False
            case "/help", "":
                print(HELP)
            case "/clear", "":
                self.turns = []
            case "/again", "" if len(self.turns) > 1:
                question = self.turns[-2].content
                self.turns = self.turns[:-2]
                self.answer(question)
            case "/weights", shares if shares:
                self.model = self._at(self._completed(shares), self.method)
                print(f"[{named(self.model)}]")
            case "/method", name if name:
                self.model, self.method = self._at(self.shares, name), name
                print(f"[{named(self.model)}]")
            case _:
                raise SipoError(f"{verb}: is no command, or lacks what it needs; /help lists them")
        return True

    def _at(self, shares: Mapping[str, float], method: str | None) -> AlignedModel:
        model = self.run.at(shares, method)
        self.shares = shares
        return model

    def _completed(self, text: str) -> dict[str, float]:
        """What a line names, and the rest shared among the others in the proportions that they have."""
        given = parse_weights(text)
        others = [name for name in self.run.objectives if name not in given]
        left, known = 1 - sum(given.values()), sum(self.shares[name] for name in others)
        if not others or left <= 0:
            return given  # which is seen to sum to 1 where it is used
        parts = {name: self.shares[name] / known if known else 1 / len(others) for name in others}
        return {name: given[name] if name in given else left * parts[name] for name in (*self.run.objectives, *given)}


def converse(conversation: Conversation, lines: TextIO) -> None:
    """Answer line by line until the input ends. What cannot be done is said, and the conversation goes on."""
    interactive = lines.isatty() and sys.stdout.isatty()
    if interactive:
        print(f"[{named(conversation.model)}] /weights turns the knob, /help lists what else there is, Ctrl-D ends")
    while line := _read(lines, interactive):
        text = line.strip()
        try:
            if text.startswith("/"):
                if not conversation.command(text):
                    return
            elif text:
                conversation.answer(text)
        except SipoError as problem:
            print(f"error: {problem}", file=sys.stderr, flush=True)


def _read(lines: TextIO, interactive: bool) -> str:
    """A line with its end; empty where there is none."""
    if not interactive:
        return lines.readline()
    try:
        return input("> ") + "\n"
    except EOFError:
        print()
        return ""
