"""Trainings of all kinds on a tiny model: as a program of several ranks, or by a call in one process.

python tests/ranked.py OUT FOLDER [zero3]       with RANK, WORLD_SIZE and the like in the environment
"""

import json
import os
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from sipo import ranks
from sipo.bank import Adapter, Bank, Policy, new_policy
from sipo.bank.adapter import decoder_of
from sipo.bank.everywhere import everywhere
from sipo.config import Config
from sipo.decoding import Request, at_mod, at_soup, base
from sipo.engines import Span, opened
from sipo.errors import SipoError
from sipo.logprobs.packing import Group
from sipo.logprobs.score import ScoreRequest, score_rows
from sipo.message import Message
from sipo.models.load import load_backbone
from sipo.progress import Progress
from sipo.rewards import Item
from sipo.rewards.examples import Example as RewardExample
from sipo.rewards.heads import Heads
from sipo.rewards.reading import Reader
from sipo.rewards.training import RewardTraining, train_reward_model
from sipo.settings import Decoding, Execution, Lora, Model, Training
from sipo.stages.sft import sft
from sipo.task import Task
from sipo.testing.tiny import tiny_settings
from sipo.training.learner import Job, Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Trainee, Weighting, train, train_together

Result = tuple[list[dict[str, float]], list[torch.Tensor]]
"""The loss curve, with all that is told of each step, and what was learned."""
LORA = Lora(r=2, alpha=4)
CURVE = {"loss", "accuracy", "nll", "validation_loss", "start_validation_loss"}


def groups(count: int, responses: int, seed: int) -> list[Group]:
    """Prompts and responses of many lengths."""
    draw = random.Random(seed)

    def ids(least: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 20) for _ in range(least + draw.randrange(6)))

    return [Group(ids(2), tuple(ids(1) for _ in range(responses))) for _ in range(count)]


def trainings(bank: Bank) -> dict[str, Callable[[], Trained]]:
    """Thirteen examples, five a step, few of which fit into a piece: ends and pieces are uneven."""
    draw = random.Random(3)
    signs = [(draw.choice((-1, 1)), draw.choice((-1, 0, 1))) for _ in range(13)]
    twos, threes = groups(13, 2, 1), groups(13, 3, 2)
    fresh, drawn = new_policy(bank.model, "lora", LORA, 4), new_policy(bank.model, "lora", LORA, 5)
    for _, b in drawn.factors.values():  # type: ignore[attr-defined]
        b.normal_(0, 0.1, generator=torch.Generator().manual_seed(6))

    def pairs(objectives: int, margins: bool = False) -> list[Example]:
        about = zip(twos, signs, strict=True)
        return [
            Example(group, (-3.0, -4.0 - i), ((1, 0, *sign[:objectives]),), (0.1 * i,) if margins else None)
            for i, (group, sign) in enumerate(about)
        ]

    realigned = [Example(each, (-3.0, -2.0, -4.0), ((0, 1, 1.0), (0, 2, 1.0)), nll=True) for each in threes]

    def learn(examples: list[Example], loss: Loss, start: Policy = fresh, *beneath: Policy, best: bool = False) -> Any:
        settings = Training(epochs=2, batch_size=5, weight_decay=0.05)
        data = Examples(examples, examples[:4] if best else ())
        recipe = Recipe(settings, 0.01, 7, keep_best=best)
        return lambda: train(bank, start, data, recipe, loss, beneath=beneath, job=Job())

    def loss(*weights: float, rule: Any = "sum", scale: float = 1.0, alpha: float = 0.0) -> Loss:
        return Loss(0.1, Weighting(weights, scale, rule, 0.4), alpha, token_budget=40)

    def at_once(count: int) -> Trained:
        """Several that learn in the same steps, of unequal examples and losses, as one record and one list of tensors."""
        recipes = [Recipe(Training(epochs=2, batch_size=size), 0.01, size) for size in (3, 4, 5)]
        losses = loss(1.0), loss(0.3, 0.7), loss(0.6, 0.4, rule="raco")
        data = Examples(pairs(1)[:7]), Examples(pairs(2), pairs(2)[:3]), Examples(pairs(2))
        found = train_together(bank, list(map(Trainee, [fresh] * count, data, recipes, losses)))
        each = [one for one in found if isinstance(one, Trained)]
        factors = {f"{i} {name}": pair for i, one in enumerate(each) for name, pair in one.policy.factors.items()}  # type: ignore[attr-defined]
        return Trained(Adapter(factors, 1.0), [record for one in each for record in one.history])

    whole = new_policy(bank.model, "full", LORA, 0)
    upper = new_policy(bank.model, "lora", LORA.model_copy(update={"layers": "upper"}), 4)
    return {
        "two at once": lambda: at_once(2),
        "three at once": lambda: at_once(3),
        "upper layers": learn(pairs(2), loss(0.3, 0.7), upper),
        "dpo": learn(pairs(1), loss(1.0), best=True),
        "lw": learn(pairs(2), loss(0.3, 0.7)),
        "modpo": learn(pairs(1, margins=True), loss(1.0, scale=0.4)),
        "raco": learn(pairs(2), loss(0.3, 0.7, rule="raco")),
        "realign": learn(realigned, loss(1.0, alpha=0.1), drawn),
        "merged": learn(realigned, loss(1.0, alpha=0.1), fresh, drawn),
        "whole": learn(pairs(1), loss(1.0), whole),
    }


def learned(trained: Trained) -> Result:
    history = [{name: value for name, value in record.items() if name in CURVE} for record in trained.history]
    return history, [each.detach().clone() for each in trained.policy.parameters]


def recomputed(bank: Bank) -> Result:
    """By a bank of the same model that computes its layers again."""
    return learned(trainings(Bank(bank.backbone, recomputes=True))["lw"]())


def answers(bank: Bank) -> dict[str, Any]:
    """Texts and scores under two spans, asked for in turn, by the configured engine; and what it says of numbers that
    are none, after which it goes on.
    """
    one, other, broken = (_span(bank, seed) for seed in (3, 4, 5))
    for _, b in broken.loaded[1].factors.values():  # type: ignore[attr-defined]
        b.fill_(torch.nan)
    mixtures = [at_mod((0.3, 0.7)), at_soup((0.6, 0.4)), base(2)]
    asked = [Request(each.prompt, mixture, i) for i, (each, mixture) in enumerate(product(groups(4, 1, 8), mixtures))]
    scored = [ScoreRequest(each.prompt, each.responses[0], mix) for each, mix in product(groups(7, 1, 9), mixtures)]
    how = Decoding(temperature=1.0), 6, (5,)
    with opened(Execution(device="cpu", decode_rows=4, score_tokens=30), bank) as engine:
        with pytest.raises(SipoError) as said:
            list(engine.generate(broken, asked, *how))
        before, aside = bank.computed, engine.computed  # type: ignore[attr-defined]
        calls: list[Any] = [engine.generate(span, asked, *how) for span in (one, other)]
        calls += [engine.score(span, scored) for span in (one, other)]
        found = [dict(each for each in column if each) for column in zip(*zip_longest(*calls), strict=True)]
        return {
            "texts": [[text.tokens for _, text in sorted(column.items())] for column in found[:2]],
            "scores": [[value for _, value in sorted(column.items())] for column in found[2:]],
            "error": str(said.value),
            "share": (engine.computed - aside) / (bank.computed - before),  # type: ignore[attr-defined]
        }


def _span(bank: Bank, seed: int) -> Span:
    policies = [new_policy(bank.model, "lora", LORA, seed + each) for each in (0, 10)]
    for policy in policies:
        for _, b in policy.factors.values():  # type: ignore[attr-defined]
            b.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return Span(bank.backbone.settings, tuple(policies))


def reward_model(model: Model) -> Result:
    texts = ["c0 i1 i3", "i19 i0 i8 i8", "i2", "i4 i5 i6 i7 i9"]
    chats = [(Message("user", f"i{i}"),) for i in range(11)]
    examples = [
        RewardExample((Item(chat, texts[i % 4]), Item(chat, texts[(i + 1) % 4])), (i % 2, (i // 2) % 2))
        for i, chat in enumerate(chats)
    ]
    records: list[dict[str, float]] = []

    class Heard(Progress):
        def track(self, *_: Any, **__: Any) -> Any:
            return nullcontext(lambda units, **numbers: records.append(dict(numbers)))

    reader = Reader(model, "{prompt} {response}")
    settings = RewardTraining(r=2, lr=0.01, epochs=2, batch_size=4, token_budget=16)
    network = train_reward_model(
        Heads("pairs", ("a", "b")), reader.read(examples), reader, settings, device="cpu", progress=Heard(quiet=True)
    )
    return records, list(network.state_dict().values())


def fine_tuned(settings: dict[str, Any], folder: Path) -> Result:
    """Seven demonstrations at a time, twice a step: no number of ranks but one shares them evenly."""
    about = {"batch_size": 7, "accumulate": 2, "epochs": 2, "lr": 0.01}
    sft(Task(Config(**{**settings, "sft": about}), Progress(quiet=True)), folder)
    records = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    model = load_backbone(Model(path=str(folder / "model"), dtype="float32"), "cpu").model
    return [{"loss": record["loss"]} for record in records], list(model.state_dict().values())


def held(bank: Bank) -> float:
    """Which part of the layers' numbers this rank holds."""
    here = whole = 0
    for each in decoder_of(bank.model)[1].parameters():  # type: ignore[index]
        zero = getattr(each, "ds_tensor", None)
        here += len(each.to_local().flatten()) if isinstance(each, DTensor) else each.numel()
        here += 0 if zero is None else zero.numel()
        whole += each.numel() if zero is None else each.ds_numel  # type: ignore[attr-defined]
    return here / whole


def share_out(by: ranks.Pieces) -> None:
    ranks._joined.sharded = by  # type: ignore[union-attr]


def everything(folder: Path, by: ranks.Pieces = "fsdp2") -> dict[str, Any]:
    """In several ranks the policies learn twice: with the whole model on each, then with its layers in pieces. Under
    ZeRO-3 all that has several ways back is refused.
    """
    settings = tiny_settings(folder)
    bank = Bank(load_backbone(Model(**settings["model"]), "cpu"))
    kinds = trainings(bank)
    rows = [(group, ()) for group in groups(3, 2, 9)]
    with bank.mounted([]):
        before = score_rows(bank, rows)
    results: dict[str, Any] = {"answers": answers(bank)}
    if ranks.joined() is not None and by != "zero3":
        del kinds["two at once"]  # as three
    results |= {"recomputed": recomputed(bank), **{name: learned(make()) for name, make in kinds.items()}}
    if ranks.joined() is not None:
        ranks.together(share_out, by)
        for name, make in kinds.items():
            if by == "zero3" and name in ("raco", "three at once"):
                with pytest.raises(SipoError, match="fsdp2.yaml"):
                    make()
            elif name != "whole":
                results[f"{name} in pieces"] = learned(make())
        results["recomputed in pieces"] = recomputed(bank)
        results["memory"] = ranks.share_of(torch.device("cpu"))
        results["held"] = everywhere(held, bank, bank.layers)
        with bank.mounted([]):
            assert score_rows(bank, rows) == before  # by rank 0 alone, so the model is whole again, and the same
        ranks.together(share_out, "")
        results["answers in between"] = answers(bank)
    results["reward model"] = reward_model(Model(**settings["model"]))
    results["sft"] = fine_tuned(settings, folder / "sft")
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def run() -> None:
        torch.save(everything(Path(sys.argv[2]), *sys.argv[3:]), sys.argv[1])  # type: ignore[arg-type]

    ranks.compute_together(run, lambda: None) if "RANK" in os.environ else run()
