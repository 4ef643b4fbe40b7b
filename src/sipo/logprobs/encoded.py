"""A run's rows as token ids: 4 bytes each, and each prompt once, until a stage asks for a row; or how long they are."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sipo.disk.once import ids
from sipo.logprobs.packing import Group


class Encoded:
    """Groups by a name, each with the number of a prompt that it shares with others, and two responses of its own."""

    def __init__(self, *, holds: bool = True) -> None:
        """One that `holds` no tokens knows lengths alone."""
        self.holds = holds
        self._tokens, self._ends = array("i"), array("q", [0])
        self._prompts: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._prompt_of, self._first_of, self._whole = array("i"), array("i"), array("i")

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    def __getitem__(self, name: str) -> Group:
        number = self._groups[name]
        first = self._first_of[number]
        return Group(self._of(self._prompt_of[number]), (self._of(first), self._of(first + 1)))

    def knows(self, prompt: str) -> bool:
        return prompt in self._prompts

    def add_prompt(self, prompt: str, tokens: Sequence[int]) -> None:
        self._prompts[prompt] = self._add(tokens)

    def add(self, name: str, prompt: str, responses: Sequence[Sequence[int]], whole: Sequence[int]) -> None:
        """A group with the prompt of that name, which is there, and two responses; `whole` is how long they were before
        they were cut.
        """
        self._groups[name] = len(self._prompt_of)
        self._prompt_of.append(self._prompts[prompt])
        first, _ = (self._add(tokens) for tokens in responses)
        self._first_of.append(first)
        self._whole.extend(whole)

    def lengths(self, names: Iterable[str]) -> NDArray[np.int64]:
        """[group, 5] in tokens: of the prompt, of both responses, and of both before they were cut."""
        numbers = np.fromiter((self._groups[name] for name in names), np.int64)
        each = np.diff(np.array(self._ends))
        firsts = np.array(self._first_of)[numbers]
        whole = np.array(self._whole).reshape(-1, 2)[numbers]
        return np.column_stack([each[np.array(self._prompt_of)[numbers]], each[firsts], each[firsts + 1], whole])

    def _add(self, tokens: Sequence[int]) -> int:
        if self.holds:
            self._tokens.extend(tokens)
        self._ends.append(self._ends[-1] + len(tokens))
        return len(self._ends) - 2

    def _of(self, number: int) -> tuple[int, ...]:
        return ids(self._tokens[self._ends[number] : self._ends[number + 1]])
