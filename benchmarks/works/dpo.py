"""DPO for N objectives, their references included, against TRL's DPOTrainer once an objective."""

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
from sipo.training.loop import Example, Examples, Loss, train

PAIRS, QUICK_PAIRS = 64, 16
LR = 5e-4
LOSS_FLOAT32, LOSS_16_BITS = 2e-4, 0.05
"""By how much the losses of a step may differ. In 16 bits as much as half a nat, which a response may be off by, is at
beta 0.1."""


def run(bench: Bench) -> list[Record]:
    bench_settings = bench.settings
    count = QUICK_PAIRS if bench_settings.quick else PAIRS
    settings = Training(epochs=1, batch_size=min(8, count // 2), lr=LR)
    groups = bench.groups(count, 2, bench_settings.new_tokens)
    signs = torch.randint(0, 2, (bench_settings.n, count), generator=torch.Generator().manual_seed(bench_settings.seed))
    start = new_adapter(bench.model, Lora(r=bench_settings.rank, alpha=2.0 * bench_settings.rank), bench_settings.seed)

    def ours() -> list[list[float]]:
        known = table(bench, [], groups, {REFERENCE: ()})
        histories = []
        for labels in signs.tolist():
            examples = [
                Example(g, tuple(known.of(g, [REFERENCE])[:, 0].tolist()), ((1, 0, 2.0 * label - 1),))
                for g, label in zip(groups, labels, strict=True)
            ]
            trained = train(
                bench.bank, start, Examples(examples), Recipe(settings, LR, bench_settings.seed), Loss(settings.beta)
            )
            histories.append([record["loss"] for record in trained.history])
        return histories

    def trainers(precompute: bool) -> list[Any]:
        return [_trainer(bench, start, groups, labels, settings, precompute) for labels in signs.tolist()]

    def agreement(_: str, mine: list[list[float]], theirs: list[list[float]]) -> Agreement:
        return same_curves(mine, theirs, bench.exact)

    routes = [
        Route(OURS, lambda _: ours(), holds=(bench.model,)),
        Route("trl", trl_dpo.train_one_after_the_other, lambda: trainers(False), holds=(bench.model,)),
        Route("trl-precomputed", trl_dpo.train_one_after_the_other, lambda: trainers(True), holds=(bench.model,)),
    ]
    steps = -(-count // settings.batch_size)
    once = floors.scoring(bench.shape, groups, steps)
    each = floors.training(bench.shape, groups, steps)
    need = floors.Need(once.bytes + bench_settings.n * each.bytes, once.operations + bench_settings.n * each.operations)
    tokens = bench_settings.n * sum(group.tokens for group in groups)
    return bench.compare("dpo", routes, tokens, agreement, need, pairs=count, batch_size=settings.batch_size, lr=LR)


def same_curves(ours: list[list[float]], theirs: list[list[float]], exact: bool) -> Agreement:
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
