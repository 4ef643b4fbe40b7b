"""Sequential: the route of the MOD and SIPO authors' code.

Adapters are switched one after the other, one prompt at a time. MOD also runs the reference, whose result nothing
uses; rewards score the reference again for each model; all logits of a sequence are made, in float32.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.alternatives.stepping import Tokens, mixed_greedily
from benchmarks.alternatives.switched import Switched
from sipo.bank.policy import Point


def decode(
    switched: Switched,
    prompts: Sequence[Tokens],
    points: Sequence[Point],
    weights: Sequence[Sequence[float]],
    new_tokens: int,
    *,
    rows: int = 1,
    reference: bool = True,
    stops: Collection[int] = (),
) -> list[Tokens]:
    """`rows` prompts at a time, which must then have one length; weights are those of the points, by prompt."""
    texts: list[Tokens] = []
    for start in range(0, len(prompts), rows):
        shares = torch.tensor(weights[start : start + rows], device=switched.backbone.device)
        step = _stepper(switched, points, reference)
        texts += mixed_greedily(step, prompts[start : start + rows], shares, new_tokens, stops)
    return texts


def _stepper(switched: Switched, points: Sequence[Point], reference: bool):  # type: ignore[no-untyped-def]
    run = [*points, *([(0.0,) * len(points[0])] if reference else [])]
    caches = [DynamicCache(config=switched.backbone.model.config) for _ in run]

    def step(ids: Tensor) -> Tensor:
        logits = []
        for point, cache in zip(run, caches, strict=True):
            with switched.at(point) as model:
                logits.append(model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits)
        return torch.stack([each[:, -1] for each in logits[: len(points)]])

    return step


@torch.no_grad()
def score(switched: Switched, pairs: Sequence[tuple[Tokens, Tokens]], points: Sequence[Point]) -> list[list[float]]:
    """log pi(response | prompt), a list for each point; the reference is computed again for each of them."""
    values: list[list[float]] = []
    for point in points:
        mine = []
        for prompt, response in pairs:
            mine.append(_logprob(switched, point, prompt, response))
            if any(point):
                _logprob(switched, (0.0,) * len(point), prompt, response)
        values.append(mine)
    return values


def _logprob(switched: Switched, point: Point, prompt: Tokens, response: Tokens) -> float:
    ids = torch.tensor([prompt + response], device=switched.backbone.device)
    with switched.at(point) as model:
        logprobs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    chosen = logprobs[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])
    return float(chosen.sum())
