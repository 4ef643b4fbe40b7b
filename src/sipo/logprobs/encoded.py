"""A run's rows as token ids: 4 bytes each, and each prompt once, until a stage asks for a row."""

from array import array
from collections.abc import Iterable, Sequence

from sipo.disk.once import ids
from sipo.logprobs.packing import Group


class Encoded:
    """Groups by a name, each with the number of a prompt that it shares with others, and responses of its own."""

    def __init__(self) -> None:
        self._tokens, self._ends = array("i"), array("q", [0])
        self._prompts: dict[str, int] = {}
        self._groups: dict[str, tuple[int, int, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    def __getitem__(self, name: str) -> Group:
        prompt, first, beyond = self._groups[name]
        return Group(self._of(prompt), tuple(map(self._of, range(first, beyond))))

    def knows(self, prompt: str) -> bool:
        return prompt in self._prompts

    def add_prompt(self, prompt: str, tokens: Sequence[int]) -> None:
        self._prompts[prompt] = self._add(tokens)

    def add(self, name: str, prompt: str, responses: Iterable[Sequence[int]]) -> None:
        """A group with the prompt of that name, which is there."""
        numbers = [self._add(tokens) for tokens in responses]
        self._groups[name] = (self._prompts[prompt], numbers[0], numbers[-1] + 1)

    def _add(self, tokens: Sequence[int]) -> int:
        self._tokens.extend(tokens)
        self._ends.append(len(self._tokens))
        return len(self._ends) - 2

    def _of(self, number: int) -> tuple[int, ...]:
        return ids(self._tokens[self._ends[number] : self._ends[number + 1]])
