"""DPO for N objectives, their references included, against TRL's DPOTrainer once an objective: one after the other, and
all of them in the same steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks import floors
from benchmarks.alternatives import trl_dpo
from benchmarks.bench import Bench
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import table
from sipo.bank import Adapter, new_adapter
from sipo.logprobs.table import REFERENCE
from sipo.settings import Lora, Training
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Trainee, train_together

PAIRS, QUICK_PAIRS = 64, 16
FEW = 2
"""Pairs a step, where a step of one policy alone is small."""
LR = 5e-4
LOSS_FLOAT32, LOSS_16_BITS = 2e-4, 0.05
"""By how much the losses of a step may differ. In 16 bits as much as half a nat, which a response may be off by, is at
beta 0.1."""


Losses = list[list[float]]
"""Of each step, by objective."""


def run(bench: Bench) -> list[Record]:
    return _compared(bench, "dpo", {OURS: _in_turn})


def together(bench: Bench) -> list[Record]:
    return _compared(bench, "dpo-together", {OURS: _in_the_same_steps, "in-turn": _in_turn})


def together_few(bench: Bench) -> list[Record]:
    return _compared(bench, "dpo-together-few", {OURS: _in_the_same_steps, "in-turn": _in_turn}, FEW)


def _in_turn(bench: Bench, trainees: Sequence[Trainee]) -> Losses:
    return [losses for each in trainees for losses in _in_the_same_steps(bench, [each])]


def _in_the_same_steps(bench: Bench, trainees: Sequence[Trainee]) -> Losses:
    results = train_together(bench.bank, trainees)
    return [[record["loss"] for record in each.history] for each in results if isinstance(each, Trained)]


def _compared(
    bench: Bench, work: str, ways: Mapping[str, Callable[[Bench, Sequence[Trainee]], Losses]], a_step: int = 8
) -> list[Record]:
    bench_settings = bench.settings
    count = QUICK_PAIRS if bench_settings.quick else PAIRS
    settings = Training(epochs=1, batch_size=min(a_step, count // 2), lr=LR)
    groups = bench.groups(count, 2, bench_settings.new_tokens)
    signs = torch.randint(0, 2, (bench_settings.n, count), generator=torch.Generator().manual_seed(bench_settings.seed))
    start = new_adapter(bench.model, Lora(r=bench_settings.rank, alpha=2.0 * bench_settings.rank), bench_settings.seed)

    def ours(name: str) -> Losses:
        known = table(bench, [], groups, {REFERENCE: ()})
        recipe, loss, trainees = Recipe(settings, LR, bench_settings.seed), Loss(settings.beta), []
        for labels in signs.tolist():
            examples = [
                Example(g, tuple(known.of(g, [REFERENCE])[:, 0].tolist()), ((1, 0, 2.0 * label - 1),))
                for g, label in zip(groups, labels, strict=True)
            ]
            trainees.append(Trainee(start, Examples(examples), recipe, loss))
        return ways[name](bench, trainees)

    def trainers(precompute: bool) -> list[Any]:
        return [_trainer(bench, start, groups, labels, settings, precompute) for labels in signs.tolist()]

    def agreement(_: str, mine: Losses, theirs: Losses) -> Agreement:
        return same_curves(mine, theirs, bench.exact)

    routes = [
        *(Route(name, lambda _, name=name: ours(name), holds=(bench.model,)) for name in ways),
        Route("trl", trl_dpo.train_one_after_the_other, lambda: trainers(False), holds=(bench.model,)),
        Route("trl-precomputed", trl_dpo.train_one_after_the_other, lambda: trainers(True), holds=(bench.model,)),
    ]
    steps = -(-count // settings.batch_size)
    once = floors.scoring(bench.shape, groups, steps)
    each = floors.training(bench.shape, groups, steps)
    need = floors.Need(once.bytes + bench_settings.n * each.bytes, once.operations + bench_settings.n * each.operations)
    tokens = bench_settings.n * sum(group.tokens for group in groups)
    return bench.compare(work, routes, tokens, agreement, need, pairs=count, batch_size=settings.batch_size, lr=LR)


def same_curves(ours: Losses, theirs: Losses, exact: bool) -> Agreement:
    tolerance = LOSS_FLOAT32 if exact else LOSS_16_BITS
    pairs = [(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)]
    worst = max(abs(a - b) for a, b in pairs)
    return Agreement(worst <= tolerance, {"worst_loss_difference": worst, "tolerance": tolerance})


def _trainer(
    bench: Bench, start: Adapter, groups: list[Any], labels: list[int], settings: Training, precompute: bool
) -> Any:
    """The pairs in the order that our training takes them in its only epoch."""
    generator = torch.Generator().manual_seed(bench.settings.seed)
    order = torch.randperm(len(groups), generator=generator).tolist()
    rows = tuple((groups[i].prompt, groups[i].responses[labels[i]], groups[i].responses[1 - labels[i]]) for i in order)
    return trl_dpo.trainer(
        bench.backbone,
        start,
        trl_dpo.Pairs(rows),
        settings,
        LR,
        pairs_a_step=settings.batch_size,
        precompute=precompute,
    )
