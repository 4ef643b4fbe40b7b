"""Three and five objectives: what is sampled and judged at, apart from what is measured, and what that costs."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipo.check import about_weights, check, expected_rows
from sipo.cli.init import write_config
from sipo.config.file import load_config, parse_config
from sipo.declare.parts import CANDIDATES, REFINEMENTS, SAMPLES
from sipo.estimate.table import plan_of
from sipo.graph.build import Graph
from sipo.logprobs.table import policy_points, soup_at
from sipo.remarks import about_config, about_methods
from sipo.remarks import about_weights as remarks
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.task import Task
from sipo.weights import between, spread_lattice

Make = Callable[[Path], dict[str, Any]]


def of(n: int, make: Make, folder: Path) -> dict[str, Any]:
    """A small run of n objectives whose labels are drawn."""
    settings, generator = make(folder), random.Random(0)
    names = [f"o{i}" for i in range(n)]
    path = Path(settings["data"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["preferred"] = {name: generator.randrange(2) for name in names}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings["objectives"] = [
        {"name": name, "better": "It says more.", "reward": "sipo.rewards.text:words"} for name in names
    ]
    return settings


@pytest.mark.parametrize("n", [3, 5])
def test_samples_and_judges_stand_where_their_own_keys_say(n: int, make_settings: Make, tmp_path: Path) -> None:
    settings = of(n, make_settings, tmp_path)
    settings["weights"] = {"divisions": 4}
    settings["sample"] = {"prompts": 2, "weights": {"divisions": 5, "at_most": n + 3}}
    settings["filter"] = {"weights": {"divisions": 3, "at_most": n + 2}}
    settings["execution"]["decode_rows"] = 64
    settings["align"]["epochs"] = 1
    config = parse_config(settings, "settings")
    outputs = Outputs(run(config, until="filter", quiet=True), config)

    samples = outputs.read("sample", SAMPLES)
    drawn_at = between(spread_lattice(n, 5, n + 3))
    prompts = list(dict.fromkeys(each.prompt for each in samples))
    assert [(each.prompt, tuple(each.weights.values())) for each in samples] == [
        (prompt, weight) for prompt in prompts for weight in drawn_at
    ]
    soups = [soup_at(weight) for weight in between(spread_lattice(n, 3, n + 2))]
    assert list(outputs.read("filter", CANDIDATES)[0].rewards) == [*policy_points(config.names), *soups]

    work = {stage.name: stage.work(plan_of(Task(config))[0]) for stage in Graph(config)}
    assert work["sample"].written == len(samples) == 2 * len(drawn_at)
    assert work["refine"].written == 2 * len(outputs.read("refine", REFINEMENTS)), "a review and a rewrite each"
    without = parse_config({**settings, "filter": {"judges": ["policies"]}}, "settings")
    plan = plan_of(Task(without))[0]
    judged = 2 * plan.sizes.worked + plan.samples + plan.rewrites
    assert work["score"].scored - Graph(without)["score"].work(plan).scored == len(soups) * judged


def test_a_sample_between_some_objectives_is_written_by_their_policies_alone(
    make_settings: Make, tmp_path: Path
) -> None:
    settings = of(3, make_settings, tmp_path)
    edge, middle = {"o0": 0.5, "o1": 0.5}, {"o0": 0.2, "o1": 0.3, "o2": 0.5}

    def written(*weights: dict[str, float]) -> float:
        config = parse_config({**settings, "sample": {"prompts": 2, "weights": {"grid": weights}}}, "settings")
        return Graph(config)["sample"].work(plan_of(Task(config))[0]).decoding

    assert written(edge, middle) == written(edge) + written(middle) == written(edge) * 5 / 2


def test_check_states_the_numbers_and_says_where_they_are_large(make_settings: Make, tmp_path: Path) -> None:
    settings = of(5, make_settings, tmp_path)
    settings |= {"weights": {"divisions": 5}, "sample": {"per_weight": 3}}
    config = parse_config(settings, "settings")
    measured, drawn, judges = about_weights(config)[1:]
    assert (
        "21 weights, well spread among the 126 with steps of 1/5 (weights.at_most): a method writes 21 answers"
        in measured
    )
    assert "at 16 weights" in drawn and "48 a prompt, and as many rewrites" in drawn
    assert "16 soups" in judges and "beside the 5 policies" in judges
    assert remarks(config) == []
    settings |= {"sample": {"weights": {"at_most": 60}}, "filter": {"weights": {"at_most": 60}}}
    places = [line.partition(":")[0] for line in remarks(parse_config(settings, "settings"))]
    assert places == ["sample.weights", "filter.weights"]
    listed = [{"o0": at / 50, "o1": 1 - at / 50} for at in range(1, 50)]
    (line,) = remarks(parse_config({**settings, "weights": {"grid": listed}, "methods": ["mod"]}, "settings"))
    assert line.endswith("leave some out of weights.grid"), "at_most is of a lattice"
    assert remarks(parse_config({**settings, "methods": ["base", "mod"]}, "settings")) == []


@pytest.mark.parametrize("n", [3, 5, 6])
def test_check_names_objectives_that_no_weight_samples(n: int, make_settings: Make, tmp_path: Path) -> None:
    settings = of(n, make_settings, tmp_path)

    def said(**changes: Any) -> list[str]:
        lines = about_config(parse_config({**settings, **changes}, "settings"))
        return [line for line in lines if "a share" in line]

    few = {"divisions": 2, "at_most": n + 1}
    (line,) = said(sample={"weights": few})
    out = re.findall(r"\bo\d\b", line.partition("gives")[2])
    drawn = between(spread_lattice(n, 2, n + 1))
    assert out == [f"o{i}" for i in range(n) if not any(weight[i] for weight in drawn)] and out
    enough = int(line.rpartition("sample.weights.at_most to ")[2])
    assert not said(sample={"weights": {"divisions": 2, "at_most": enough}})
    assert said(sample={"weights": {"divisions": 2, "at_most": enough - 1}}), "the least that is enough"
    assert not said(), "the defaults leave none out"
    assert not said(sample={"weights": few}, methods=["base", "mod"]), "nothing is sampled"
    pair = {"grid": [{"o0": 0.5, "o1": 0.5}, {"o0": 1}, {"o2": 1}]}
    assert [line.partition(":")[0] for line in said(weights=pair, sample={"weights": pair})] == [
        *(["weights"] if n > 3 else []), "sample.weights"
    ]  # fmt: skip


def test_check_expects_fewer_rows_of_more_objectives(
    make_settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(n: int, **changes: Any) -> tuple[int, int] | None:
        settings = {**of(n, make_settings, tmp_path), "sample": {"per_weight": 1}, **changes}
        return expected_rows(parse_config(settings, "settings"), 1000)

    two, five = found(2), found(5)
    assert two and five and five[0] < two[0] < two[1]
    more = found(5, sample={"per_weight": 8})
    assert more and more[0] > five[0]
    assert found(2, filter={"rule": "calibrated", "keep": 0.6}) == (600, 600)
    assert found(2, filter={"pool": "rewrites"}, refine={"enabled": False}) == (0, 0)
    assert found(2, filter={"rule": "rewards"}) is None
    assert found(2, methods=["base", "mod"]) is None

    checked = check(parse_config(of(3, make_settings, tmp_path), "settings"))
    said = capsys.readouterr().out
    assert checked.kept and f"{checked.kept[0]} to {checked.kept[1]} of 8 rows" in said
    assert "fewer than 20 hardly move a policy" in said and "filter.judges: [policies]" in said


def test_soups_are_written_for_three_objectives_and_missed_where_they_are_not(
    make_settings: Make, tmp_path: Path
) -> None:
    settings = of(3, make_settings, tmp_path)
    path = tmp_path / "new.yaml"
    write_config(path, Path(settings["data"]["path"]))
    written = load_config(path)
    assert {"sipo", "sipo-soups"} <= set(written.methods) and about_methods(written) == []
    (line,) = about_methods(parse_config(settings, "settings"))
    assert line.startswith("3 objectives: soups of the realigned policies may be above MOD")
    assert about_methods(parse_config({**settings, "methods": ["base", "mod"]}, "settings")) == []
    assert about_methods(parse_config(of(2, make_settings, tmp_path), "settings")) == []
