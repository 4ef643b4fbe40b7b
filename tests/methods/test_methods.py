"""LW, MODPO, RACO, soups and realignment against what they are by definition."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import asking_briefly, random_adapter

from sipo.bank import Adapter, Bank, factor_soup, load_adapter, new_adapter, soup
from sipo.config.file import parse_config
from sipo.data import Row
from sipo.declare.parts import CANDIDATES, LOGPROBS, POLICIES
from sipo.decoding import at_soup
from sipo.disk.tables import read_json
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.methods.by_weight import by_weight, folder_of
from sipo.methods.consensus import check_consensus, train_consensus
from sipo.methods.lw import train_lw
from sipo.methods.modpo import trained_objective
from sipo.methods.raco import train_raco
from sipo.methods.registry import specs
from sipo.methods.soups import factor_soups
from sipo.models.load import Backbone
from sipo.pairs import parse_shares
from sipo.progress import Progress
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.settings import Lora, Training
from sipo.task import Task
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Weighting, train
from sipo.training.losses import preference_loss
from sipo.weights import corners, simplex_lattice

pytestmark = pytest.mark.early

SETTINGS = Training(beta=0.3, epochs=2, batch_size=3, warmup=0.0, weight_decay=0.0)
GROUPS = [
    Group((5, 6, 7), ((11, 12, 13), (14, 15))),
    Group((8, 9), ((16, 17, 18, 19), (20,))),
    Group((10, 11, 12, 13), ((21, 22), (23, 24, 25))),
    Group((7, 5), ((26, 27), (28, 29, 30))),
]
SIGNS = [(1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (-1.0, 0.0)]
weights = st.floats(0.05, 0.95)


@given(weights, st.lists(st.sampled_from([-1.0, 1.0]), min_size=2, max_size=2))
def test_lw_s_optimum_on_a_row(w: float, signs: list[float]) -> None:
    """beta D = logit(W+): the loss has no slope there, and without a conflict it falls for ever."""
    beta, shares = 0.2, torch.tensor([w, 1 - w], dtype=torch.float64)
    p = torch.tensor([signs], dtype=torch.float64)
    preferring = shares[p[0] > 0].sum()
    if 0 < preferring < 1:
        d = (torch.logit(preferring) / beta).reshape(1).requires_grad_()
        preference_loss(d, p, shares, beta).sum().backward()
        assert abs(d.grad.item()) < 1e-9
    else:
        d = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        preference_loss(d, p, shares, beta).sum().backward()
        assert d.grad.item() * signs[0] < 0


@given(weights, st.floats(-5, 5), st.floats(-3, 3), st.sampled_from([-1.0, 1.0]))
def test_modpo_s_loss_is_dpo_s_at_beta_over_w_with_the_reference_shifted(
    w: float, d: float, m: float, sign: float
) -> None:
    def exact(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    beta, p, one = 0.1, exact(sign)[None], exact(1.0)
    modpo = preference_loss(exact(d), p, one, beta, exact(m), w)
    dpo = preference_loss(exact(d - m / beta), p, one, beta / w)
    torch.testing.assert_close(modpo, dpo)


def logprobs(bank: Bank, points: list[tuple[float, ...]], adapters: list[Adapter]) -> list[list[list[float]]]:
    """[point][group][response]"""
    with bank.mounted(adapters):
        return [score_rows(bank, [(group, point) for group in GROUPS]) for point in points]


def start(bank: Bank) -> Adapter:
    return new_adapter(bank.model, Lora(r=3, alpha=6), 4)


def same(one: Adapter, other: Adapter, **tolerance: float) -> None:
    for a, b in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_training_modpo_is_training_dpo_on_the_shifted_reference(bank: Bank, policies: list[Adapter]) -> None:
    """With implicit margins the shifted reference is, up to what does not depend on y, MOD at the other weights."""
    w, beta = (0.4, 0.25, 0.35), SETTINGS.beta
    reference, *others = logprobs(bank, [(0.0,) * 3, *corners(3)[1:]], policies)
    plain, shifted = [], []
    for i, group in enumerate(GROUPS):
        pair = ((1, 0, SIGNS[i][0]),)
        rises = [
            sum(share * (scores[i][y] - reference[i][y]) for share, scores in zip(w[1:], others, strict=True))
            for y in (0, 1)
        ]
        plain.append(Example(group, tuple(reference[i]), pair, margins=(beta * (rises[1] - rises[0]),)))
        moved = tuple(value + rise for value, rise in zip(reference[i], rises, strict=True))
        shifted.append(Example(group, moved, pair))
    modpo = train(
        bank, start(bank), Examples(plain), Recipe(SETTINGS, 1e-2, 0), Loss(SETTINGS.beta, Weighting((1.0,), w[0]))
    )
    sharper = SETTINGS.model_copy(update={"beta": beta / w[0]})
    dpo = train(bank, start(bank), Examples(shifted), Recipe(sharper, 1e-2, 0), Loss(sharper.beta))
    same(modpo.policy, dpo.policy, rtol=1e-3, atol=1e-4)
    unshifted = [Example(each.group, each.reference, each.pairs) for each in plain]
    other = train(bank, start(bank), Examples(unshifted), Recipe(sharper, 1e-2, 0), Loss(sharper.beta))
    with pytest.raises(AssertionError):
        same(modpo.policy, other.policy, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("i", [0, 1])
def test_lw_at_a_one_hot_weight_is_that_objective_s_dpo(bank: Bank, policies: list[Adapter], i: int) -> None:
    (reference,) = logprobs(bank, [(0.0,) * 3], policies)
    both = [Example(g, tuple(reference[k]), ((1, 0, *SIGNS[k]),)) for k, g in enumerate(GROUPS)]
    alone = [Example(g, tuple(reference[k]), ((1, 0, SIGNS[k][i]),)) for k, g in enumerate(GROUPS)]
    lw = train(
        bank, start(bank), Examples(both), Recipe(SETTINGS, 1e-2, 0), Loss(SETTINGS.beta, Weighting(corners(2)[i]))
    )
    dpo = train(bank, start(bank), Examples(alone), Recipe(SETTINGS, 1e-2, 0), Loss(SETTINGS.beta))
    same(lw.policy, dpo.policy, rtol=1e-5, atol=1e-6)


def test_a_fresh_adapter_above_a_policy_is_one_on_merged_weights(
    model_folder: Path, bank: Bank, policies: list[Adapter]
) -> None:
    from sipo.models.load import load_backbone
    from sipo.settings import Model

    (reference,) = logprobs(bank, [(1.0,)], policies[:1])
    rows = [Example(g, tuple(reference[k]), ((1, 0, SIGNS[k][0]),), nll=True) for k, g in enumerate(GROUPS)]
    above = train(
        bank,
        start(bank),
        Examples(rows),
        Recipe(SETTINGS, 1e-2, 0),
        Loss(SETTINGS.beta, alpha=0.1),
        beneath=policies[:1],
    )

    merged = load_backbone(Model(path=str(model_folder), dtype="float32"), "cpu")
    layers = dict(merged.model.named_modules())
    with torch.no_grad():
        for name, (a, b) in policies[0].factors.items():
            layers[name].weight += policies[0].scaling * b @ a
    on_merged = train(
        Bank(merged), start(bank), Examples(rows), Recipe(SETTINGS, 1e-2, 0), Loss(SETTINGS.beta, alpha=0.1)
    )
    same(above.policy, on_merged.policy, rtol=1e-3, atol=1e-5)

    both = soup([policies[0], above.policy], [1.0, 1.0])
    stacked = logprobs(bank, [(1.0, 1.0)], [policies[0], above.policy])
    torch.testing.assert_close(
        torch.tensor([v for g in logprobs(bank, [(1.0,)], [both])[0] for v in g]),
        torch.tensor([v for g in stacked[0] for v in g]),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_what_is_beneath_does_not_change(bank: Bank, policies: list[Adapter]) -> None:
    before = policies[0].identity
    (reference,) = logprobs(bank, [(1.0,)], policies[:1])
    rows = [Example(g, tuple(reference[k]), ((1, 0, 1.0),)) for k, g in enumerate(GROUPS)]
    train(bank, start(bank), Examples(rows), Recipe(SETTINGS, 1e-2, 0), Loss(SETTINGS.beta), beneath=policies[:1])
    assert policies[0].identity == before


def alike(backbone: Backbone) -> list[Adapter]:
    return [random_adapter(backbone, seed, 3) for seed in (1, 2)]


def test_factor_soups_average_the_factors_apart(backbone: Backbone) -> None:
    first, second = alike(backbone)
    mixed = factor_soup([first, second], (0.25, 0.75))
    for name, (a, b) in mixed.factors.items():
        torch.testing.assert_close(a, 0.25 * first.factors[name][0] + 0.75 * second.factors[name][0])
        torch.testing.assert_close(b, 0.25 * first.factors[name][1] + 0.75 * second.factors[name][1])
    exact = soup([first, second], (0.25, 0.75))
    name = next(iter(mixed.factors))
    apart, true = (s.scaling * s.factors[name][1] @ s.factors[name][0] for s in (mixed, exact))
    assert (apart - true).norm() / true.norm() > 0.3, "another model, with independent factors far away"


def test_factor_soups_are_the_policies_at_the_corners_and_refuse_unequal_ranks(
    backbone: Backbone, policies: list[Adapter]
) -> None:
    pair = alike(backbone)
    for policy, corner in zip(pair, corners(2), strict=True):
        same(factor_soups(pair).at(corner).adapters[0], policy)
    with pytest.raises(SipoError, match="differ in rank"):
        factor_soup(policies, (0.2, 0.3, 0.5))


def test_a_model_for_each_weight_and_no_other(policies: list[Adapter]) -> None:
    method = by_weight("lw", ["a", "b"], {(1.0, 0.0): policies[0], (0.5, 0.5): policies[1]})
    assert method.trained == ((1.0, 0.0), (0.5, 0.5))
    assert method.at((0.5, 0.5)).adapters == (policies[1],)
    assert method.at((0.5, 0.5)).mixture == at_soup((1.0,))
    with pytest.raises(SipoError, match=r"lw: .* weights, a=0.4,b=0.6 not among them; they are a=0.5,b=0.5; a=1,b=0$"):
        method.at((0.4, 0.6))
    many = by_weight("lw", ["a", "b"], dict.fromkeys(simplex_lattice(2, 20), policies[0]))
    with pytest.raises(SipoError, match="of 21 the nearest are a=0.4,b=0.6; "):
        many.at((0.41, 0.59))


def test_a_weight_is_found_as_it_is_printed(policies: list[Adapter]) -> None:
    thirds = simplex_lattice(2, 3)[1]
    method = by_weight("lw", ["a", "b"], {thirds: policies[1], (1.0, 0.0): policies[0]})
    with pytest.raises(SipoError) as caught:
        method.at((0.5, 0.5))
    told = str(caught.value).partition(" are ")[2].split("; ")[0]
    assert method.at(tuple(parse_shares("", told).values())).adapters == (policies[1],)
    rounded = tuple(round(share, 6) for share in thirds)
    assert rounded != thirds and method.at(rounded).adapters == (policies[1],)


def test_modpo_trains_on_an_objective_that_has_weight(settings: dict[str, Any]) -> None:
    free = Task(parse_config(settings, "x"))
    fixed = Task(parse_config({**settings, "modpo": {"objective": "brevity"}}, "x"))
    for w in simplex_lattice(2, 5):
        assert w[trained_objective(free, w)] == max(w)
        assert w[trained_objective(fixed, w)] > 0
        assert trained_objective(fixed, w) == (1 if w[1] else 0)


ALL = [name for name in specs() if name != "policies"]


@pytest.fixture(scope="module")
def everything(make_settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("everything")
    settings = {**asking_briefly(make_settings(folder), folder), "methods": list(specs())}
    return settings, run(parse_config(settings, "x"), quiet=True)


@pytest.fixture
def copied(everything: tuple[dict[str, Any], Path], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The same run, finished, in a folder of the test's own: for tests that go on with it."""
    settings, folder = everything
    shutil.copytree(folder, tmp_path / "run")
    return {**settings, "run_dir": str(tmp_path / "run")}, tmp_path / "run"


def test_every_method_is_measured_at_every_weight(everything: tuple[dict[str, Any], Path]) -> None:
    _, folder = everything
    fronts = read_json(folder / "compare" / "fronts.json")["methods"]
    assert set(fronts) == {*ALL, "policy:detail", "policy:brevity"}
    for name, front in fronts.items():
        assert len(front["points"]) == 3, "what no weight steers is drawn from as often"
        unsteered = name == "base" or name.startswith("policy:")
        assert all((point["weights"] is None) == unsteered for point in front["points"])
    page = (folder / "report" / "report.html").read_text()
    assert all(name in page for name in fronts)


def test_at_the_corners_methods_are_the_policies_themselves(everything: tuple[dict[str, Any], Path]) -> None:
    settings, folder = everything
    config = parse_config(settings, "x")
    assert not (folder / "lw" / "adapters" / folder_of((1.0, 0.0))).exists(), "not another training"
    outputs = Outputs(folder, config)
    for name in ("lw", "modpo", "raco", "consensus", "factor-soups"):
        (method,) = specs()[name].build(config, **outputs.inputs(Graph(config)[f"answers/{name}"]))
        for policy, corner in zip(outputs.read("align", POLICIES), corners(2), strict=True):
            same(method.at(corner).adapters[0], policy)
    points = read_json(folder / "compare" / "fronts.json")["methods"]
    for i, name in enumerate(config.names):
        policy = points[f"policy:{name}"]["points"][-i]["rewards"]  # its draw at that weight
        for method in (
            "soups",
            "mod",
            "mod-forward-kl",
            "mod-alpha",
            "mod-jensen-shannon",
            "lw",
            "modpo",
            "raco",
            "consensus",
        ):
            assert points[method]["points"][-i]["rewards"] == policy, (method, name)


def test_another_method_leaves_what_the_others_share(copied: tuple[dict[str, Any], Path]) -> None:
    settings, folder = copied
    shared = ("align", "lw", "raco", "realign")
    before = {name: (folder / name / "stage.json").stat().st_mtime_ns for name in shared}
    run(parse_config({**settings, "methods": ["base", "lw", "raco", "sipo"]}, "x"), quiet=True)
    assert before == {name: (folder / name / "stage.json").stat().st_mtime_ns for name in shared}


def middle(folder: Path) -> Adapter:
    return load_adapter(folder / "adapters" / folder_of((0.5, 0.5)))


def test_consensus_is_lw_where_the_conflicts_were_never_there(
    everything: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, folder = everything
    task = Task(parse_config(settings, "x"), Progress(quiet=True))
    known = Outputs(folder, task.config).read("align", LOGPROBS)
    train_consensus(task, known, tmp_path / "consensus")

    def agreed(rows: list[Row]) -> list[Row]:
        return [row for row in rows if not row.conflicting(task.objectives)]

    splits = task.splits
    assert 0 < len(agreed(splits.train)) < len(splits.train)
    task.site.splits = replace(splits, train=agreed(splits.train), validation=agreed(splits.validation))
    train_lw(task, known, tmp_path / "lw")
    assert middle(tmp_path / "consensus").identity == middle(tmp_path / "lw").identity
    assert middle(tmp_path / "consensus").identity != middle(folder / "lw").identity
    check_consensus(task)
    task.site.splits = replace(splits, train=[row for row in splits.train if row not in agreed(splits.train)])
    with pytest.raises(SipoError, match="conflict in every training row, so `consensus` has none to learn from"):
        check_consensus(task)


def test_raco_is_lw_without_a_correction_and_each_rule_a_model_of_its_own(
    everything: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, folder = everything
    known = Outputs(folder, parse_config(settings, "x")).read("align", LOGPROBS)
    models = {"lw": middle(folder / "lw")}
    for name, raco in {"none": {"c": 0.0}, "raco": {}, "cagrad": {"rule": "cagrad"}, "mgda": {"rule": "mgda"}}.items():
        task = Task(parse_config({**settings, "raco": raco}, "x"), Progress(quiet=True))
        train_raco(task, known, tmp_path / name)
        models[name] = middle(tmp_path / name)
    moved = {name: torch.cat([p.flatten() for p in model.parameters]) for name, model in models.items()}

    def apart(one: str, other: str) -> float:
        return float((moved[one] - moved[other]).norm() / moved[one].norm())

    nearest = min(apart("lw", name) for name in ("raco", "cagrad", "mgda"))
    assert apart("lw", "none") < 0.1 * nearest
    assert min(apart("raco", "cagrad"), apart("raco", "mgda"), apart("cagrad", "mgda")) > 0
    assert models["raco"].identity == middle(folder / "raco").identity, "what a run makes of the defaults"


SWITCHES: dict[str, dict[str, Any]] = {
    "no refine": {"refine": {"review_tokens": 8, "enabled": False}},
    "random": {"filter": "random"},
    "calibrated": {"filter": "calibrated"},
    "rewrites": {"filter": {"rule": "calibrated", "pool": "rewrites", "keep": 0.5}},
    "kept": {"filter": {"pool": "kept", "judges": ["policies"]}},
    "literal": {"filter": {"reference": False, "judges": ["policies"]}},
    "per token": {"filter": {"per_token": True, "judges": ["policies"]}},
    "all rows": {"sample": {"rows": "all", "prompts": 8, "per_weight": 8}},
    "non-conflicting": {"sample": {"rows": "non-conflicting", "prompts": 8, "per_weight": 8}},
    "merged": {"realign": {"lr": 1e-3, "start": "merged"}},
    "design": {"realign": {"lr": 1e-3, "pairs": "chosen-preferred-dispreferred", "rows": 2}},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_of_sipo_runs(copied: tuple[dict[str, Any], Path], switch: str) -> None:
    settings, folder = copied
    before = (folder / "align" / "stage.json").stat().st_mtime_ns
    config = parse_config({**settings, "methods": ["sipo"], **SWITCHES[switch]}, "x")
    run(config, until="filter", quiet=True)
    if any(each.fate == "chosen" for each in Outputs(folder, config).read("filter", CANDIDATES)):
        run(config, until="realign", quiet=True)
    assert (folder / "align" / "stage.json").stat().st_mtime_ns == before, "the alignment is shared"
    outputs = Outputs(folder, config)
    summary = read_json(folder / "filter" / "filter.json")
    candidates, rows = outputs.read("filter", CANDIDATES), {row.id: row for row in Task(config).splits.train}
    assert summary["rule"] == config.filter.rule and summary["candidates"] == len(candidates)
    if switch == "no refine":
        assert {each.source for each in candidates} == {"sample"}
    if config.filter.pool == "rewrites":
        assert {each.source for each in candidates if each.fate == "chosen"} <= {"rewrite"}
    if config.filter.rule == "calibrated":
        assert set(summary["judge"]["accuracy"]) == set(config.names) and summary["held_out"] == "other folds"
        assert set(candidates[0].rewards) == {f"judge:{name}" for name in config.names}
        chosen = sum(each.fate == "chosen" for each in candidates)
        assert chosen == round(config.filter.keep * len({each.row for each in candidates}))
    if getattr(config.filter, "judges", None) == ("policies",):
        assert set(candidates[0].rewards) == {f"policy:{name}" for name in config.names}
    worked = {rows[each.row].conflicting(config.names) for each in candidates}
    assert worked == {"conflicting": {True}, "non-conflicting": {False}, "all": {True, False}}[config.sample.rows]


def test_three_objectives_with_missing_labels(make_settings, tmp_path: Path) -> None:
    """Every method and the calibrated filter, where `tone` has no label in a fifth of the rows."""
    settings = asking_briefly(make_settings(tmp_path), tmp_path)
    settings["objectives"].append({"name": "tone", "better": "It is kind.", "reward": "sipo.rewards.text:words"})
    config = parse_config({**settings, "methods": list(specs()), "filter": "calibrated"}, "x")
    folder = run(config, until="compare", quiet=True)
    fronts = read_json(folder / "compare" / "fronts.json")["methods"]
    assert {len(fronts[name]["points"]) for name in ("lw", "modpo", "raco", "consensus", "sipo")} == {6}
    judge = read_json(folder / "filter" / "filter.json")["judge"]
    assert judge["pairs"]["tone"] < judge["pairs"]["detail"]
    assert np.array(judge["weights"]).shape == (3, 3 + 3 + 1 + 1)
    pairs = [(r.row, len(r.rewards)) for r in Outputs(folder, config).read("filter", CANDIDATES)]
    assert {count for _, count in pairs} == {3}
