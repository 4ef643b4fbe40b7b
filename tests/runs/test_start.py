"""Where no epoch beats the start, the start is kept: in training, and in all that stands on a policy that is the
reference."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

import sipo
from sipo.bank import Adapter, Bank, load_adapter
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.declare.parts import CHOSE_NOTHING
from sipo.disk.journal import Journal
from sipo.disk.tables import read_json, read_records
from sipo.engines import Local, Span
from sipo.filters.paper import outspoken
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.progress import Progress
from sipo.records import Candidate, Response
from sipo.runs.pipeline import run
from sipo.settings import Execution
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.optimise import optimise


class Settings:
    batch_size, warmup, weight_decay, max_grad_norm = 1, 0.0, 0.0, 1.0

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs


def fall(losses: list[float], keep_best: bool = True, **more: Any) -> tuple[float, list[dict[str, float]]]:
    """One parameter that falls by .1 an epoch, with these validation losses; where it ends, and the history."""
    parameter, left = torch.tensor([1.0], requires_grad=True), iter(losses)

    def backward(_: list[int]) -> dict[str, float]:
        parameter.sum().backward()
        return {"loss": float(parameter.detach())}

    recipe = Recipe(Settings(len(losses) - 1), 0.1, 0, keep_best)
    history = optimise([parameter], 1, backward, recipe, validate=lambda: next(left), job=Job(**more))
    return float(parameter.detach()), history


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([0.5, 0.6, 0.7], 0),
        ([0.5, 0.5, 0.5], 0),
        ([0.5, 0.4, 0.6], 1),
        ([0.5, 0.6, 0.4], 2),
        ([0.5, math.nextafter(0.5, 0), 0.7], 1),
    ],
)
def test_the_start_takes_part_in_the_choice(losses: list[float], kept: int) -> None:
    end, history = fall(losses)
    places = [1.0, history[1]["loss"], fall(losses, keep_best=False)[0]]
    assert end == places[kept] and places[0] > places[1] > places[2]
    assert history[0]["start_validation_loss"] == losses[0]
    assert [each["validation_loss"] for each in history] == losses[1:]
    assert fall(losses, keep_best=False)[1] == history


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_killed_training_still_knows_its_start(at: int, tmp_path: Path) -> None:
    losses = [0.5, 0.9, 0.8, 0.7]
    path = tmp_path / "state.pt"

    def kill(record: dict[str, float]) -> None:
        if record["step"] == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fall(losses, checkpoint=Checkpoint(path, 0.0), watch=kill)
    done = at - 1 if path.exists() else 0
    left = losses if not done else losses[done + 1 :]

    def again() -> tuple[float, list[dict[str, float]]]:
        parameter, values = torch.tensor([1.0], requires_grad=True), iter(left)

        def backward(_: list[int]) -> dict[str, float]:
            parameter.sum().backward()
            return {"loss": float(parameter.detach())}

        recipe, job = Recipe(Settings(3), 0.1, 0, keep_best=True), Job(checkpoint=Checkpoint(path, 0.0))
        history = optimise([parameter], 1, backward, recipe, validate=lambda: next(values), job=job)
        return float(parameter.detach()), history

    assert again() == fall(losses)


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 19, 20, 21, 31])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.15])
def test_warm_up_is_as_long_as_in_transformers(steps: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    from sipo.training import learner as module

    real = module.get_cosine_schedule_with_warmup
    monkeypatch.setattr(
        module, "get_cosine_schedule_with_warmup", lambda o, warm, total: asked.append(warm) or real(o, warm, total)
    )
    settings = Settings(steps)
    settings.warmup = share
    parameter = torch.tensor([1.0], requires_grad=True)

    def backward(_: list[int]) -> dict[str, float]:
        parameter.sum().backward()
        return {"loss": 0.0}

    optimise([parameter], 1, backward, Recipe(settings, 0.1, 0))
    theirs = TrainingArguments(output_dir="unused", warmup_steps=share, use_cpu=True, report_to=[])
    assert asked == [min(theirs.get_warmup_steps(steps), steps - 1)], "a single step is not spent at a rate of 0"


def rows(path: Path, stubborn: tuple[str, ...]) -> Path:
    """Longer is better on detail, shorter on brevity; `stubborn` objectives are labelled the other way in validation."""
    records = []
    for i in range(60):
        split = "test" if i % 4 == 3 else "validation" if i % 4 == 2 else "train"
        preferred = {"detail": 1, "brevity": 0}
        if split == "validation":
            preferred = {name: 1 - at if name in stubborn else at for name, at in preferred.items()}
        records.append(
            {"prompt": f"tell me about plant {i}", "response_0": "sun", "response_1": "the sun",
             "preferred": preferred, "split": split}
        )  # fmt: skip
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


@pytest.fixture(scope="module")
def stubborn(make_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole run in which training on brevity only makes validation worse; and what it said."""
    folder, said = tmp_path_factory.mktemp("stubborn"), []
    settings = make_settings(folder)
    settings["data"]["path"] = str(rows(folder / "stubborn.jsonl", ("brevity",)))
    settings["align"].update(checkpoint="best", lr=0.003, epochs=3)
    settings["methods"] = ["base", "soups", "mod", "mod-jensen-shannon", "lw", "sipo"]
    patch = pytest.MonkeyPatch()
    patch.setattr(Progress, "say", lambda self, text="": said.append(text))
    folder = run(parse_config(settings, "stubborn"))
    patch.undo()
    return folder, said


def test_a_policy_that_stays_the_reference_is_said_everywhere(stubborn: tuple[Path, list[str]]) -> None:
    folder, said = stubborn
    assert load_adapter(folder / "align" / "adapters" / "brevity").still
    assert not load_adapter(folder / "align" / "adapters" / "detail").still
    warnings = [
        line for line in said if line.startswith("warning: objective brevity: no epoch is better on validation")
    ]
    assert len(warnings) == 1 and "0.6931 before" in warnings[0]
    assert any("the policy of brevity stayed the reference and has no opinion" in line for line in said)
    page = (folder / "report" / "report.html").read_text()
    assert "No epoch was better on validation than the start of brevity (align): " in page
    assert "The policy of brevity stayed the reference" in page


def test_it_is_the_reference_to_the_last_bit(stubborn: tuple[Path, list[str]]) -> None:
    folder, _ = stubborn
    assert read_json(folder / "filter" / "filter.json")["no_opinion"] == ["brevity"]
    candidates = read_records(folder / "filter" / "candidates.jsonl", Candidate)
    assert all("policy:brevity" not in each.rewards and "policy:detail" in each.rewards for each in candidates)
    judged = [folder / "judged" / name / "responses.jsonl" for name in ("base", "soups", "mod")]
    responses = [each for path in judged for each in read_records(path, Response)]
    place = {json.dumps({"detail": d, "brevity": 1 - d}): at for at, d in enumerate((1.0, 0.5, 0.0))}
    base = {(each.prompt, each.draw): each.response for each in responses if each.method == "base"}
    corner = json.dumps({"detail": 0.0, "brevity": 1.0})
    mine = [each for each in responses if each.method in ("mod", "soups") and json.dumps(each.weights) == corner]
    assert mine and all(each.response == base[each.prompt, place[corner]] for each in mine)


def test_where_no_policy_moves_sipo_is_mod(
    make_settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A filter that chooses nothing is a result: everything is measured and reported all the same, and it is said once
    a round, however many strengths are tried.
    """
    settings = make_settings(tmp_path)
    settings["data"]["path"] = str(rows(tmp_path / "all.jsonl", ("brevity", "detail")))
    settings["align"].update(checkpoint="best", lr=0.003)
    settings |= {"rounds": 2, "realign": {"lr": "auto", "strengths": [0.1, 1.0], "trial_prompts": 2}}
    folder = run(parse_config(settings, "all"))
    assert capsys.readouterr().out.count("the filter chose nothing") == 2
    fronts = read_json(folder / "compare" / "fronts.json")["methods"]
    assert [point["rewards"] for point in fronts["sipo"]["points"]] == [
        point["rewards"] for point in fronts["mod"]["points"]
    ]
    for stage in ("realign", "round-2/realign"):
        assert (folder / stage / "training.jsonl").read_text() == ""
    for words in (("compare", folder), ("status", folder)):
        assert main([*map(str, words)]) == 0
        assert CHOSE_NOTHING in capsys.readouterr().out
    assert sipo.open(folder).remarks == [CHOSE_NOTHING]
    page = (folder / "report" / "report.html").read_text()
    assert "The filter chose nothing in the last round" in page and "align.checkpoint: last" in page


def test_the_table_gives_a_still_policy_the_reference_s_values(
    bank: Bank, policies: list[Adapter], tmp_path: Path
) -> None:
    from sipo.logprobs.packing import Group

    fresh = Adapter({n: (a, torch.zeros_like(b)) for n, (a, b) in policies[0].factors.items()}, policies[0].scaling)
    assert fresh.still and not policies[0].still
    groups, table = [Group((5, 6, 7 + i), ((8, 9), (10, 11 + i, 12))) for i in range(5)], LogprobTable()
    models = {"policy:a": (1.0, 0.0), "policy:b": (0.0, 1.0), "soup": (0.5, 0.5)}
    span = Span(bank.backbone.settings, (fresh, policies[1]))
    assert not span.moves((1.0, 0.0)) and span.moves((0.5, 0.5))
    engine = Local(Execution(score_tokens=60), bank)
    table.fill(engine, span, groups, models, Journal(tmp_path, "x", Progress(quiet=True)))
    for group in groups:
        still, moved, soup, reference = table.of(group, [*models, REFERENCE]).T
        assert (still == reference).all() and (moved != reference).all() and (soup != reference).all()


def test_judges_without_an_opinion_are_not_asked() -> None:
    rewards = [np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])]
    assert outspoken(["a", "b"], rewards) == [1]
    assert outspoken(["a"], [each[:, :1] for each in rewards]) == [0], "all of them where none has one"
