"""The loop: accumulation, interruption, the best epoch, and references from the table."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedModel

from sipo.bank import Adapter, Bank, new_adapter, recomputing
from sipo.bank.whole import new_whole
from sipo.decoding import Request, at_mod, decode
from sipo.disk.journal import Journal
from sipo.engines import Local, Span
from sipo.errors import SipoError
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone
from sipo.progress import Progress
from sipo.settings import Decoding, Execution, Lora, Training
from sipo.training import loop
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Weighting, train

WORDS = [
    "plants",
    "water",
    "once",
    "week",
    "light",
    "sun",
    "warm",
    "soil",
    "dark",
    "them",
    "give",
    "alive",
    "keep",
    "my",
]
SETTINGS = Training(beta=0.5, epochs=3, batch_size=4, warmup=0.1)
LR = 0.02
RECIPE, LOSS = Recipe(SETTINGS, LR, 0), Loss(SETTINGS.beta)


@pytest.fixture(scope="module")
def groups(backbone: Backbone) -> list[Group]:
    """Ten prompts; the first response says `warm`, the second `dark`."""
    codec = Codec(backbone.tokenizer, 200, 50)
    return [
        Group(
            tuple(codec.encode_prompt([Message("user", f"how is {word}? {' '.join(WORDS[: i % 5])}")])),
            (
                tuple(codec.encode_response(f"warm {word}")),
                tuple(codec.encode_response(f"dark {word} is dark")),
            ),
        )
        for i, word in enumerate(WORDS[:10])
    ]


@pytest.fixture(scope="module")
def examples(bank: Bank, groups: list[Group]) -> list[Example]:
    with bank.mounted([]):
        scores = [score_rows(bank, [(group, ())])[0] for group in groups]
    return [Example(g, tuple(s), ((0, 1, 1.0),)) for g, s in zip(groups, scores, strict=True)]


@pytest.fixture(scope="module")
def start(backbone: Backbone) -> Adapter:
    return new_adapter(backbone.model, Lora(r=3, alpha=6), seed=1)


def flipped(examples: list[Example]) -> list[Example]:
    return [replace(example, pairs=((0, 1, -1.0),)) for example in examples]


def assert_equal(left: Trained, right: Trained) -> None:
    """Bit by bit."""
    assert left.history == right.history
    assert left.policy.identity == right.policy.identity


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_micro_batches_of_any_size_give_the_same_adapter(
    bank: Bank, policies: list[Adapter], examples: list[Example], alpha: float
) -> None:
    rows = [replace(example, nll=True, pairs=((0, 1, 1.0), (1, 0, -1.0))) if alpha else example for example in examples]
    results = [
        train(
            bank,
            policies[0],
            Examples(rows, rows[:3]),
            Recipe(SETTINGS, 1e-3, 0),
            Loss(SETTINGS.beta, alpha=alpha, token_budget=budget),
        )
        for budget in (1, 90, 100_000)
    ]
    for result in results[1:]:
        for mine, theirs in zip(result.policy.parameters, results[0].policy.parameters, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4)
        for mine, theirs in zip(result.history, results[0].history, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    moved = max(
        float((a - b).abs().max()) for a, b in zip(results[0].policy.parameters, policies[0].parameters, strict=True)
    )
    assert moved > 3e-3


def test_writing_beforehand_leaves_no_trace_where_positions_turn_with_the_length(
    backbone: Backbone, start: Adapter, groups: list[Group]
) -> None:
    """Such rotary embeddings are changed by the forward, and writing is done in inference mode."""
    config = copy.deepcopy(backbone.model.config)
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 24,
        "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    }  # fmt: skip
    results = []
    for longest in (0, 40):
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        model.load_state_dict(backbone.model.state_dict())
        bank = Bank(replace(backbone, model=model))
        if longest:
            with bank.mounted([start]):
                decode(bank, [Request((5, 6, 7), at_mod((1.0,)))], Decoding(), longest, ())
        rows = [Example(group, (0.0, 0.0), ((0, 1, 1.0),)) for group in groups[:4]]
        results.append(train(bank, start, Examples(rows), RECIPE, LOSS))
    assert_equal(*results)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 4, 5, 8, 9])
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    bank: Bank, start: Adapter, examples: list[Example], tmp_path: Path, at: int
) -> None:
    """Three steps an epoch, so that this falls in and between epochs, before and after the best one."""
    how = Recipe(SETTINGS, LR, 3, keep_best=True), Loss(SETTINGS.beta, alpha=0.1)
    rows = [replace(example, nll=True) for example in examples]
    given = Examples(rows, flipped(rows)[:3])
    undisturbed = train(bank, start, given, *how)
    path = tmp_path / "state" / "a.pt"
    checkpoint = Checkpoint(path, 0)

    def kill(record: dict[str, float]) -> None:
        if record["step"] == at:
            raise Killed

    with pytest.raises(Killed):
        train(bank, start, given, *how, job=Job(checkpoint=checkpoint, watch=kill))
    assert path.exists() == (at > 1)
    seen: list[dict[str, float]] = []
    resumed = train(bank, start, given, *how, job=Job(checkpoint=checkpoint, watch=seen.append))
    assert_equal(resumed, undisturbed)
    assert seen == undisturbed.history, "the steps before the crash are told again"
    finished = train(bank, start, given, *how, job=Job(checkpoint=Checkpoint(path)))
    assert_equal(finished, undisturbed)


def test_a_checkpoint_is_only_written_when_it_is_due(
    bank: Bank, start: Adapter, examples: list[Example], tmp_path: Path
) -> None:
    train(bank, start, Examples(examples), RECIPE, LOSS, job=Job(checkpoint=Checkpoint(tmp_path / "a.pt", 1e6)))
    assert list(tmp_path.iterdir()) == []


def test_the_best_epoch_is_kept(
    bank: Bank, start: Adapter, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([9.0, 3.0, 1.0, 2.0] * 2)
    after_epochs: list[list[torch.Tensor]] = []

    def validate(bank: Bank, parts: Sequence[loop.Part]) -> list[float]:
        after_epochs.append([parameter.detach().clone() for parameter in bank.policies[0].parameters])
        return [next(losses) for _ in parts]

    monkeypatch.setattr(loop, "validate", validate)
    best = train(bank, start, Examples(examples, examples[:2]), Recipe(SETTINGS, LR, 0, keep_best=True), LOSS)
    last = train(bank, start, Examples(examples, examples[:2]), RECIPE, LOSS)
    assert all(torch.equal(mine, kept) for mine, kept in zip(best.policy.parameters, after_epochs[2], strict=True))
    assert all(torch.equal(mine, kept) for mine, kept in zip(last.policy.parameters, after_epochs[7], strict=True))
    assert best.policy.identity != last.policy.identity
    assert [r["validation_loss"] for r in best.history if "validation_loss" in r] == [3.0, 1.0, 2.0]
    assert [r["step"] for r in best.history if "validation_loss" in r] == [3, 6, 9]
    assert [r["start_validation_loss"] for r in best.history if "start_validation_loss" in r] == [9.0]
    assert best.stayed is None


def test_validation_is_the_mean_loss_and_changes_nothing(
    bank: Bank, policies: list[Adapter], examples: list[Example]
) -> None:
    with bank.mounted([policies[0]]):
        scores = [score_rows(bank, [(e.group, (1.0,))])[0] for e in examples]
        expected = [
            float(
                torch.nn.functional.softplus(torch.tensor(-0.5 * ((s[0] - e.reference[0]) - (s[1] - e.reference[1]))))
            )
            for s, e in zip(scores, examples, strict=True)
        ]
        for budget in (1, 100, 10_000):
            (actual,) = loop.validate(bank, [loop.Part((1.0,), [], Loss(0.5, token_budget=budget), examples)])
            assert actual == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    watched = train(bank, policies[0], Examples(examples, examples[:3]), Recipe(SETTINGS, 1e-3, 0), LOSS)
    alone = train(bank, policies[0], Examples(examples), Recipe(SETTINGS, 1e-3, 0), LOSS)
    assert watched.policy.identity == alone.policy.identity


def test_the_start_is_not_changed(bank: Bank, policies: list[Adapter], examples: list[Example]) -> None:
    before = policies[0].identity
    result = train(bank, policies[0], Examples(examples), RECIPE, LOSS)
    assert policies[0].identity == before != result.policy.identity
    assert not any(parameter.requires_grad for parameter in (*policies[0].parameters, *result.policy.parameters))
    assert bank.policies == ()


def test_the_loss_falls_on_what_can_be_learnt(bank: Bank, start: Adapter, examples: list[Example]) -> None:
    history = train(
        bank,
        start,
        Examples(examples, examples),
        replace(RECIPE, settings=SETTINGS.model_copy(update={"epochs": 6})),
        LOSS,
    ).history
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "a fresh adapter is the reference"
    assert history[-1]["validation_loss"] < 0.3
    assert history[-1]["accuracy"] == 1.0


def test_every_epoch_takes_every_example_once_in_a_new_order(
    bank: Bank, start: Adapter, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    backward = loop._backward

    def recorded(bank: Bank, parts: Sequence[loop.Part]) -> list[dict[str, float]]:
        taken.extend(examples.index(example) for example in parts[0].examples)
        return backward(bank, parts)

    monkeypatch.setattr(loop, "_backward", recorded)
    train(bank, start, Examples(examples), RECIPE, LOSS)
    epochs = [taken[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len(taken) == 30
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_warm_up_and_cosine(
    bank: Bank, start: Adapter, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of 0.1 is ten per cent of the steps, not a tenth of one step."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *rest: object) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    settings = Training(epochs=20, batch_size=10, warmup=0.1)
    train(bank, start, Examples(examples), Recipe(settings, 1.0, 0), Loss(settings.beta))
    expected = [0.0, 0.5, *(0.5 * (1 + torch.cos(torch.tensor(torch.pi * i / 18)).item()) for i in range(18))]
    assert rates == pytest.approx(expected, abs=1e-5)


def test_cached_references_equal_live_ones(
    bank: Bank, policies: list[Adapter], peft_models: list[PeftModel], groups: list[Group], tmp_path: Path
) -> None:
    """From the table, packed and in batches, or from the frozen model one response at a time: from base and policy."""
    table = LogprobTable()
    engine, span = Local(Execution(score_tokens=300), bank), Span(bank.backbone.settings, tuple(policies))
    table.fill(
        engine, span, groups, {REFERENCE: (0.0, 0.0, 0.0), "policy:a": (1.0, 0.0, 0.0)},
        Journal(tmp_path, "x", Progress(quiet=True)),
    )  # fmt: skip

    @torch.no_grad()
    def live(model: PreTrainedModel | PeftModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
        logprobs = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return float(logprobs.gather(-1, torch.tensor(response)[:, None]).sum())

    for name, model in ((REFERENCE, bank.model), ("policy:a", peft_models[0])):
        results = []
        cached = [table.of(g, [name])[:, 0].tolist() for g in groups]
        for references in (cached, [[live(model, g.prompt, y) for y in g.responses] for g in groups]):
            rows = [Example(g, tuple(r), ((0, 1, 1.0),), nll=True) for g, r in zip(groups, references, strict=True)]
            results.append(
                train(bank, policies[0], Examples(rows), Recipe(SETTINGS, 1e-3, 0), Loss(SETTINGS.beta, alpha=0.1))
            )
        for mine, theirs in zip(results[0].policy.parameters, results[1].policy.parameters, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4)
        losses = [[record["loss"] for record in result.history] for result in results]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_realignment_starts_where_the_policy_is(bank: Bank, policies: list[Adapter], groups: list[Group]) -> None:
    """With the policy itself as the reference, the first loss is log 2 and the margin zero."""
    with bank.mounted([policies[0]]):
        scores = [score_rows(bank, [(group, (1.0,))])[0] for group in groups]
    rows = [Example(g, tuple(s), ((0, 1, 1.0),)) for g, s in zip(groups, scores, strict=True)]
    history = train(bank, policies[0], Examples(rows), Recipe(SETTINGS, 1e-3, 0), LOSS).history
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_nothing_to_train_on_is_said(bank: Bank, start: Adapter) -> None:
    with pytest.raises(SipoError, match="nothing to train on"):
        train(bank, start, Examples([]), RECIPE, LOSS)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rule", ["sum", "raco"])
def test_computing_layers_again_changes_nothing_but_memory(
    bank: Bank, start: Adapter, examples: list[Example], whole: bool, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whole models too, which the backbone no longer wears when the backward comes."""
    rows = [replace(example, nll=True, pairs=((0, 1, 1.0, -1.0), (1, 0, 0.0, 1.0))) for example in examples]
    policy: Any = new_whole(bank.model) if whole else start
    recipe = Recipe(SETTINGS, 1e-4 if whole else 1e-3, 0)
    loss = Loss(SETTINGS.beta, Weighting((0.7, 0.3), rule=rule, c=0.4), alpha=0.1, token_budget=90)
    results = []
    for recomputes in (False, True):
        monkeypatch.setattr(bank, "recomputes", recomputes)
        results.append(train(bank, policy, Examples(rows, rows[:2]), recipe, loss))
    kept, again = results
    for mine, theirs in zip(again.history, kept.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    begun, once, twice = (
        torch.cat([parameter.detach().float().flatten() for parameter in each.parameters])
        for each in (policy, kept.policy, again.policy)
    )
    assert float((once - twice).norm()) < 0.02 * float((once - begun).norm())


def test_a_model_whose_layers_cannot_be_computed_again_is_refused(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recomputing, "GradientCheckpointingLayer", type("Other", (), {}))
    with pytest.raises(SipoError, match=r"execution.gradient_checkpointing: model type `llama`"):
        Bank(backbone, recomputes=True)
