"""Several policies in the same steps against each alone: the slow twin."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from sipo.bank import Adapter, Bank, new_adapter
from sipo.finite import NotFiniteError
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.models.load import Backbone
from sipo.settings import Lora, Training
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Trainee, Weighting, train, train_together

SETTINGS = Training(beta=0.5, epochs=2, batch_size=3, max_grad_norm=0.05)
"""So that gradients are clipped, each policy's by its own norm."""
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, Callable[[int], PreTrainedModel]] = {
    "llama": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, **SMALL)),
    "gpt2": lambda v: GPT2LMHeadModel(GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
    "gemma2, with windows and a soft cap": lambda v: Gemma2ForCausalLM(
        Gemma2Config(vocab_size=v, head_dim=8, num_key_value_heads=2, sliding_window=8, **SMALL)
    ),
    "qwen3, of experts": lambda v: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=v, head_dim=8, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=16, **SMALL,
        )
    ),
}  # fmt: skip


def rows(count: int, seed: int, objectives: int = 1, *, margins: bool = False, nll: bool = False) -> list[Example]:
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(number(5, 200) for _ in range(number(least, most)))

    made = []
    for _ in range(count):
        signs = (1.0, *(float(number(-1, 2)) for _ in range(objectives - 1)))
        made.append(
            Example(
                Group(tokens(2, 9), (tokens(1, 6), tokens(2, 7))), (0.0, 0.0), ((number(0, 2), 1, *signs),),
                (0.1 * number(-5, 5),) if margins else None, nll,
            )
        )  # fmt: skip
    return [replace(each, pairs=((0, 1, *each.pairs[0][2:]),)) for each in made]


def known(bank: Bank, examples: list[Example], policies: Sequence[Adapter] = ()) -> list[Example]:
    with bank.mounted(policies):
        point = (1.0,) * len(policies)
        return [replace(each, reference=tuple(score_rows(bank, [(each.group, point)])[0])) for each in examples]


def apart(one: Trained, other: Trained) -> float:
    pairs = zip(one.policy.parameters, other.policy.parameters, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def alone(bank: Bank, each: Trainee) -> Trained:
    return train(bank, each.start, each.examples, each.recipe, each.loss, beneath=each.beneath, job=each.job)


def mixed(bank: Bank, start: Adapter, under: Adapter) -> list[Trainee]:
    """Of every kind: several objectives' weights, margins with a scale, an NLL term, a policy beneath; of unlike numbers
    of rows and validation rows, rates, and seeds.
    """
    plain, several = known(bank, rows(7, 1)), known(bank, rows(8, 2, objectives=3))
    margined = known(bank, rows(4, 3, margins=True))
    raised = known(bank, rows(5, 4, nll=True), [under])
    recipe = Recipe(SETTINGS, 2e-3, 5, keep_best=True)
    return [
        Trainee(start, Examples(plain, plain[:3]), recipe, Loss(0.5)),
        Trainee(start, Examples(several, several[:1]), replace(recipe, lr=1e-3), Loss(0.5, Weighting((0.5, 0.2, 0.3)))),
        Trainee(start, Examples(margined), Recipe(SETTINGS, 3e-3, 6), Loss(0.5, Weighting(scale=0.4))),
        Trainee(start, Examples(raised), Recipe(SETTINGS, 1e-3, 7), Loss(0.5, alpha=0.3), beneath=(under,)),
        Trainee(under, Examples(raised, raised[:2]), Recipe(SETTINGS, 1e-3, 7), Loss(0.2, alpha=0.1)),
    ]


def same(one: Trained, other: Trained) -> None:
    assert apart(one, other) < 2e-4
    assert len(one.history) == len(other.history)
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert mine.keys() == theirs.keys()  # a difference of nothing agrees with a label by its last bits
        assert {**mine, "accuracy": 0.0} == pytest.approx({**theirs, "accuracy": 0.0}, rel=2e-3, abs=2e-4)


def bank_of(backbone: Backbone, family: str) -> Bank:
    torch.manual_seed(0)
    model = FAMILIES[family](len(backbone.tokenizer)).eval().requires_grad_(False)
    return Bank(replace(backbone, model=model))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_what_it_would_be_alone(backbone: Backbone, family: str) -> None:
    bank = bank_of(backbone, family)
    start, under = (new_adapter(bank.model, Lora(r=r, alpha=2 * r), seed=r) for r in (3, 2))
    nudge = torch.Generator().manual_seed(0)
    for _, up in under.factors.values():
        up.add_(0.05 * torch.randn(up.shape, generator=nudge))
    trainees = mixed(bank, start, under)
    expected = [alone(bank, each) for each in trainees]
    assert len({len(each.history) for each in expected}) > 1, "some end before others"
    for budget in (40, 4096):
        given = [replace(each, loss=replace(each.loss, token_budget=budget)) for each in trainees]
        for mine, theirs in zip(train_together(bank, given), expected, strict=True):
            assert isinstance(mine, Trained)
            same(mine, theirs)
    assert all(apart(a, b) > 1e-3 for a, b in pairwise(expected[:3])), "they would not be mistaken for each other"
    assert not bank.policies and under.parameters[0].grad is None


@pytest.mark.parametrize("rule", ["raco", "mgda"])
def test_combined_gradients_are_each_policy_s_own(bank: Bank, policies: list[Adapter], rule: Any) -> None:
    examples = known(bank, rows(8, 3, objectives=2))
    shares = [(0.2, 0.8), (0.5, 0.5), (0.8, 0.2)]
    losses = [Loss(0.5, Weighting(w, rule=rule, c=0.4), token_budget=60) for w in shares] + [
        Loss(0.5, Weighting(shares[0]))
    ]
    trainees = [Trainee(policies[0], Examples(examples), Recipe(SETTINGS, 1e-3, 0), loss) for loss in losses]
    for mine, each in zip(train_together(bank, trainees), trainees, strict=True):
        assert isinstance(mine, Trained)
        same(mine, alone(bank, each))


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_killed_at_any_step_they_go_on_bit_by_bit(bank: Bank, policies: list[Adapter], tmp_path: Path, at: int) -> None:
    """Two of three have ended by the fourth step."""
    trainees = mixed(bank, policies[0], policies[1])[:3]
    undisturbed = train_together(bank, trainees)
    checkpoint = Checkpoint(tmp_path / "all.pt", 0)

    def kill(record: dict[str, float]) -> None:
        if record["step"] == at:
            raise Killed

    with pytest.raises(Killed):
        train_together(
            bank, [trainees[0], replace(trainees[1], job=Job(watch=kill)), trainees[2]], checkpoint=checkpoint
        )
    seen: list[dict[str, float]] = []
    watched = [replace(trainees[0], job=Job(watch=seen.append)), *trainees[1:]]
    for resumed, whole in zip(train_together(bank, watched, checkpoint=checkpoint), undisturbed, strict=True):
        assert isinstance(resumed, Trained) and isinstance(whole, Trained)
        assert resumed.history == whole.history
        assert resumed.policy.identity == whole.policy.identity
    assert isinstance(undisturbed[0], Trained) and seen == undisturbed[0].history


def test_one_that_diverges_names_itself_and_spoils_no_other(
    bank: Bank, policies: list[Adapter], tmp_path: Path
) -> None:
    """Its own numbers are infinite from the second step on, and so is what it makes of its rows."""
    trainees = mixed(bank, policies[0], policies[1])[:3]
    said: list[str] = []
    job = Job("training the wild one", "lower its rate", warn=said.append)
    wild = replace(trainees[1], recipe=replace(trainees[1].recipe, lr=1e36), job=job)
    given = [trainees[0], wild, trainees[2]]
    checkpoint = Checkpoint(tmp_path / "all.pt", 0)
    results = train_together(bank, given, checkpoint=checkpoint)
    failed = results[1]
    assert isinstance(failed, NotFiniteError)
    assert str(failed).startswith("training the wild one, step ") and str(failed).endswith("lower its rate")
    assert said == [str(failed)]
    for place in (0, 2):
        result = results[place]
        assert isinstance(result, Trained)
        same(result, alone(bank, trainees[place]))
    again = train_together(bank, given, checkpoint=checkpoint)
    assert str(again[1]) == str(failed), "the file remembers"
    with pytest.raises(NotFiniteError, match="the wild one"):
        alone(bank, wild)


def test_a_state_of_other_trainings_is_not_taken(
    bank: Bank, policies: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sipo.training import optimise

    notes: list[str] = []
    monkeypatch.setattr(optimise, "note", notes.append)
    trainees = mixed(bank, policies[0], policies[1])[:2]
    checkpoint = Checkpoint(tmp_path / "all.pt", 0)
    train_together(bank, trainees, checkpoint=checkpoint)
    (result,) = train_together(bank, [replace(trainees[0], job=Job("another"))], checkpoint=checkpoint)
    assert len(notes) == 1 and "of other trainings" in notes[0]
    assert isinstance(result, Trained)
    assert result.policy.identity == alone(bank, trainees[0]).policy.identity
