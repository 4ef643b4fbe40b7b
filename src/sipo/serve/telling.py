"""A text as it comes: pieces of it that nothing may change any more, cut before the first stop string."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from sipo.decoding.running import Chance
from sipo.finished.streaming import Stream
from sipo.models.chat import Codec
from sipo.serve.scheduler import Ask, Done, Written
from sipo.serve.wire import ApiError, Told


@dataclass(frozen=True)
class Piece:
    text: str
    told: tuple[Told, ...]
    """The tokens that have come since the last piece."""
    count: int
    """How many they are, with the end token."""
    finish: str | None = None
    """`stop` or `length`, of the last piece."""


async def pieces(ask: Ask, codec: Codec, stops: Sequence[str], leave: Callable[[], None]) -> AsyncIterator[Piece]:
    """The last one has a `finish`. `leave` is called where a stop string ends the text. Raises ApiError."""
    text, told, count = Text(codec, stops), list[Told](), 0
    while True:
        event = await ask.events.get()
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Written):
            count += event.count
            if event.chances:
                told += [_told(codec, *pair) for pair in zip(event.tokens, event.chances, strict=True)]
            new = "".join(text.more(token) for token in event.tokens)
            finish = "stop" if text.stopped else None
        else:
            new = text.rest()
            finish = "stop" if text.stopped or event.ended else "length"
        if new or finish:
            yield Piece(new, tuple(told), count, finish)
            told, count = [], 0
        if finish:
            if not isinstance(event, Done):
                leave()
            return


class Text:
    """What of a text may be told: never a part of a stop string."""

    def __init__(self, codec: Codec, stops: Sequence[str]) -> None:
        self.stops = stops
        self.stopped = False
        self._heard: list[str] = []
        self._held = ""
        self._stream = Stream(codec, {0: 0}, lambda _, piece: self._heard.append(piece))

    def more(self, token: int) -> str:
        """What the next token adds."""
        if not self.stopped:
            self._stream(0, token)
        return self._cut()

    def rest(self) -> str:
        """What is left, where no token follows."""
        if not self.stopped:
            self._stream.finish()
        told = self._cut()
        held, self._held = self._held, ""
        return told if self.stopped else told + held

    def _cut(self) -> str:
        if self.stopped:
            return ""
        text, self._heard[:] = self._held + "".join(self._heard), []
        found = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:  # the one that is whole first ends the text, however it comes in pieces
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _begun(text: str, stop: str) -> int:
    """How many of the text's last characters may be the first ones of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def _told(codec: Codec, token: int, chance: Chance) -> Told:
    likeliest = [Told(_text(codec, each), logprob) for each, logprob in chance.likeliest]
    return Told(_text(codec, token), chance.logprob, likeliest)


def _text(codec: Codec, token: int) -> str:
    return str(codec.tokenizer.decode([token]))
