"""What the frozen backbone makes of a response: its last hidden states, averaged over those that predict the response's
tokens.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sipo.declare.work import Plan, Work
from sipo.filters.contest import Array
from sipo.filters.features.spec import Answers, FeatureSpec

if TYPE_CHECKING:
    from sipo.bank import Bank
    from sipo.logprobs.packing import Group
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


def mean_states(bank: "Bank", groups: "Sequence[Group]") -> list[Array]:
    """[R, d] of each group, computed in one batch."""
    import torch

    from sipo.logprobs.packing import pack, predicting_states

    packed = pack(groups, bank.device, bank.routes.packs)
    with torch.no_grad():
        states = predicting_states(bank, packed, torch.zeros(len(packed.ids), 0)).float()
        sums = states.new_zeros(len(packed.lengths), states.shape[1]).index_add(0, packed.owner, states)
        means = (sums / packed.lengths[:, None]).double().cpu().numpy()
    return np.split(means, np.cumsum([len(group.responses) for group in groups])[:-1])


def _measure(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    from sipo.engines.fitting import tokens_for
    from sipo.logprobs.packing import batches, worth_sharing
    from sipo.memory import Pieces

    bank, pieces = task.bank, Pieces("prompts", "execution.score_tokens")
    parts = [(at, part) for at, each in enumerate(answers) for part in worth_sharing(each.group, bank.knee)]
    sizes = [part.columns(bank.routes.packs) for _, part in parts]
    found: list[Array] = [np.zeros(0)] * len(parts)
    with bank.mounted([]), task.progress.track("embeddings", len(parts)) as advance:
        for batch in batches(sizes, tokens_for(task.config.execution.here, bank, task.span(), max(sizes))):
            groups = [parts[at][1] for at in batch]
            for at, states in zip(batch, pieces.slices(groups, partial(mean_states, bank)), strict=True):
                found[at] = states
            advance(len(batch))
    of: list[list[Array]] = [[] for _ in answers]
    for (at, _), states in zip(parts, found, strict=True):
        of[at].append(states)
    return [np.concatenate(each) for each in of]


def _work(plan: Plan) -> Work:
    read = 2 * (plan.sizes.train + plan.sizes.worked) + plan.samples + plan.rewrites
    return Work(scored=read, scoring=read * (plan.lengths.prompt + plan.longest))


FEATURES = FeatureSpec(
    "embedding",
    "the backbone's last hidden states, averaged over a response",
    _measure,
    reduced=True,
    work=_work,
    peak=lambda peaks: float(peaks.scoring(peaks.lengths.prompt + 2 * peaks.longest)),
)
