"""Do two routes give the same? Exactly in float32; within stated tolerances where numbers are rounded to 16 bits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.records import Agreement
from sipo.bank import Bank
from sipo.decoding import Request
from sipo.decoding.mixing import mix_logits
from sipo.logprobs.packing import Group, pack

REGRET = 0.5
"""16 bits: nats by which a greedy token may fall short of the best one, given the same text before it. Logits of
about 20 are rounded to steps of 1/8 there, once for each policy."""
RARE = 0.01
"""The share of tokens that may fall shorter: behind random text, rounding is sometimes worth more."""
MEAN_NATS, WORST_NATS = 0.1, 0.5
"""16 bits: by how much log-probabilities a token may differ, over all responses and for one. Random tokens are rare
ones, and on a few of them either route is off by 0.1 to 0.3 from float32, where both agree."""
RELATIVE, ABSOLUTE = 1e-4, 2e-3
"""float32: tolerance of summed log-probabilities and of losses."""

Texts = Sequence[tuple[int, ...]]


def same_texts(bank: Bank, requests: Sequence[Request], ours: Texts, theirs: Texts, exact: bool) -> Agreement:
    """Greedy texts under mounted adapters. Token by token in float32; else every token that either route chose must
    be, under our mixture and given its own text before it, as good as the best up to REGRET, but for RARE ones.
    """
    requests, ours = requests[: len(theirs)], ours[: len(theirs)]
    pairs = [(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=False)]
    share = sum(a == b for a, b in pairs) / max(1, len(pairs))
    lengths = [len(text) for text in ours] == [len(text) for text in theirs]
    if exact:
        return Agreement(lengths and share == 1, {"equal_tokens": share, "tolerance": "every token"})
    regrets = [greedy_regrets(bank, requests, texts) for texts in (ours, theirs)]
    worst = max(float(each.max()) for each in regrets)
    over = max(float((each > REGRET).double().mean()) for each in regrets)
    detail = {"equal_tokens": share, "worst_regret": worst, "share_over": over}
    return Agreement(over <= RARE, {**detail, "tolerance": f"{REGRET} nats, but for {RARE:.0%} of the tokens"})


@torch.no_grad()
def greedy_regrets(bank: Bank, requests: Sequence[Request], texts: Texts) -> Tensor:
    """By how much each token's mixed log-probability falls short of the best one's, in nats [tokens]; 0 is greedy."""
    short = []
    for request, text in zip(requests, texts, strict=True):
        points, weights = request.mixture.points, request.mixture.weights
        packed = pack([Group(request.prompt, (tuple(text),))] * len(points), bank.device)
        output = bank.hidden_states(torch.tensor(points), layout=packed.layout, input_ids=packed.ids, use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1)[packed.predictors].unflatten(0, (len(points), -1))
        shares = torch.tensor(weights, device=bank.device).expand(len(text), -1)
        mixed = mix_logits(bank.head(hidden).transpose(0, 1), shares)  # [L, V]
        chosen = mixed.gather(-1, torch.tensor(text, device=bank.device)[:, None])[:, 0]
        short.append(mixed.amax(-1) - chosen)
    return torch.cat(short)


def close(ours: Sequence[float], theirs: Sequence[float], tokens: Sequence[int], exact: bool) -> Agreement:
    """Summed log-probabilities of responses of so many tokens."""
    pairs = list(zip(ours, theirs, tokens, strict=True))
    if exact:
        equal = all(abs(a - b) <= ABSOLUTE + RELATIVE * abs(b) for a, b, _ in pairs)
        return Agreement(equal, {"worst": max(abs(a - b) for a, b, _ in pairs), "tolerance": f"{RELATIVE} relative"})
    apart = [abs(a - b) / length for a, b, length in pairs]
    mean, worst = sum(apart) / len(apart), max(apart)
    stated = f"{MEAN_NATS} nats a token on average, {WORST_NATS} at worst"
    return Agreement(mean <= MEAN_NATS and worst <= WORST_NATS, {"mean": mean, "worst": worst, "tolerance": stated})
