"""Studies at tiny sizes: each runs, resumes, and says of the paper's statements what the numbers say."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from families import tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from small import asking_briefly

from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.disk.tables import read_json
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.pareto.bootstrap import percentile_interval
from sipo.pareto.compare import compare
from sipo.pareto.seeds import t_interval
from sipo.pareto.verdicts import Difference
from sipo.plain import escape
from sipo.progress import Progress
from sipo.runs.outputs import Outputs
from sipo.studies import arms as arms_module
from sipo.studies import catalogue, responses
from sipo.studies import fronts as fronts_module
from sipo.studies.arms import Arm, Front, digest, run_arms, turned
from sipo.studies.catalogue import RATIOS, WITHOUT_FILTER, conflict_arms
from sipo.studies.filters import RULES
from sipo.studies.fronts import Claim, FrontStudy, findings_of, within_seed
from sipo.studies.ground import Ground, find_ground
from sipo.studies.intervals import mean_over_seeds, over_seeds
from sipo.studies.registry import STUDIES
from sipo.studies.study import Conclusion, Finding, Table, markdown, run_study
from sipo.task import Task
from sipo.weights import grid

pytestmark = pytest.mark.early

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def ground(make_settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that a study can be done on."""
    folder = tmp_path_factory.mktemp("ground")
    settings = make_settings(folder)
    rows = Path(settings["data"]["path"])  # twice as many, so that a filter finds some, however a processor rounds
    again = [{**row, "prompt": f"{row['prompt']} now"} for row in map(json.loads, rows.read_text().splitlines())]
    rows.write_text(rows.read_text() + "".join(json.dumps(row) + "\n" for row in again))
    settings["sample"] = {"prompts": 28, "per_weight": 4}
    settings["align"]["epochs"] = 1
    settings["evaluate"]["prompts"] = 8
    settings["filter"] = {"rule": "paper", "judges": ["policies"]}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(asking_briefly(settings, folder)))
    return path


@pytest.fixture(scope="module")
def studies(ground: Path) -> Path:
    return ground.parent / "studies"


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("filters", "conflicts")])
def test_every_study_runs_on_a_configuration(name: str, ground: Path, studies: Path) -> None:
    assert main(["study", name, "--on", str(ground), "--seeds", "1", "--to", str(studies)]) == 0
    page = (studies / "run" / name / "results.md").read_text()
    study = STUDIES[name]
    assert study.question in page and f"sipo study {name} --on {ground} --seeds 0" in page
    measured = read_json(studies / "run" / name / "seeds" / "0.json")
    pictures = list((studies / "run" / name).glob("*.png"))
    assert pictures and all(each.name in page and each.read_bytes().startswith(b"\x89PNG") for each in pictures)
    if "arms" in measured:
        assert all(f"| {escape(label)} | " in page for label in measured["arms"])


def test_conflicts_on_subsets_of_one_size(ground: Path, studies: Path) -> None:
    settings = find_ground(str(ground), studies).settings(0, QUIET)
    arms = conflict_arms(settings)
    assert {arm.label for arm in arms} > {f"{m} {r:.0%}" for m in ("soups", "lw", "modpo", "mod") for r in RATIOS}
    sizes = set()
    for ratio in RATIOS:
        (arm,) = (each for each in arms if each.label == f"soups {ratio:.0%}")
        task = Task(parse_config(turned(settings, arm.changes), "x"))
        train = task.splits.train
        sizes.add(len(train))
        assert sum(row.conflicting(task.objectives) for row in train) == round(ratio * len(train))
    assert len(sizes) == 1


def test_methods_are_those_that_fit_the_ground(ground: Path, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, study = find_ground(str(ground), studies).settings(0, QUIET), STUDIES["methods"]
    assert isinstance(study, FrontStudy)
    by_label = {arm.label: arm.changes for arm in study.arms(settings)}
    assert set(study.claimed(by_label)) == set(study.claims) and by_label["best-of-n"] == {}
    greedy = study.arms(turned(settings, {"decoding.temperature": 0}))
    assert all(arm.changes["best_of_n.temperature"] == 1 for arm in greedy if arm.method == "best-of-n")
    assert {dict(arm.changes).get("best_of_n.n") for arm in greedy} == {None, 16}
    monkeypatch.setattr(catalogue, "read_tokenizer", lambda _: tokenizer_of("word", None))
    labels = [arm.label for arm in study.arms(settings)]
    assert set(by_label) - set(labels) == {"prompting"}
    assert [claim for claim in study.claims if claim not in study.claimed(labels)] == [
        Claim("sipo", "prompting", ours=True)
    ]


def test_filters_are_measured_against_true_rewards(ground: Path, studies: Path) -> None:
    """On rewards that the tiny model can improve: longer is better for both objectives."""
    settings = yaml.safe_load(ground.read_text())
    settings["objectives"] = [{**each, "direction": "maximize"} for each in settings["objectives"]]
    other = ground.parent / "longer.yaml"
    other.write_text(yaml.safe_dump(settings))
    assert main(["study", "filters", "--on", str(other), "--seeds", "1", "--to", str(studies)]) == 0
    measured = read_json(studies / "longer" / "filters" / "seeds" / "0.json")
    precision = measured["precision"]
    assert precision["oracle"]["precision"] == 1.0
    for each in precision.values():
        assert each["precision"] is None or 0 <= each["precision"] <= 1
        assert each["all"] == precision["paper"]["all"], "all rules judge the same candidates"
    assert precision["paper, with a margin"]["chosen"] >= precision["paper"]["chosen"]
    assert measured["rows"] == min(precision[label]["chosen"] for label in ("paper", "calibrated", "random", "oracle"))


def test_what_is_measured_is_not_measured_again(ground: Path, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["study", "soups", "--on", str(ground), "--seeds", "1", "--to", str(studies)]
    assert main(command) == 0
    before = (studies / "run" / "soups" / "results.md").read_text()
    monkeypatch.setattr(arms_module, "run", lambda *_, **__: pytest.fail("ran again"))
    assert main(command) == 0
    assert (studies / "run" / "soups" / "results.md").read_text() == before


@dataclass(frozen=True)
class Counted:
    """A study that costs nothing."""

    name: str = "counted"
    question: str = "How many?"
    only: tuple[str, ...] = ()

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        return {"seed": seed}

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        return Conclusion([Table("", ["seeds"], [[" ".join(str(each["seed"]) for each in seeds)]])], [], {})


def test_seeds_of_other_settings_or_rows_are_left_out(ground: Path, tmp_path: Path) -> None:
    mine, rows = tmp_path / "mine.yaml", tmp_path / "rows.jsonl"
    settings = yaml.safe_load(ground.read_text())
    rows.write_text(Path(settings["data"]["path"]).read_text())
    settings["data"]["path"] = str(rows)

    def seeds(*asked: int) -> str:
        mine.write_text(yaml.safe_dump(settings))
        page = run_study(Counted(), find_ground(str(mine), tmp_path), asked, QUIET)[0] / "results.md"
        return page.read_text().rstrip().splitlines()[-1].strip("| ")

    assert (seeds(0, 1), seeds(2)) == ("0 1", "0 1 2")
    settings["execution"]["decode_rows"] = 4
    assert seeds(0) == "0 1 2", "it changes nothing"
    settings["align"]["lr"] = 0.02
    assert (seeds(1), seeds(3)) == ("1", "1 3")
    rows.write_text(rows.read_text().partition("\n")[2])
    before = digest(settings, Arm("a", "mod"))
    assert seeds(0) == "0"
    settings["objectives"][0]["reward"] = "sipo.rewards.text:distinct_words"
    assert seeds(2) == "2" and digest(settings, Arm("a", "mod")) != before


def test_what_older_code_measured_is_made_anew(ground: Path, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = find_ground(str(ground), studies).settings(0, QUIET)
    testbeds = [find_ground(on, studies) for on in ("testbed", "testbed:G", "testbed:H-untaught")]
    before, about = digest(settings, Arm("a", "mod")), [each.about() for each in testbeds]
    assert len(set(about)) == 3 and find_ground("testbed:H", studies).about() == about[0]
    add = Graph.add
    monkeypatch.setattr(Graph, "add", lambda graph, stage: add(graph, replace(stage, version=stage.version + 1)))
    assert digest(settings, Arm("a", "mod")) != before
    assert not set(about) & {each.about() for each in testbeds}, "seeds of a testbed know it, too"


def test_an_arm_with_other_settings_is_made_anew(ground: Path, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = find_ground(str(ground), studies).settings(0, QUIET)
    kept, made = studies / "run" / "fronts", []
    real = arms_module.run
    monkeypatch.setattr(arms_module, "run", lambda *args, **kw: made.append(1) or real(*args, **kw))
    arms = [Arm("soups", "soups"), Arm("mod", "mod")]
    run_arms(arms, settings, kept, QUIET)
    assert len(made) <= 1, "methods of one run are measured together"
    made.clear()
    run_arms(arms, turned(settings, {"decoding.temperature": 0.4}), kept, QUIET)
    assert len(made) == 1


def test_seeds_accumulate_and_are_the_unit(ground: Path, studies: Path) -> None:
    command = ["study", "soups", "--on", str(ground), "--to", str(studies)]
    assert main([*command, "--seeds", "1"]) == 0
    assert main([*command, "--seeds", "1,2", "--jobs", "2"]) == 0
    page = (studies / "run" / "soups" / "results.md").read_text()
    assert "3 seeds, 95 % t intervals" in page and "--seeds 0,1,2" in page


def test_arms_that_are_named_are_all_that_is_made_and_corrected_for(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[list[str]] = []

    def fronts(arms: Sequence[Arm], settings: dict[str, Any], *_: Any) -> dict[str, Front]:
        made.append([arm.label for arm in arms])
        noise = np.random.default_rng(settings["seed"])
        return {arm.label: Front(noise.normal(size=(3, 40, 2)), np.ones(3)) for arm in arms}

    monkeypatch.setattr(fronts_module, "run_arms", fronts)
    monkeypatch.setattr(fronts_module, "_picture", lambda *_: b"")
    command = ["study", "methods", "--on", str(ground), "--to", str(tmp_path)]
    results = tmp_path / "run" / "methods" / "results.md"
    assert main([*command, "--seeds", "1,2", "--arms", "sipo, soups,mod"]) == 0
    assert made == [["soups", "mod", "sipo"]] * 2
    page = results.read_text()
    assert "--arms sipo,soups,mod" in page and "corrected over the 3 statements" in page and "| lw |" not in page
    assert [line.split(" | ")[1] for line in page.splitlines() if line.startswith("| the paper")] == [
        "mod is above soups", "sipo is above mod", "sipo is above soups",
    ]  # fmt: skip
    assert main([*command, "--seeds", "5,6", "--arms", "mod,soups,sipo"]) == 0
    assert "4 seeds" in results.read_text(), "in whatever order"
    capsys.readouterr()
    assert main([*command, "--seeds", "1,7", "--arms", "mod,sipo"]) == 0
    assert "seeds 2,5,6 are of other settings, data or arms" in capsys.readouterr().out
    assert "2 seeds" in results.read_text() and "over the 1 statement here" in results.read_text()
    assert main([*command, "--seeds", "1", "--arms", "mod,mop"]) == 2
    assert "`mop` is no arm of `methods` here; they are base, prompting, soups" in capsys.readouterr().err


def seeds(*differences: float, hypervolume: float = 1.0, range: float = 2.0) -> list[dict[str, Any]]:
    """Measured seeds in which a is above b by these amounts, and by so many times as much in hypervolume."""
    draws = np.random.default_rng(0).normal(size=200) * 0.1

    def arm(value: float, place: float) -> dict[str, Any]:
        measures = {"utility": value, "hypervolume": hypervolume * value}
        points = [[value + range + place, value], [value, value + range - place]]
        return {**measures, "draws": {k: (v + draws).tolist() for k, v in measures.items()}, "points": points}

    about = {
        "objectives": [{"name": name, "direction": "maximize"} for name in "xy"],
        "weights": [{"x": 1.0, "y": 0.0}, {"x": 0.0, "y": 1.0}],
        "prompts": 60,
        "claims": [
            {"utility": asdict(Difference(differences[0], 0.14, 59)), "still": ["x"] * (range <= 0), "rare": []}
        ],
    }
    return [
        {**about, "arms": {"a": arm(1 + each, i / 100), "b": arm(1.0, i / 50)}} for i, each in enumerate(differences)
    ]


def finding(claim: Claim, measured: list[dict[str, Any]]) -> Finding:
    (found,) = findings_of([claim], measured)
    return found


@pytest.mark.parametrize(
    ("differences", "none", "outcome"),
    [
        ((1.0, 1.1, 0.9), False, "holds"),
        ((-1.0, -1.1, -0.9), False, "the reverse holds"),
        ((1.0, -1.0, 0.1), False, "not shown"),
        ((1.0, 1.1, 0.9), True, "the reverse holds"),
        ((1.0, -1.0, 0.1), True, "is not contradicted"),
        ((0.5,), False, "holds"),
        ((0.0,), False, "not shown"),
    ],
)
def test_a_verdict_follows_from_the_difference(differences: tuple, none: bool, outcome: str) -> None:
    assert finding(Claim("a", "b", none=none), seeds(*differences)).outcome == outcome


def test_what_seeds_share_is_no_doubt_about_a_difference() -> None:
    measured = seeds(1.0, 1.1, 0.9, 1.0)
    for luck, seed in zip((5.0, -3.0, 9.0, -7.0), measured, strict=True):
        for arm in seed["arms"].values():
            arm["utility"] += luck
    assert finding(Claim("a", "b"), measured).outcome == "holds"
    assert over_seeds([seed["arms"]["a"]["utility"] for seed in measured])[1] < 0


def test_what_a_study_states_is_one_family() -> None:
    """A difference that stands alone does not stand among thirteen."""
    measured = seeds(1.0, 1.3, 0.7)
    assert finding(Claim("a", "b"), measured).outcome == "holds"
    among = findings_of([Claim("a", "b"), *[Claim("b", "b")] * 12], measured)[0]
    assert among.outcome == "not shown" and among.because == "it does not stand among 13 comparisons at once"


def test_few_prompts_or_an_objective_that_stands_still_allow_no_verdict() -> None:
    few = seeds(1.0)
    few[0]["prompts"] = 29
    assert finding(Claim("a", "b"), few).because == "29 prompts are fewer than 30"
    for differences in ((1.0,), (1.0, 1.1, 0.9)):
        assert finding(Claim("a", "b"), seeds(*differences)).outcome == "holds"
    still = finding(Claim("a", "b"), seeds(1.0, range=0.0))
    assert still.outcome == "not shown" and "nothing moves x" in still.because
    several = seeds(1.0, 1.1, 0.9)
    for seed in several:
        for arm in seed["arms"].values():
            arm["points"] = [[each, 3.0] for each, _ in arm["points"]]
    assert "nothing moves y" in finding(Claim("a", "b"), several).because


@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=9))
def test_the_interval_of_one_seed_is_of_its_draws_and_of_several_student_s(values: list[float]) -> None:
    assert over_seeds([1.0], values) == (1.0, *percentile_interval(np.array(values)))
    assert over_seeds([1.0]) == (1.0, 1.0, 1.0)
    assert over_seeds(values, [0.0]) == t_interval(values)
    by_row = [np.array(values), np.array(values) + 1]
    mean, low, high = mean_over_seeds(by_row)
    assert (mean, low, high) == t_interval([float(each.mean()) for each in by_row])
    mean, low, high = mean_over_seeds(by_row[:1])
    assert mean == pytest.approx(np.mean(values)) and min(values) <= low <= high <= max(values)


def test_measures_that_contradict_each_other_are_said_to() -> None:
    found = finding(Claim("a", "b"), seeds(1.0, 1.1, 0.9, hypervolume=-1.0))
    assert found.outcome == "depends on the measure" and found.because == "hypervolume says the opposite"
    assert finding(Claim("a", "b", none=True), seeds(1.0, 1.1, 0.9, hypervolume=-1.0)).outcome == found.outcome


def test_one_seed_is_tested_as_a_run_is(make_settings: Any, tmp_path: Path) -> None:
    """The same difference, p-value and reasons as in the report of a run, over the prompts."""
    config = parse_config(make_settings(tmp_path), "x")
    weights, generator = np.array(grid(config.weights, config.names)), np.random.default_rng(0)
    worse = generator.normal(size=(len(weights), 60, len(config.names))) * generator.exponential(size=(1, 60, 1))
    for lift in (0.0, 3.0):
        better = worse + lift * weights[:, None] + 0.1 * generator.exponential(size=worse.shape)
        reported = compare({"b": worse, "a": better}, weights, dict(zip(config.names, config.maximise, strict=True)))
        found, each = within_seed(better, worse, config), reported["differences"]["a - b"]
        assert Difference(**found["utility"]).p == pytest.approx(each["p"])
        assert (found["utility"]["value"], found["still"]) == (pytest.approx(each["utility"]), each["still"])


def test_a_seed_in_which_nothing_was_chosen_is_refused(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "run", lambda *_, **__: tmp_path)
    monkeypatch.setattr(Outputs, "read", lambda *_: [])
    with pytest.raises(SipoError, match="seed 7: of the 0 rows that the filter chose a response for none has a label"):
        STUDIES["responses"].measure(find_ground(str(ground), tmp_path), 7, tmp_path, QUIET)


def test_the_verdict_is_one_line_that_counts() -> None:
    holds, fails = (Finding("x", "1", outcome) for outcome in ("holds", "the reverse holds"))
    verdict = Conclusion([], [holds, holds, fails]).verdict
    assert verdict == "Of 3 statements of the paper: 2 hold, 1 are reversed."


def test_tables_are_markdown() -> None:
    assert markdown(Table("t", ["a", "b"], [["x", 0.12345]])) == "| a | b |\n| --- | --- |\n| x | 0.123 |"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "nothing"], "`nothing` is no study; they are conflicts, methods"),
        (["study", "soups", "--on", "testbed:Q"], "the testbed has no environment `Q`, but"),
        (["study", "soups", "--arms", " ,"], "--arms ,: name at least one arm"),
        (["study", "responses", "--arms", "mod"], "`responses` compares no fronts"),
        (["study", "soups", "--on", "missing.yaml"], "missing.yaml: no such file"),
        (["study", "soups", "--seeds", "many"], "--seeds many: give a number of seeds"),
    ],
)
def test_what_cannot_be_studied_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir()) or os.listdir(tmp_path) == []


def test_no_seed_is_refused(ground: Path, studies: Path) -> None:
    with pytest.raises(SipoError, match="at least one"):
        run_study(STUDIES["soups"], find_ground(str(ground), studies), [], QUIET)


@pytest.mark.parametrize(
    "base", ["calibrated", {"rule": "calibrated", "keep": 0.5, "ridge": 2.0}, {}, {"judges": ["soups"]}]
)
@pytest.mark.parametrize("changes", [*RULES.values(), WITHOUT_FILTER])
def test_an_arm_with_a_rule_of_its_own_leaves_the_keys_of_the_other_out(
    base: Any, changes: dict[str, Any], settings: dict
) -> None:
    found = parse_config(turned({**settings, "filter": base}, changes), "x").filter.model_dump(mode="json")
    assert {f"filter.{key}": found[key] for key in found if f"filter.{key}" in changes} == changes
    for key, value in base.items() if isinstance(base, dict) else ():
        assert f"filter.{key}" in changes or found.get(key, value) == value, "what both rules read stays"
