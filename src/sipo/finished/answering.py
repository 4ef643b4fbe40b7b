"""Answers of several models in shared batches, all of their adapters mounted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sipo.bank import Bank
from sipo.decoding import Generated, Mixture, Request, decode, embedded
from sipo.finished.streaming import Stream
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.methods.interface import Aligned
from sipo.models.chat import Codec
from sipo.settings import Decoding

Watch = Callable[[int, str], None]


@dataclass(frozen=True)
class Placed:
    """A model whose adapters are those at `places` of the `n` that are mounted."""

    aligned: Aligned
    places: tuple[int, ...]
    n: int

    @property
    def mixture(self) -> Mixture:
        return embedded(self.aligned.mixture, self.places, self.n)

    @property
    def policies(self) -> list[tuple[float, ...]]:
        """The points of the reference and of each of its own adapters."""
        return [tuple(float(at == place) for at in range(self.n)) for place in (None, *self.places)]


@dataclass(frozen=True)
class Asked:
    """An answer that is to be given, and the requests that it is drawn by."""

    model: Placed
    draws: Sequence[Request]
    decoding: Decoding

    @classmethod
    def of(cls, model: Placed, prompt: tuple[int, ...], seed: int, decoding: Decoding) -> "Asked":
        """Raises SipoError where several draws would be the same."""
        request, best_of = Request(prompt, model.mixture, seed), model.aligned.best_of
        if best_of is None:
            return cls(model, [request], decoding)
        return cls(model, best_of.draws(request), best_of.drawing(decoding))


def answers_to(
    asked: Sequence[Asked], bank: Bank, codec: Codec, limit: int, rows: int, watch: Watch | None = None
) -> list[str]:
    """One text for each, in order, in batches of at most `rows` rows. Of an answer that is drawn several times, `watch`
    is told the one that is given, whole.
    """
    drawn: list[list[Generated]] = [[] for _ in asked]
    for decoding in dict.fromkeys(each.decoding for each in asked):
        mine = [(at, draw) for at, each in enumerate(asked) if each.decoding == decoding for draw in each.draws]
        for batch in _batches(mine, rows):
            told = {place: at for place, (at, _) in enumerate(batch) if len(asked[at].draws) == 1}
            stream = Stream(codec, told, watch) if watch else None
            generated = decode(bank, [draw for _, draw in batch], decoding, limit, codec.stops, stream)
            if stream:
                stream.finish([codec.decode(each.tokens) for each in generated])
            for (at, _), draw in zip(batch, generated, strict=True):
                drawn[at].append(draw)
    texts = [codec.decode(_given(each, draws, bank).tokens) for each, draws in zip(asked, drawn, strict=True)]
    for at, each in enumerate(asked):
        if watch and len(each.draws) > 1 and texts[at]:
            watch(at, texts[at])
    return texts


def _given(asked: Asked, draws: Sequence[Generated], bank: Bank) -> Generated:
    """The draw that its policies find best."""
    best_of = asked.model.aligned.best_of
    if best_of is None or len(draws) == 1:
        return draws[0]
    group = Group(asked.draws[0].prompt, tuple(draw.tokens for draw in draws))
    reference, *policies = np.array(score_rows(bank, [(group, point) for point in asked.model.policies]))
    return draws[best_of.pick(np.stack(policies, 1) - reference[:, None])]


def _batches(draws: Sequence[tuple[int, Request]], rows: int) -> Iterator[list[tuple[int, Request]]]:
    """In order, each of at most so many rows, or of one request that has more."""
    batch: list[tuple[int, Request]] = []
    room = rows
    for at, draw in draws:
        if batch and len(draw.mixture.points) > room:
            yield batch
            batch, room = [], rows
        batch.append((at, draw))
        room -= len(draw.mixture.points)
    if batch:
        yield batch
