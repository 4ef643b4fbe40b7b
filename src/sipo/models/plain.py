"""Text as token ids in which nothing that was written becomes a special token."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from sipo.errors import SipoError

MARKS = [chr(code) for code in range(0xF0000, 0xF0100)]
"""Characters for private use, of which two that no text has mark what stays text."""


@dataclass(frozen=True)
class Plain:
    """Encodes texts by a tokenizer. Ordinary texts, and all else in a rendered chat, are encoded as it does it."""

    tokenizer: PreTrainedTokenizerBase
    also: frozenset[int] = frozenset()
    """Tokens that count as special beside those that the tokenizer calls so."""

    @cached_property
    def special(self) -> frozenset[int]:
        added = {id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return self.also.union(added, self.tokenizer.all_special_ids)

    @cached_property
    def never(self) -> frozenset[int]:
        """The ids that no written text may become. The unknown token is none of them: any rare letter may."""
        return self.special - {self.tokenizer.unk_token_id}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        tokens, name = self.tokenizer.added_tokens_decoder, self.tokenizer.convert_ids_to_tokens
        texts = {tokens[id].content if id in tokens else str(name(id)) for id in self.special}
        loose = any(id in tokens and tokens[id].normalized for id in self.special)  # its normaliser may lower letters
        longest_first = sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.IGNORECASE if loose else 0)

    def found(self, text: str) -> str | None:
        """The first special token that is written in the text."""
        found = self._pattern.search(text)
        return found[0] if found else None

    def encode(self, text: str, *, behind: bool = False) -> list[int]:
        """`behind` is for a text that stands behind another, white space or a mark, and so is given no space before."""
        if not self.found(text):
            return self._within(text, self.usual) if behind else self.usual(text)
        ids = self._within(text, self._spelled) if behind else self._spelled(text)
        return ids if self.never.isdisjoint(ids) else self._apart(text, behind)

    def _apart(self, text: str, behind: bool) -> list[int]:
        (marked,), marks = self.marked([text])
        return self.encode_marked(marked, marks, behind=behind)

    def marked(self, texts: Sequence[str]) -> tuple[list[str], tuple[str, str]]:
        """The texts with each special token between two marks, which stay there while a template puts them together.

        Texts without any are as they were.
        """
        if not any(map(self.found, texts)):
            return list(texts), ("", "")
        unused = (pair for pair in pairwise(MARKS) if not any(mark in text for mark in pair for text in texts))
        first, last = next(unused, ("", ""))
        if not first:
            raise SipoError("its text holds special tokens, and all characters for private use that could mark them")
        return [self._pattern.sub(lambda token: first + token[0] + last, text) for text in texts], (first, last)

    def encode_marked(self, text: str, marks: tuple[str, str], *, behind: bool = False) -> list[int]:
        """The ids of what was made of `marked` texts: special tokens between marks are text, others special."""
        first, last = marks
        if not first:
            return self._within(text, self.usual) if behind else self.usual(text)
        # text, what was marked, text, ...; a template may have torn marks off their token
        pieces = re.split(f"{first}({self._pattern.pattern}){last}|[{first}{last}]", text, flags=self._pattern.flags)
        ids = self._within(pieces[0], self.usual) if behind else self.usual(pieces[0])
        for number, piece in enumerate(pieces[1:], start=1):
            if piece:
                ids += self._written(piece) if number % 2 else self._within(piece, self.usual)
        return ids

    def usual(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _spelled(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _written(self, token: str) -> list[int]:
        """The ids of what reads like a special token."""
        ids = self._within(token, self._spelled)
        if self.special.isdisjoint(ids):
            return ids
        # The vocabulary has it as an ordinary piece, too (unigram, whole words): write it apart.
        parts = [id for part in (token[:1], token[1:]) for id in self._within(part, self._spelled)]
        return [id for id in parts if id not in self.never]

    def _within(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """The ids of a text that others precede: behind a line break, where no tokenizer puts a space of its own."""
        newline, ids = encode("\n"), encode("\n" + text)
        return ids[len(newline) :] if newline and ids[: len(newline)] == newline else encode(text)


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts before and after a text, such as BOS and EOS."""
    bare, framed = (list(tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def within(ids: Sequence[int], rows: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise SipoError, with the token, for an id beyond the rows of the model's embedding."""
    largest = max(ids, default=0)
    if largest >= rows:
        token = str(tokenizer.convert_ids_to_tokens(largest))
        raise SipoError(
            f"the token {token!r} has the id {largest}, and the model's embedding has {rows} rows; enlarge it "
            "(resize_token_embeddings) and train it, or take the token out of the tokenizer"
        )
