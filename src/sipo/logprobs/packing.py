"""Packing several responses to one prompt into one row, so that the prompt is computed once.

A row is `prompt, response 1, response 2, ...`. Every response sees the prompt and itself, at the positions it
would have alone; the mask keeps the responses apart.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """One prompt and the responses to it, as token ids. Neither may be empty."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class Packed:
    """A batch of groups, padded on the right to length T; S responses in all, L tokens in them.

    `predictors` and `targets` [L] list, response by response, where (in the flattened rows * T) the hidden
    state sits that predicts a response token, and the token; `owner` [L] is the response's index, 0..S-1.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    predictors: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor


def pack(groups: Sequence[Group], device: torch.device | str = "cpu") -> Packed:
    longest = max(group.tokens for group in groups)
    ids = torch.zeros(len(groups), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, -1)  # 0 the prompt, k the k-th response, -1 padding
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
    same = segments[:, :, None] == segments[:, None, :]
    to_prompt = segments[:, None, :] == 0
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = (same | to_prompt) & causal
    place = [ids, positions, mask[:, None], *map(torch.tensor, (predictors, targets, owner, lengths))]
    return Packed(*(tensor.to(device) for tensor in place))


def worth_sharing(group: Group, knee: int) -> Iterator[Group]:
    """The group in rows of as many responses as it pays to read behind one copy of the prompt.

    At a row length of `knee` tokens attention, the masked part included, costs as much as everything else. So k
    responses of R tokens behind a prompt of P cost (P + kR)(1 + (P + kR) / knee), and least for each where
    kR = sqrt(P (P + knee)).
    """
    room = math.sqrt(len(group.prompt) * (len(group.prompt) + knee))
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
