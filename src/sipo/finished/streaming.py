"""An answer told as text while it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sipo.models.chat import Codec

Watch = Callable[[int, str], None]


@dataclass
class _Told:
    """How far one answer has been told."""

    tokens: list[int] = field(default_factory=list)
    settled: int = 0
    """Tokens whose text is known."""
    before: list[int] = field(default_factory=list)
    """The last of them that have a text: decoded again, since what follows may join them."""
    pieces: list[str] = field(default_factory=list)
    spaces: str = ""
    """Held back: an answer does not end in them."""


class Stream:
    """Tells tokens as text, and holds back what the next token may still change (half a character, a space).

    Only the last tokens are decoded again, so that a long answer costs no more a token than a short one.
    """

    def __init__(self, codec: Codec, told: Mapping[int, int], watch: Watch | None, done: Watch | None = None) -> None:
        """`told` are the requests that are told of, each with the place that `watch` and `done` know it by."""
        self.codec, self.places = codec, told
        self.watch, self.done = watch or _nobody, done or _nobody
        self.told = {request: _Told() for request in told}
        self._before = dict.fromkeys(told, 0)

    def again(self) -> None:
        """All of it is written anew, the same up to rounding: what has been told is not told again."""
        self._before = {request: len(told.tokens) for request, told in self.told.items()}

    def __call__(self, request: int, token: int) -> None:
        if request not in self.told:
            return
        if self._before[request]:
            self._before[request] -= 1
            return
        told = self.told[request]
        told.tokens.append(token)
        if token in self.codec.stops:
            return self._end(request)
        if self.watch is _nobody:
            return
        fresh = told.tokens[told.settled :]
        known, text = self._text(told.before), self._text(told.before + fresh)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return
        told.settled = len(told.tokens)
        if text == known:  # special tokens
            return
        told.before = fresh
        new = told.spaces + text[len(known) :]
        new = new if told.pieces else new.lstrip()
        told.spaces = new[len(new.rstrip()) :]
        self._tell(request, told, new.rstrip())

    def finish(self) -> None:
        """No token follows: those that have not ended were cut."""
        for request in tuple(self.told):
            self._end(request)

    def _end(self, request: int) -> None:
        told = self.told.pop(request)
        text, before = self.codec.decode(told.tokens), "".join(told.pieces)
        if text.startswith(before):
            self._tell(request, told, text[len(before) :])
        self.done(self.places[request], text)

    def _text(self, tokens: list[int]) -> str:
        return str(self.codec.tokenizer.decode(tokens, skip_special_tokens=True))

    def _tell(self, request: int, told: _Told, piece: str) -> None:
        if piece:
            told.pieces.append(piece)
            self.watch(self.places[request], piece)


def _nobody(place: int, text: str) -> None:
    pass
