"""Where each column of a batch stands in its own sequence, which is not its number once rows are packed or padded.

A model builds its own masks (causal, windows, chunks; as its kind of attention wants them). It is only told to count
in positions in place of columns, and which columns a query may see at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS

PADDING = -1
IMPLEMENTATIONS = ("sdpa", "eager")
"""The kinds of attention that models are loaded with."""


@dataclass(frozen=True)
class Layout:
    """Of the columns K of a batch, those in the cache included.

    positions [rows, K]: each token's in the sequence that it would stand in alone. segments [rows, K]: 0 the prompt,
    k the k-th response to it, `PADDING`. A token sees the prompt and its own segment, as far back as the model looks.
    """

    positions: Tensor
    segments: Tensor

    @classmethod
    def even(cls, rows: int, columns: int, device: torch.device) -> "Layout":
        """Of rows without padding."""
        positions = torch.arange(columns, device=device).repeat(rows, 1)
        return cls(positions, torch.zeros_like(positions))

    @property
    def first(self) -> Tensor:
        """[rows]: the column of each row's first token."""
        return (self.segments != PADDING).int().argmax(1)

    @property
    def padded(self) -> bool:
        return bool((self.segments == PADDING).any())

    def inputs(self, new: int) -> dict[str, Tensor]:
        """What a model is given for the last `new` columns."""
        return {"position_ids": self.positions[:, -new:], "attention_mask": (self.segments != PADDING).long()}

    def with_next(self) -> "Layout":
        """With one more column, each row's next token of the prompt's segment."""
        return Layout(
            torch.cat([self.positions, self.positions[:, -1:] + 1], dim=1),
            torch.cat([self.segments, torch.zeros_like(self.segments[:, -1:])], dim=1),
        )

    def until(self, column: int) -> "Layout":
        """Of the columns before that one."""
        return Layout(self.positions[:, :column], self.segments[:, :column])

    def of(self, rows: Tensor) -> "Layout":
        return Layout(self.positions[rows], self.segments[rows])

    def with_rows(self, other: "Layout") -> "Layout":
        """These rows, then another's of as many columns."""
        return Layout(torch.cat([self.positions, other.positions]), torch.cat([self.segments, other.segments]))

    def shifted(self, columns: int) -> "Layout":
        """With so many columns of padding before all others; or, below zero, without the first ones."""
        return Layout(pad(self.positions, (columns, 0)), pad(self.segments, (columns, 0), value=PADDING))

    def to(self, device: torch.device | str) -> "Layout":
        return Layout(self.positions.to(device), self.segments.to(device))

    @contextmanager
    def imposed(self) -> Iterator[None]:
        """Every mask that a model builds in this block follows the layout; those of other threads do not."""
        before = _imposed.set(self)
        try:
            yield
        finally:
            _imposed.reset(before)

    def masked(
        self,
        build: Callable[..., Tensor | None],
        *,
        mask_function: Callable[..., Tensor],
        attention_mask: Tensor | None,
        **sizes: Any,
    ) -> Tensor | None:
        """What `build` makes of the model's own mask, counted in positions in place of columns."""
        # Chunks are counted from a row's first token, for which the model takes its padding on the left away.
        columns = self.positions + self.first[:, None]
        segments = self.segments

        def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            of_query, of_key = segments[row, query], segments[row, key]
            visible = (of_query == of_key) | (of_key == 0)
            return visible & mask_function(row, head, columns[row, query], columns[row, key])

        skips = {name: False for name in sizes if name.startswith("allow_is_")}
        return build(mask_function=allowed, attention_mask=None, **{**sizes, **skips})


_imposed: ContextVar[Layout | None] = ContextVar("imposed", default=None)
"""Each thread has its own: several models may compute at once."""


def _following(build: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """The same, but for the layout that is imposed."""

    @wraps(build)
    def built(*args: Any, **named: Any) -> Tensor | None:
        layout = _imposed.get()
        return build(*args, **named) if layout is None else layout.masked(build, *args, **named)

    return built


for _name in IMPLEMENTATIONS:
    MASKS[_name] = _following(MASKS[_name])
