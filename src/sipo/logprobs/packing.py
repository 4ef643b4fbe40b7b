"""Packing several responses to one prompt into one row, so that the prompt is computed once.

A row is `prompt, response 1, response 2, ...`. Every response sees the prompt and itself, at the positions it
would have alone; the layout keeps the responses apart. For a model that cannot, each has a row of its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.layout import PADDING, Layout
from sipo.bank.trunk import Sharing


@dataclass(frozen=True)
class Group:
    """One prompt and the responses to it, as token ids. Neither may be empty."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def alone(self) -> "list[Group]":
        """A group for each response."""
        return [Group(self.prompt, (response,)) for response in self.responses]

    def columns(self, packs: bool) -> int:
        """Tokens that it takes in a batch, padding included: in one row, or in one for each response."""
        return self.tokens if packs else len(self.responses) * max(group.tokens for group in self.alone)


@dataclass(frozen=True)
class Packed:
    """A batch of rows, padded on the right to length T; S responses in all, L tokens in them.

    `group` [rows] is the group that a row is of. `predictors` and `targets` [L] list, response by response, where (in
    the flattened rows * T) the hidden state sits that predicts a response token, and the token; `owner` [L] is the
    response's index, 0..S-1. `sharing`: which rows read the same, None where all differ; `rows`
    has what each reads.
    """

    ids: Tensor
    layout: Layout
    group: Tensor
    predictors: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor
    sharing: Sharing | None
    rows: Sequence[Group]


def pack(groups: Sequence[Group], device: torch.device | str = "cpu", packs: bool = True) -> Packed:
    """`packs` is the bank's: whether the responses of a group share a row."""
    of_row = list(range(len(groups)))
    if not packs:
        of_row = [index for index, group in enumerate(groups) for _ in group.responses]
        groups = [one for group in groups for one in group.alone]
    longest = max(group.tokens for group in groups)
    ids = torch.zeros(len(groups), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, PADDING)
    predictors: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    lengths: list[int] = []
    for row, group in enumerate(groups):
        start, prompt = 0, len(group.prompt)
        for segment, tokens in enumerate((group.prompt, *group.responses)):
            end = start + len(tokens)
            ids[row, start:end] = torch.tensor(tokens)
            positions[row, start:end] = torch.arange(len(tokens)) + (prompt if segment else 0)
            segments[row, start:end] = segment
            if segment:
                predictors += [row * longest + at for at in (prompt - 1, *range(start, end - 1))]
                targets += tokens
                owner += [len(lengths)] * len(tokens)
                lengths.append(len(tokens))
            start = end
    layout = Layout(positions.to(device), segments.to(device))
    lists = (of_row, predictors, targets, owner, lengths)
    of, predicts, target, owns, length = (torch.tensor(each, device=device) for each in lists)
    return Packed(ids.to(device), layout, of, predicts, target, owns, length, Sharing.by(groups, device), groups)


def predicting_states(bank: Bank, packed: Packed, points: Tensor, again: bool = False) -> Tensor:
    """The last hidden states that predict the responses' tokens [L, d], under each row's point [rows, N]. `again`: the
    same rows come many times.
    """
    output = bank.hidden_states(
        points,
        layout=packed.layout,
        sharing=packed.sharing,
        again=packed.rows if again else None,
        input_ids=packed.ids,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state.flatten(0, 1)[packed.predictors]
    return states


def worth_sharing(group: Group, knee: int | None) -> Iterator[Group]:
    """The group in rows of as many responses as it pays to read behind one copy of the prompt; of one without a knee.

    At a row length of `knee` tokens attention, the masked part included, costs as much as everything else. So k
    responses of R tokens behind a prompt of P cost (P + kR)(1 + (P + kR) / knee), and least for each where
    kR = sqrt(P (P + knee)).
    """
    room = 0.0 if knee is None else math.sqrt(len(group.prompt) * (len(group.prompt) + knee))
    part: list[tuple[int, ...]] = []
    for response in group.responses:
        if part and sum(map(len, part)) + len(response) > room:
            yield Group(group.prompt, tuple(part))
            part = []
        part.append(response)
    if part:
        yield Group(group.prompt, tuple(part))


def batches(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of near-equal sizes, longest first, at most `budget` padded tokens each.

    Always at least one index a batch. The plan depends on `sizes` and `budget` alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if batch and sizes[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
