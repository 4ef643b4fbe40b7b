"""An answer told as text while it is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sipo.models.chat import Codec


@dataclass
class _Told:
    """How far one answer has been told."""

    tokens: list[int] = field(default_factory=list)
    settled: int = 0
    """Tokens whose text is known; the `before` last of them are decoded again, since what follows may join them."""
    before: int = 0
    pieces: list[str] = field(default_factory=list)
    spaces: str = ""
    """Held back: an answer does not end in them."""


class Stream:
    """Tells tokens as text, and holds back what the next token may still change (half a character, a space).

    Only the last tokens are decoded again, so that a long answer costs no more a token than a short one.
    """

    def __init__(self, codec: Codec, told: Mapping[int, int], watch: Callable[[int, str], None]) -> None:
        """`told` are the requests that are told of, each with the place that `watch` knows it by."""
        self.codec, self.places, self.watch = codec, told, watch
        self.told: dict[int, _Told] = {}

    def __call__(self, request: int, token: int) -> None:
        if token in self.codec.stops or request not in self.places:
            return
        told = self.told.setdefault(request, _Told())
        told.tokens.append(token)
        start = told.settled - told.before
        known, text = self._text(told.tokens[start : told.settled]), self._text(told.tokens[start:])
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return
        told.settled, told.before = len(told.tokens), len(told.tokens) - told.settled
        new = told.spaces + text[len(known) :]
        new = new if told.pieces else new.lstrip()
        told.spaces = new[len(new.rstrip()) :]
        self._tell(request, told, new.rstrip())

    def finish(self, texts: Sequence[str]) -> None:
        for request in self.places:
            text = texts[request]
            told = self.told.setdefault(request, _Told())
            before = "".join(told.pieces)
            if text.startswith(before):
                self._tell(request, told, text[len(before) :])

    def _text(self, tokens: list[int]) -> str:
        return str(self.codec.tokenizer.decode(tokens, skip_special_tokens=True))

    def _tell(self, request: int, told: _Told, piece: str) -> None:
        if piece:
            told.pieces.append(piece)
            self.watch(self.places[request], piece)
