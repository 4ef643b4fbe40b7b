"""Whole models as policies, against transformers alone: each policy loaded by itself, parameters averaged by hand."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from architectures import tiny
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from sipo.bank import Bank, load_policy
from sipo.bank.whole import Whole, average, new_whole, parameters_of, wearing
from sipo.decoding import FORWARD_KL, JENSEN_SHANNON, REVERSE_KL, Request, at_mod, at_soup, base, decode
from sipo.decoding.mixture import Divergence, Mixture
from sipo.errors import SipoError
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.models.load import Backbone
from sipo.settings import Decoding, Training
from sipo.training.learner import Recipe
from sipo.training.loop import SINGLE, Example, Examples, Loss, Part, Weighting, _backward, train

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WEIGHT = (0.3, 0.7)
PROMPTS = [(5, 6, 7, 8, 9), (5, 6, 7), (5, 6, 7, 40, 41, 42, 43)]


def nudged(model: PreTrainedModel, seed: int) -> Whole:
    """Another model of the same shape, with nothing as it was."""
    random = torch.Generator().manual_seed(seed)
    return Whole({n: w + 0.05 * torch.randn(w.shape, generator=random) for n, w in parameters_of(model).items()})


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2", "tied"])
def mounted(request: pytest.FixtureRequest, backbone: Backbone) -> tuple[Bank, list[Whole]]:
    """Biases, positions that are learned, a soft cap and windows; and a head that is the embedding ("tied")."""
    if request.param != "tied":
        backbone = Backbone(tiny(request.param), backbone.tokenizer, "tiny")
    return Bank(backbone), [nudged(backbone.model, seed) for seed in (1, 2)]


def built(bank: Bank, policies: Sequence[Whole], point: Sequence[float]) -> PreTrainedModel:
    """The model at a point, with parameters written by hand."""
    model = deepcopy(bank.model)
    rest = 1 - sum(point)
    for name, weight in model.named_parameters():
        weight.data = rest * weight + sum(c * policy.weights[name] for c, policy in zip(point, policies, strict=True))
    return model


@torch.no_grad()
def next_logits(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]


@torch.no_grad()
def logprob(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> float:
    logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum())


def test_a_batch_of_any_points_scores_as_the_models_alone(mounted: tuple[Bank, list[Whole]]) -> None:
    bank, policies = mounted
    points = [(0.0, 0.0), (1.0, 0.0), WEIGHT, (0.0, 1.0), (0.5, -0.2), (1.0, 0.0)]
    groups = [Group(prompt, ((11, 12, 13), (14, 15))) for prompt in (*PROMPTS, *PROMPTS)]
    before = {name: weight.clone() for name, weight in bank.model.named_parameters()}
    with bank.mounted(policies):
        scored = score_rows(bank, list(zip(groups, points, strict=True)))
    for group, point, values in zip(groups, points, scored, strict=True):
        model = built(bank, policies, point)
        assert values == pytest.approx([logprob(model, group.prompt, y) for y in group.responses], rel=1e-4, abs=1e-3)
    assert all(torch.equal(weight, before[name]) for name, weight in bank.model.named_parameters())
    assert bank.policies == () and all(isinstance(each, torch.nn.Parameter) for each in bank.model.parameters())


@pytest.mark.parametrize("divergence", [REVERSE_KL, FORWARD_KL, JENSEN_SHANNON])
def test_mod_is_n_models_mixed_by_hand(mounted: tuple[Bank, list[Whole]], divergence: Divergence) -> None:
    """Beside soups, policies and the base in one batch; prompts share a prefix, and some end before others."""
    bank, policies = mounted
    mixtures = [at_mod(WEIGHT, divergence), at_mod((0.6, 0.4), divergence), *(replaced(divergence))]
    requests = [Request(prompt, mixture) for prompt in PROMPTS for mixture in mixtures]
    alone = {point: built(bank, policies, point) for m in mixtures for point in m.points}
    stops = {decoded_by_hand(alone, requests[0], 3)[1]}
    with bank.mounted(policies):
        decoded = decode(bank, requests, Decoding(), 5, stops)
    for request, answer in zip(requests, decoded, strict=True):
        expected = decoded_by_hand(alone, request, 5)
        end = next((i + 1 for i, token in enumerate(expected) if token in stops), 5)
        assert answer.tokens == tuple(expected[:end])
    with bank.mounted(policies):
        ((scored,),) = mixture_logprobs(bank, Group(PROMPTS[0], ((11, 12, 13),)), mixtures[:1])
    assert scored == pytest.approx(scored_by_hand(alone, PROMPTS[0], (11, 12, 13), mixtures[0]), rel=1e-4)


def replaced(divergence: Divergence) -> list[Mixture]:
    return [Mixture(m.points, m.weights, divergence) for m in (at_soup(WEIGHT), at_soup((1.0, 0.0)), base(2))]


def mixed_by_hand(
    models: dict[tuple[float, ...], PreTrainedModel], text: Sequence[int], start: int, m: Mixture
) -> Tensor:
    """Scores of the next token [V] by the formulas of `sipo.decoding.mixing`, in double precision."""
    if len(m.points) == 1:
        return next_logits(models[m.points[0]], text).double()
    rows = []
    for point in m.points:
        so_far = logprob(models[point], text[:start], text[start:]) if len(text) > start else 0.0
        rows.append(so_far + next_logits(models[point], text).double().log_softmax(-1))
    logprobs, shares = torch.stack(rows), torch.tensor(m.weights).double()[:, None]
    match m.divergence.kind:
        case "reverse-kl":
            return (shares * logprobs).sum(0)
        case "forward-kl":
            return -torch.logsumexp(shares.log() - logprobs, 0)
        case _:
            ratio = (logprobs - logprobs[-1]).exp()
            g = ((2 * ratio / (1 + ratio)) ** shares).prod(0)
            return logprobs[-1] + g.log() - (2 - g).log()


def decoded_by_hand(models: dict[tuple[float, ...], PreTrainedModel], request: Request, length: int) -> list[int]:
    text = list(request.prompt)
    for _ in range(length):
        text.append(int(mixed_by_hand(models, text, len(request.prompt), request.mixture).argmax()))
    return text[len(request.prompt) :]


def scored_by_hand(
    models: dict[tuple[float, ...], PreTrainedModel], prompt: Sequence[int], response: Sequence[int], mixture: Mixture
) -> float:
    total, text = 0.0, list(prompt)
    for token in response:
        total += float(mixed_by_hand(models, text, len(prompt), mixture).log_softmax(-1)[token])
        text.append(token)
    return total


def test_folders_are_models_that_transformers_loads(mounted: tuple[Bank, list[Whole]], tmp_path: Path) -> None:
    bank, policies = mounted
    tokenizer: PreTrainedTokenizerFast = bank.backbone.tokenizer  # type: ignore[assignment]
    for i, policy in enumerate(policies):
        policy.save(tmp_path / str(i), bank.backbone)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / str(i), dtype=torch.float32) for i in (0, 1)]
    soup = policies[0].soup(policies, WEIGHT, bank.model)
    soup.save(tmp_path / "soup", bank.backbone)
    cooked = AutoModelForCausalLM.from_pretrained(tmp_path / "soup", dtype=torch.float32)
    theirs = [dict(model.named_parameters()) for model in (*loaded, cooked)]
    assert theirs[2].keys() == soup.weights.keys()
    for name, weight in theirs[2].items():
        torch.testing.assert_close(
            weight, WEIGHT[0] * theirs[0][name] + WEIGHT[1] * theirs[1][name], rtol=1e-5, atol=1e-6
        )
    for model, point in zip((*loaded, cooked), ((1.0, 0.0), (0.0, 1.0), WEIGHT), strict=True):
        by_hand = next_logits(built(bank, policies, point), PROMPTS[0])
        torch.testing.assert_close(next_logits(model.eval(), PROMPTS[0]), by_hand, **CLOSE)
    back = load_policy(tmp_path / "0")
    assert back.identity == policies[0].identity and not back.still
    assert tokenizer.get_vocab() == type(tokenizer).from_pretrained(tmp_path / "0").get_vocab()
    new_whole(bank.model).save(tmp_path / "fresh", bank.backbone)
    assert load_policy(tmp_path / "fresh").still


EXAMPLES = [
    (PROMPTS[0], (11, 12, 13), (14, 15)),
    (PROMPTS[1], (16, 17), (18, 19, 20, 21)),
    (PROMPTS[2], (22,), (23, 24)),
    (PROMPTS[1], (25, 26), (27, 28)),
]
SETTINGS = Training(beta=0.4, epochs=2, batch_size=2, warmup=0.3, weight_decay=0.1, max_grad_norm=0.7)


def total(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()


def loss_by_hand(model: PreTrainedModel, reference: PreTrainedModel, batch: Sequence[int], alpha: float) -> Tensor:
    """DPO and the NLL term as they are written down, on plain logits."""
    loss = torch.zeros(())
    for prompt, better, worse in (EXAMPLES[i] for i in batch):
        margin = total(model, prompt, better) - total(model, prompt, worse)
        with torch.no_grad():
            before = total(reference, prompt, better) - total(reference, prompt, worse)
        loss = loss - logsigmoid(SETTINGS.beta * (margin - before)) - alpha * total(model, prompt, better) / len(better)
    return loss / len(batch)


def trained_by_hand(model: PreTrainedModel, lr: float, alpha: float, seed: int) -> list[float]:
    """Train all parameters of `model`; returns the loss of each step."""
    reference = deepcopy(model).requires_grad_(False)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=SETTINGS.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 4)
    losses = []
    for epoch in range(SETTINGS.epochs):
        order = torch.randperm(len(EXAMPLES), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for batch in (order[:2], order[2:]):
            loss = loss_by_hand(model, reference, batch, alpha)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.max_grad_norm)
            optimizer.step()
            schedule.step()
    model.requires_grad_(False)
    return losses


def examples_of(bank: Bank) -> list[Example]:
    groups = [Group(prompt, (better, worse)) for prompt, better, worse in EXAMPLES]
    with bank.mounted([]):
        known = [score_rows(bank, [(group, ())])[0] for group in groups]
    return [Example(g, tuple(r), ((0, 1, 1.0),), nll=True) for g, r in zip(groups, known, strict=True)]


@pytest.mark.parametrize("budget", [1, 1000])
def test_gradients_are_those_of_the_loss_written_down(mounted: tuple[Bank, list[Whole]], budget: int) -> None:
    """Of every parameter, the embedding, the norms and the output head among them."""
    bank, _ = mounted
    policy, model, alpha = nudged(bank.model, 5).trainable_copy(bank.device), deepcopy(bank.model), 0.2
    for name, weight in model.named_parameters():
        weight.data = policy.weights[name].detach().clone()
    loss = loss_by_hand(model.requires_grad_(True), bank.model, range(len(EXAMPLES)), alpha)
    loss.backward()
    rows = examples_of(bank)
    with bank.mounted([policy]):
        how = Loss(SETTINGS.beta, alpha=alpha, token_budget=budget)
        (numbers,) = _backward(bank, [Part((1.0,), bank.policies[0].parameters, how, rows)])
    assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-4)
    largest = max(float(weight.grad.abs().max()) for weight in model.parameters())
    for name, weight in policy.weights.items():
        torch.testing.assert_close(weight.grad, model.get_parameter(name).grad, rtol=1e-3, atol=1e-5 * largest)


def apart(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest difference of two models' next logits. Parameters themselves may differ where they change nothing,
    as the bias of attention's keys, of which AdamW makes steps of rounding."""
    return max(float((next_logits(one, x) - next_logits(other, x)).abs().max()) for x in PROMPTS)


def test_full_fine_tuning_is_dpo_written_down_step_by_step(mounted: tuple[Bank, list[Whole]]) -> None:
    bank, _ = mounted
    lr, alpha, by_hand = 1e-3, 0.2, deepcopy(bank.model)
    before = parameters_of(deepcopy(bank.model))
    rows = examples_of(bank)
    result = train(
        bank,
        new_whole(bank.model),
        Examples(rows),
        Recipe(SETTINGS, lr, 3),
        Loss(SETTINGS.beta, alpha=alpha, token_budget=40),
    )
    losses = trained_by_hand(by_hand, lr, alpha, seed=3)
    assert [record["loss"] for record in result.history] == pytest.approx(losses, rel=1e-3)
    assert losses[-1] < losses[0]
    moved = apart(by_hand, bank.model)
    assert moved > 0.01 and apart(built(bank, [result.policy], (1.0,)), by_hand) < 0.02 * moved
    assert all(torch.equal(bank.model.get_parameter(name), weight) for name, weight in before.items())


def test_above_a_frozen_policy_training_begins_as_that_policy(mounted: tuple[Bank, list[Whole]]) -> None:
    """`realign.start: merged`: what is added to both is the same model as what was trained."""
    bank, (policy, _) = mounted
    rows = examples_of(bank)
    result = train(
        bank,
        new_whole(bank.model),
        Examples(rows, rows),
        Recipe(SETTINGS, 1e-3, 3),
        Loss(SETTINGS.beta),
        beneath=[policy],
    )
    with bank.mounted([policy]):
        first = score_rows(bank, [(rows[0].group, (1.0,))])
    both = [policy, result.policy]
    one = policy.soup(both, [1.0, 1.0], bank.model)
    with bank.mounted(both):
        stacked = score_rows(bank, [(rows[0].group, (1.0, 1.0))])
    with bank.mounted([one]):
        alone = score_rows(bank, [(rows[0].group, (1.0,))])
    assert alone[0] == pytest.approx(stacked[0], rel=1e-5) and alone[0] != pytest.approx(first[0], rel=1e-3)
    assert result.history[0]["start_validation_loss"] != pytest.approx(0.6931, abs=1e-2), "it begins as the policy"


def test_gradients_are_combined_over_all_parameters(mounted: tuple[Bank, list[Whole]]) -> None:
    """Two objectives of one mind, combined by a rule, are one."""
    bank, _ = mounted
    ones = [Example(e.group, e.reference, ((0, 1, 1.0),)) for e in examples_of(bank)]
    rows = [Example(e.group, e.reference, ((0, 1, 1.0, 1.0),)) for e in ones]
    found = []
    for some, weighting in ((ones, SINGLE), (rows, Weighting(WEIGHT, rule="raco", c=0.0))):
        result = train(
            bank,
            new_whole(bank.model),
            Examples(some),
            Recipe(SETTINGS, 1e-3, 0),
            Loss(SETTINGS.beta, weighting=weighting),
        )
        found.append(built(bank, [result.policy], (1.0,)))
    assert apart(*found) < 0.02 * apart(found[0], bank.model)


def test_in_16_bits_parameters_learn_in_float32(backbone: Backbone) -> None:
    """A step far below the last bit of a bf16 weight is not lost; the policy that is kept is rounded once."""
    model = deepcopy(backbone.model).to(torch.bfloat16)  # type: ignore[arg-type]
    bank = Bank(Backbone(model, backbone.tokenizer, "tiny"))
    result = train(bank, new_whole(model), Examples(examples_of(bank)), Recipe(SETTINGS, 1e-6, 0), Loss(SETTINGS.beta))
    moved = [w - model.get_parameter(name).float() for name, w in result.policy.weights.items()]
    assert all(each.dtype == torch.float32 for each in moved)
    assert 0 < max(float(each.abs().max()) for each in moved) < 1e-5
    with bank.mounted([result.policy]):
        (scored,) = score_rows(bank, [(Group(PROMPTS[0], ((11, 12),)), (1.0,))])
    with wearing(model, {name: w.bfloat16() for name, w in result.policy.weights.items()}):
        expected = logprob(model, PROMPTS[0], (11, 12))
    assert scored == pytest.approx([expected], rel=0.02)


def test_what_does_not_fit_is_said(mounted: tuple[Bank, list[Whole]], policies: list[object]) -> None:
    bank, (one, other) = mounted
    name = next(iter(one.weights))
    lacking = Whole({n: w for n, w in other.weights.items() if n != name})
    with pytest.raises(SipoError, match=f"`{name}`: another base"), bank.mounted([one, lacking]):
        pass
    with (
        pytest.raises(SipoError, match="of another shape"),
        bank.mounted([Whole({**one.weights, name: torch.ones(1)})]),
    ):
        pass
    with pytest.raises(SipoError, match="no span in common"), bank.mounted([one, policies[0]]):  # type: ignore[list-item]
        pass
    own = parameters_of(bank.model)
    halves = average([one, other], (0.5, 0.5), own)
    torch.testing.assert_close(halves.weights[name], (one.weights[name] + other.weights[name]) / 2)
