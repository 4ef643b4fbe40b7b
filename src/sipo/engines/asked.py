"""What an engine is asked to write, however much: prompts are held once and packed, and asked a part at a time."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence

from sipo.decoding import Generated, Mixture, Request
from sipo.disk.journal import Journal, Results, in_any_order
from sipo.disk.once import ids
from sipo.engines.interface import Engine, Span
from sipo.logprobs.sequences import Sequences, bytes_of
from sipo.settings import Decoding

AT_ONCE = 1 << 24
"""Tokens of prompts that an engine is asked with at one time, at least where there are so many: 128 MiB."""


def answer(
    engine: Engine,
    span: Span,
    requests: Iterable[Request],
    decoding: Decoding,
    limit: int,
    stops: Collection[int],
    journal: Journal,
) -> list[Generated]:
    """One response a request, in order; equal requests are answered once, and each answer survives a crash.

    Requests are not held: where they are made one by one, they take little memory.
    """
    asked = _Asked(requests)

    def work(done: Collection[int]) -> Results:
        for start, part in asked.parts():
            known = {number for number in range(len(part)) if start + number in done}
            if len(known) < len(part):
                for number, each in engine.generate(span, part, decoding, limit, stops, known):
                    yield start + number, (each.tokens, each.finished)
            del part  # before the next is made

    answers = in_any_order(journal, len(asked), work)
    for unit, (tokens, finished) in enumerate(answers):
        answers[unit] = Generated(ids(tokens), finished)
    return [answers[unit] for unit in asked.unit_of]


class _Asked:
    """The different requests, as units in order of appearance; and of which unit each request is."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.unit_of = array("i")
        self._prompts, self._prompt_of = Sequences(), array("i")
        self._mixtures: dict[Mixture, int] = {}
        self._mixture_of, self._seeds = array("i"), array("q")
        units: dict[tuple[int, int, int], int] = {}
        for request in requests:
            prompt = self._prompts.add(bytes_of(request.prompt))
            mixture = self._mixtures.setdefault(request.mixture, len(self._mixtures))
            unit = units.setdefault((prompt, mixture, request.seed), len(units))
            self.unit_of.append(unit)
            if unit == len(self._seeds):
                self._prompt_of.append(prompt)
                self._mixture_of.append(mixture)
                self._seeds.append(request.seed)

    def __len__(self) -> int:
        return len(self._seeds)

    def parts(self) -> Iterator[tuple[int, Sequence[Request]]]:
        """Neighbours, after the number of the first, of about so many tokens of prompts; which depends on nothing but
        all of them.
        """
        mixtures = list(self._mixtures)
        prompts: dict[int, tuple[int, ...]] = {}
        start, tokens = 0, 0
        part: list[Request] = []
        for unit, (prompt, mixture, seed) in enumerate(
            zip(self._prompt_of, self._mixture_of, self._seeds, strict=True)
        ):
            if prompt not in prompts:
                prompts[prompt] = self._prompts[prompt]
                tokens += len(prompts[prompt])
            part.append(Request(prompts[prompt], mixtures[mixture], seed))
            if tokens >= AT_ONCE:
                yield start, part
                start, tokens, part, prompts = unit + 1, 0, [], {}
        if part:
            yield start, part
