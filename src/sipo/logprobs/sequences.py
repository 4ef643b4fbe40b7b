"""Many token sequences in little memory: 4 bytes a token, and each sequence once."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from sipo.disk.once import ids


class Sequences:
    """By number, in a flat array, and found by the digest of a context and the sequence itself."""

    def __init__(self) -> None:
        self.tokens, self.ends = array("i"), array("q", [0])
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> tuple[int, ...]:
        return ids(self.tokens[self.ends[number] : self.ends[number + 1]])

    def find(self, tokens: bytes, context: int = 0) -> int | None:
        return self._numbers.get(_digest(tokens, context))

    def add(self, tokens: bytes, context: int = 0) -> int:
        """The sequence's number; a new one where it has none yet."""
        number = self._numbers.setdefault(_digest(tokens, context), len(self))
        if number == len(self.ends) - 1:
            self.tokens.frombytes(tokens)
            self.ends.append(len(self.tokens))
        return number

    def lists(self, start: int = 0, stop: int | None = None) -> pa.Array:
        """Those from `start` to `stop` as an Arrow array of lists."""
        ends = np.array(self.ends[start : len(self) + 1 if stop is None else stop + 1])
        tokens = np.array(self.tokens[ends[0] : ends[-1]])
        return pa.ListArray.from_arrays(pa.array(ends - ends[0], pa.int32()), pa.array(tokens, pa.int32()))

    @property
    def nbytes(self) -> int:
        return 4 * len(self.tokens) + 8 * len(self.ends)


def bytes_of(tokens: Sequence[int]) -> bytes:
    """As `Sequences` takes them."""
    return array("i", tokens).tobytes()


def _digest(tokens: bytes, context: int) -> bytes:
    return blake2b(context.to_bytes(8, "little") + tokens, digest_size=16).digest()
