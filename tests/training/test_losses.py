"""The losses against TRL's DPOTrainer on the same pairs, and against the identities between them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from sipo.bank import Adapter, Bank, save_adapter
from sipo.bank.policy import Point
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone
from sipo.settings import Training
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Part, _backward, train
from sipo.training.losses import accuracy, implicit_rewards, normalised_nll, preference_loss

BETA, ALPHA = 0.3, 0.25
PAIRS = [
    ("how do I keep my plants alive?", "water them once a week.", "the sun is warm"),
    ("is the soil dark?", "yes", "give them light. the soil is dark and warm."),
    ("why?", "once a week the sun is warm", "no"),
    ("tell me about light", "light is warm.", "light is dark. water is warm. soil is dark."),
]
"""prompt, preferred, other"""


@dataclass
class Both:
    """The same policy, reference and pairs in TRL and here."""

    trainer: DPOTrainer
    policy: Adapter
    examples: list[Example]


def nudged(adapter: Adapter, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: tuple(f + 0.1 * torch.randn(f.shape, generator=generator) for f in pair)
        for name, pair in adapter.factors.items()
    }
    return replace(adapter, factors=factors)


@pytest.fixture
def both(
    request: pytest.FixtureRequest,
    bank: Bank,
    backbone: Backbone,
    policies: list[Adapter],
    model_folder: Path,
    tmp_path: Path,
) -> Both:
    """`request.param`: settings for TRL, and whether the reference is the base or an adapter (as in realignment)."""
    options, reference_is_adapter = request.param
    reference, policy = policies[0], nudged(policies[0], seed=9)
    save_adapter(reference if reference_is_adapter else policy, tmp_path / "start", str(model_folder))
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "start", is_trainable=True)

    def chat(prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        return str(backbone.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    rows = [{"prompt": chat(prompt), "chosen": better, "rejected": worse} for prompt, better, worse in PAIRS]
    defaults: dict[str, Any] = {
        "output_dir": str(tmp_path / "trl"), "per_device_train_batch_size": len(PAIRS), "beta": BETA, "max_length": None,
        "use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "disable_tqdm": True,
        "save_strategy": "no",
    }  # fmt: skip
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**{**defaults, **options}),
        train_dataset=Dataset.from_list(rows),
        processing_class=backbone.tokenizer,
    )
    for name, parameter in model.named_parameters():
        if ".lora_" in name and ".ref." in name and not reference_is_adapter:
            parameter.data.zero_()  # an adapter of zeros is the base
        if ".lora_" in name and ".default." in name:
            layer = name.removeprefix("base_model.model.").split(".lora_")[0]
            parameter.data.copy_(policy.factors[layer]["lora_B" in name])

    codec = Codec(backbone.tokenizer, 200, 50)
    groups = [
        Group(
            tuple(codec.encode_prompt([Message("user", prompt)])),
            (tuple(codec.encode_response(better)), tuple(codec.encode_response(worse))),
        )
        for prompt, better, worse in PAIRS
    ]
    for group, row in zip(groups, trainer.train_dataset, strict=True):
        assert (group.prompt, *group.responses) == tuple(
            tuple(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")
        )
    point: Point = (float(reference_is_adapter),)
    with bank.mounted([reference]):
        references = score_rows(bank, [(group, point) for group in groups])
    return Both(
        trainer,
        policy,
        [Example(g, tuple(r), ((0, 1, 1.0),)) for g, r in zip(groups, references, strict=True)],
    )


def gradients_of_trl(trainer: DPOTrainer, rows: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of these rows, and its gradient by `layer.A` or `layer.B`."""
    trainer.model.zero_grad()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {
        name.removeprefix("base_model.model.").replace(".default.weight", "").replace("lora_", ""): parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if ".default." in name
    }


def gradients_here(
    bank: Bank, policy: Adapter, examples: list[Example], alpha: float = 0.0
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    adapter = policy.trainable_copy(bank.device)
    with bank.mounted([adapter]):
        loss = Loss(BETA, alpha=alpha, token_budget=60)
        (numbers,) = _backward(bank, [Part((1.0,), bank.policies[0].parameters, loss, examples)])
    gradients = {f"{name}.{'AB'[i]}": pair[i].grad for name, pair in adapter.factors.items() for i in (0, 1)}
    return numbers, gradients  # type: ignore[return-value]


def assert_same_gradients(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert scale > 0.01
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "both", [({}, False), ({}, True), ({"precompute_ref_log_probs": True}, True)],
    indirect=True, ids=["from the base", "from a policy", "from a policy, precomputed"],
)  # fmt: skip
def test_dpo_is_trl_s(bank: Bank, both: Both) -> None:
    loss, theirs = gradients_of_trl(both.trainer, [0, 1, 2, 3])
    numbers, mine = gradients_here(bank, both.policy, both.examples)
    assert numbers["loss"] == pytest.approx(loss, rel=1e-4)
    assert abs(loss - math.log(2)) > 0.05, "policy and reference must differ"
    assert_same_gradients(mine, theirs)
    metrics = both.trainer._metrics["train"]
    assert numbers["accuracy"] == metrics["rewards/accuracies"][-1]


@pytest.mark.parametrize("both", [({}, True)], indirect=True)
def test_which_response_is_listed_first_does_not_matter(bank: Bank, both: Both) -> None:
    _, expected = gradients_here(bank, both.policy, both.examples)
    turned = [
        Example(
            Group(e.group.prompt, e.group.responses[::-1]),
            e.reference[::-1],
            ((1, 0, 1.0),) if i % 2 else ((0, 1, -1.0),),
        )
        for i, e in enumerate(both.examples)
    ]
    _, actual = gradients_here(bank, both.policy, turned)
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize(
    "both",
    [({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, ALPHA]}, True)],
    indirect=True,
)
def test_realignment_s_loss_is_trl_s_at_batch_size_one(bank: Bank, both: Both) -> None:
    """Eq. 8. In larger batches TRL averages the NLL over all tokens, which is another thing."""
    raised = [replace(example, nll=True) for example in both.examples]
    losses = []
    for row, example in enumerate(raised):
        loss, theirs = gradients_of_trl(both.trainer, [row])
        numbers, mine = gradients_here(bank, both.policy, [example], ALPHA)
        assert numbers["loss"] == pytest.approx(loss, rel=1e-4)
        assert_same_gradients(mine, theirs)
        losses.append(loss)
    numbers, _ = gradients_here(bank, both.policy, raised, ALPHA)
    assert numbers["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    together, _ = gradients_of_trl(both.trainer, [0, 1, 2, 3])
    assert abs(together - sum(losses) / len(losses)) > 1e-3


STEPS = {
    "num_train_epochs": 4, "learning_rate": 5e-3, "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.05,
    "max_grad_norm": 1.0, "optim": "adamw_torch", "logging_steps": 1,
}  # fmt: skip


@pytest.mark.parametrize("both", [(STEPS, True)], indirect=True)
def test_training_is_trl_s(bank: Bank, both: Both) -> None:
    """Whole batches, so that the order of the rows is no matter: the same losses, step by step."""
    both.trainer.train()
    theirs = [record["loss"] for record in both.trainer.state.log_history if "loss" in record]
    settings = Training(beta=BETA, epochs=4, batch_size=len(PAIRS), warmup=0.25, weight_decay=0.05, max_grad_norm=1.0)
    result = train(bank, both.policy, Examples(both.examples), Recipe(settings, 5e-3, 0), Loss(settings.beta))
    assert [record["loss"] for record in result.history] == pytest.approx(theirs, abs=2e-4)
    assert theirs[0] - theirs[-1] > 0.1
    for name, parameter in both.trainer.model.named_parameters():
        if ".default." in name:
            layer = name.removeprefix("base_model.model.").split(".lora_")[0]
            torch.testing.assert_close(
                result.policy.factors[layer]["lora_B" in name], parameter.data, rtol=0, atol=1e-3
            )


# Identities

differences = st.floats(-30, 30)
shares = st.floats(0.01, 0.99)


def loss_at(d: float, signs: list[float], weights: list[float], **settings: Any) -> float:
    options = {"beta": BETA, **settings}
    p, w = torch.tensor([signs], dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    return float(preference_loss(torch.tensor([d], dtype=torch.float64), p, w, **options))


@given(differences, st.sampled_from([1.0, -1.0]))
def test_dpo_on_one_pair(d: float, sign: float) -> None:
    assert loss_at(d, [sign], [1.0]) == pytest.approx(math.log1p(math.exp(-sign * BETA * d)))


@given(differences, st.lists(st.tuples(st.sampled_from([1.0, -1.0]), shares), min_size=2, max_size=5))
def test_lw_is_dpo_with_a_soft_label(d: float, votes: list[tuple[float, float]]) -> None:
    total = sum(w for _, w in votes)
    signs, weights = [p for p, _ in votes], [w / total for _, w in votes]
    up = sum(w for p, w in zip(signs, weights, strict=True) if p > 0)
    bd = torch.tensor(BETA * d, dtype=torch.float64)
    soft = -up * logsigmoid(bd) - (1 - up) * logsigmoid(-bd)
    assert loss_at(d, signs, weights) == pytest.approx(float(soft), abs=1e-9)


@pytest.mark.parametrize("up", [0.1, 0.5, 0.8])
def test_lw_on_one_row_is_least_at_the_logit_of_the_label(up: float) -> None:
    d = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    signs, weights = (
        torch.tensor([[1.0, -1.0]], dtype=torch.float64),
        torch.tensor([up, 1 - up], dtype=torch.float64),
    )
    optimizer = torch.optim.LBFGS(
        [d], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9, tolerance_change=1e-15
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = preference_loss(d, signs, weights, BETA).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert BETA * float(d.detach()) == pytest.approx(math.log(up / (1 - up)), abs=1e-5)


@given(differences, st.floats(-3, 3), shares, st.sampled_from([1.0, -1.0]))
def test_modpo_is_dpo_against_a_shifted_reference(d: float, margin: float, share: float, sign: float) -> None:
    """beta / w_k in place of beta, and references moved by the margins."""
    modpo = loss_at(d, [sign], [1.0], margin=margin, scale=share)
    assert modpo == pytest.approx(loss_at(d - margin / BETA, [sign], [1.0], beta=BETA / share), rel=1e-6, abs=1e-9)


@given(st.lists(differences, min_size=3, max_size=3), st.lists(shares, min_size=3, max_size=3), st.integers(0, 2))
def test_modpo_s_optimum_is_the_mod_mixture(policies_d: list[float], raw: list[float], k: int) -> None:
    """With implicit margins, sum_i w_i log pi_i has on objective k the very loss that pi_k has for DPO."""
    w = [share / sum(raw) for share in raw]
    margin = sum(w[j] * BETA * policies_d[j] for j in range(3) if j != k)
    mixture = sum(w[i] * policies_d[i] for i in range(3))
    at_mixture = loss_at(mixture, [1.0], [1.0], margin=margin, scale=w[k])
    assert at_mixture == pytest.approx(loss_at(policies_d[k], [1.0], [1.0]), rel=1e-6, abs=1e-9)


@given(differences, shares, st.sampled_from([1.0, -1.0]))
def test_ties_contribute_nothing(d: float, share: float, sign: float) -> None:
    assert loss_at(d, [sign, 0.0], [share, 1 - share]) == pytest.approx(loss_at(d, [sign], [share]))
    difference = torch.tensor([d], dtype=torch.float64, requires_grad=True)
    loss = preference_loss(difference, torch.zeros(1, 2), torch.ones(2), BETA).sum()
    loss.backward()
    assert loss.item() == 0 and difference.grad.item() == 0  # type: ignore[union-attr]


def test_opposite_labels_pull_equally_at_the_start() -> None:
    """The paper's point about conflicts: at D = 0 and equal weights nothing moves."""
    d = torch.zeros(1, requires_grad=True)
    preference_loss(d, torch.tensor([[1.0, -1.0]]), torch.tensor([0.5, 0.5]), BETA).sum().backward()
    assert float(d.grad) == 0  # type: ignore[union-attr]


def test_weights_may_differ_by_pair() -> None:
    d, signs = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    weights = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    rows = [preference_loss(d[i : i + 1], signs[i : i + 1], weights[i], BETA) for i in range(2)]
    torch.testing.assert_close(preference_loss(d, signs, weights, BETA), torch.cat(rows))


def test_large_differences_stay_finite() -> None:
    d = torch.tensor([1e6, -1e6], requires_grad=True)
    loss = preference_loss(d, torch.ones(2, 1), torch.ones(1), 1.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 1e6] and d.grad is not None and d.grad.tolist() == [0.0, -1.0]


def test_nll_is_divided_by_the_response_s_own_length() -> None:
    assert normalised_nll(torch.tensor([-6.0, -6.0]), torch.tensor([2, 12])).tolist() == [3.0, 0.5]


def test_nll_in_a_padded_batch_counts_no_padding_and_no_prompt(bank: Bank, policies: list[Adapter]) -> None:
    long = Group(tuple(range(20, 60)), (tuple(range(60, 90)), (5, 6)))
    short = Group((7,), ((8, 9), (10,)))
    with bank.mounted([policies[0]]):
        values = score_rows(bank, [(group, (1.0,)) for group in (long, short)])
    expected = [-values[0][0] / 30, -values[1][0] / 2]
    examples = [Example(g, (0.0, 0.0), ((0, 1, 1.0),), nll=True) for g in (long, short)]
    numbers, _ = gradients_here(bank, policies[0], examples, ALPHA)
    assert numbers["nll"] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_implicit_rewards_are_larger_for_what_the_policy_made_likelier() -> None:
    rewards = implicit_rewards(torch.tensor([-1.0, -5.0, -2.0]), torch.tensor([-3.0, -3.0, -2.0]), 0.5)
    assert rewards.tolist() == [1.0, -1.0, 0.0]


def test_accuracy_counts_given_preferences_only() -> None:
    d = torch.tensor([1.0, -1.0, 2.0, 0.0])
    assert float(accuracy(d, torch.tensor([[1.0], [1.0], [0.0], [1.0]]))) == pytest.approx(1 / 3)
    assert float(accuracy(d, torch.zeros(4, 1))) == 0
