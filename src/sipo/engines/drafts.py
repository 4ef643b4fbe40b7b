"""Mixing in an engine that knows only single requests: the draft of a request has a row for each point of its mixture.

The rows of a draft write one text, so at every token they must stand in one batch, at one length. `settle` gives the
drafts of which that is so their next token, the same for all their rows; the others get none.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sipo.decoding.batch import Request
from sipo.decoding.decode import Generated
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import REVERSE_KL, Divergence, slots
from sipo.decoding.sampling import BROKEN, next_tokens, uniforms
from sipo.finite import SMALLER, NotFiniteError
from sipo.settings import Decoding


@dataclass(eq=False)
class Draft:
    """A request, and how far its rows have come together."""

    request: Request
    limit: int
    """Tokens at most."""
    stops: Collection[int]
    tokens: list[int] = field(default_factory=list)
    chosen: int | None = None
    """The token that the rows were given in this step; None where they were not in step."""
    so_far: Tensor = field(init=False)  # [K] log-probability of `tokens` under each point
    ahead: Tensor = field(init=False)  # the same with `chosen`
    noise: Tensor = field(init=False)  # [limit]

    def __post_init__(self) -> None:
        self.so_far = self.ahead = torch.zeros(self.size)
        self.noise = uniforms([self.request.seed], self.limit)[0]

    @property
    def size(self) -> int:
        return len(self.request.mixture.points)

    @property
    def prompt(self) -> tuple[int, ...]:
        """What a row of the draft is asked with, now."""
        return (*self.request.prompt, *self.tokens)

    def commit(self) -> None:
        """All rows have taken the chosen token."""
        assert self.chosen is not None
        self.tokens.append(self.chosen)
        self.so_far, self.chosen = self.ahead, None

    @property
    def done(self) -> bool:
        return self.generated.finished or len(self.tokens) == self.limit

    @property
    def generated(self) -> Generated:
        return Generated(tuple(self.tokens), bool(self.tokens) and self.tokens[-1] in self.stops)


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One point of a draft, asked for when the draft had `start` tokens."""

    draft: Draft
    place: int
    start: int

    @property
    def point(self) -> tuple[float, ...]:
        return self.draft.request.mixture.points[self.place]


def rows_of(draft: Draft) -> list[BatchRow]:
    return [BatchRow(draft, place, len(draft.tokens)) for place in range(draft.size)]


def settle(logits: Tensor, standing: Iterable[tuple[int, BatchRow, int]], decoding: Decoding) -> None:
    """Choose for every whole draft, and leave its rows of `logits` [rows, V] no other token (0, elsewhere -inf).

    `standing`: for each row of the batch its index, what it is, and how many tokens it has produced. The drafts of a
    batch share a divergence. Which other drafts are there changes nothing, as in `sipo.decoding.decode`.
    """
    found: dict[Draft, dict[int, int]] = {}
    for index, row, produced in standing:
        if row.start + produced == len(row.draft.tokens) < row.draft.limit:
            found.setdefault(row.draft, {})[row.place] = index
    whole = {draft: places for draft, places in found.items() if len(places) == draft.size}
    if not whole:
        return
    (divergence,) = {draft.request.mixture.divergence for draft in whole}
    indices = torch.tensor([places[i] for places in whole.values() for i in range(len(places))], device=logits.device)
    owner = torch.tensor([slot for slot, draft in enumerate(whole) for _ in range(draft.size)], device=logits.device)
    scores, logprobs = _scores(logits[indices], list(whole), divergence)
    uniform = torch.stack([draft.noise[len(draft.tokens)] for draft in whole])
    chosen = next_tokens(scores, uniform, decoding)
    if bool((chosen == BROKEN).any()):
        raise NotFiniteError(f"no token can be chosen: the model's logits are not finite; {SMALLER}")
    if divergence != REVERSE_KL:
        ahead = logprobs.gather(-1, chosen[owner][:, None])[:, 0].split([draft.size for draft in whole])
        for draft, value in zip(whole, ahead, strict=True):
            draft.ahead = value
    for draft, token in zip(whole, chosen.tolist(), strict=True):
        draft.chosen = token
    logits[indices] = -torch.inf
    logits[indices, chosen[owner]] = 0.0


def _scores(logits: Tensor, drafts: list[Draft], divergence: Divergence) -> tuple[Tensor, Tensor]:
    """Scores [drafts, V], and what was mixed [rows, V]: log-probabilities of the response with each next token."""
    rows, weights = slots([draft.request.mixture for draft in drafts], logits.device)
    if divergence == REVERSE_KL:
        return mix_logits(logits[rows], weights), logits
    so_far = torch.cat([draft.so_far.to(logits.device) for draft in drafts])
    logprobs = so_far[:, None] + logits.float().log_softmax(-1)
    return mix(logprobs[rows], weights, divergence), logprobs
