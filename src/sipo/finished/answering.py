"""Answers of several models in shared batches, all of their adapters mounted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sipo.bank import Bank
from sipo.decoding import Generated, Mixture, Request, decode, embedded
from sipo.engines.batched import REFILLS, Room, Single
from sipo.finished.streaming import Stream, Watch
from sipo.logprobs.packing import Group
from sipo.methods.interface import Aligned
from sipo.models.chat import Codec
from sipo.settings import Decoding


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
    asked: Sequence[Asked],
    bank: Bank,
    codec: Codec,
    limit: int,
    most: tuple[int, Room],
    told: tuple[Watch | None, Watch | None],
) -> list[str]:
    """One text for each, in order, with at most so many rows at once as there is room for. `told` are who is told of
    pieces, and of whole answers. Of an answer that is drawn several times they are told the one that is given, whole.
    """
    drawn: list[list[Generated]] = [[] for _ in asked]
    texts: dict[int, str] = {}
    rows, room = most
    for decoding in dict.fromkeys(each.decoding for each in asked):
        mine = [(at, draw) for at, each in enumerate(asked) if each.decoding == decoding for draw in each.draws]
        for batch in _batches(mine, REFILLS * rows):
            alone = {place: at for place, (at, _) in enumerate(batch) if len(asked[at].draws) == 1}
            stream = Stream(codec, alone, *told) if any(told) else None
            written = partial(_written, bank, batch, decoding, limit, codec, stream)
            generated = room.decode(bank, rows, [draw for _, draw in batch], limit, written)
            if stream:
                stream.finish()
            for (at, _), draw in zip(batch, generated, strict=True):
                drawn[at].append(draw)
                if len(drawn[at]) == len(asked[at].draws):
                    texts[at] = codec.decode(given(asked[at], drawn[at], bank, room).tokens)
                    if len(drawn[at]) > 1:
                        _tell(at, texts[at], *told)
    return [texts[at] for at in range(len(asked))]


def _written(
    bank: Bank,
    batch: Sequence[tuple[int, Request]],
    decoding: Decoding,
    limit: int,
    codec: Codec,
    stream: Stream | None,
    rows: int,
) -> list[Generated]:
    if stream:
        stream.again()
    return decode(bank, [draw for _, draw in batch], decoding, limit, codec.stops, stream, rows)


def _tell(place: int, text: str, watch: Watch | None, done: Watch | None) -> None:
    """Of an answer that was chosen from several."""
    if watch and text:
        watch(place, text)
    if done:
        done(place, text)


def given(asked: Asked, draws: Sequence[Generated], bank: Bank, room: Room) -> Generated:
    """The draw that its policies find best. The bank has the model's adapters mounted."""
    best_of = asked.model.aligned.best_of
    if best_of is None or len(draws) == 1:
        return draws[0]
    group = Group(asked.draws[0].prompt, tuple(draw.tokens for draw in draws))
    scores = Single([(group, point) for point in asked.model.policies])(bank, room)
    reference, *policies = np.array(scores).reshape(-1, len(draws))
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
