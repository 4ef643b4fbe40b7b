"""The report of a small run made by hand: no model is asked."""

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from sipo.config import Config
from sipo.records import Candidate, Refinement, Response, Sample
from sipo.report.parts import MINUS, NOTHING, Measured, Table, number
from sipo.report.verdict import verdict
from sipo.runs.plan import stages_of
from sipo.runs.tables import write_json, write_records
from sipo.stages.filter import CHOSEN, judging_points
from sipo.stages.report import report
from sipo.stages.sample import conflicting_rows, named
from sipo.task import Task
from sipo.weights import is_corner

HOSTILE = '<script>alert(1)</script><img src="https://example.org/x.png" onerror="alert(2)">'
TONE = {"name": "tone", "better": "It is kinder.", "reward": "sipo.rewards.text:words"}
Differences = dict[str, tuple[float, float, float]]
LEVEL: Differences = {"base": (0.1, -0.1, 0.3), "soups": (0.1, -0.1, 0.3), "mod": (0.1, -0.1, 0.3)}


def fronts_of(task: Task, differences: Differences) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for k, method in enumerate(task.config.evaluate.methods):
        points = [
            {
                "weights": None if method == "base" else named(task, weight),
                "rewards": {name: k + share for name, share in named(task, weight).items()},
                "interval": {name: [k + share - 0.2, k + share + 0.3] for name, share in named(task, weight).items()},
                "length": 10.0,
            }
            for weight in (task.weights[:1] if method == "base" else task.weights)
        ]
        methods[method] = {"points": points, "hypervolume": k + 0.5, "hypervolume_interval": [k + 0.1, k + 0.9]}
    return {
        "objectives": [{"name": o.name, "direction": o.direction} for o in task.config.objectives],
        "reference_point": dict.fromkeys(task.objectives, -1.0),
        "prompts": 8,
        "methods": methods,
        "differences": {
            f"sipo - {other}": {"hypervolume": value, "hypervolume_interval": [low, high]}
            for other, (value, low, high) in differences.items()
            if "sipo" in methods
        },
    }


def drafts_of(task: Task) -> tuple[list[Sample], list[Refinement], list[Candidate]]:
    """A sample and a rewrite for every row and weight; every second row has a chosen rewrite."""
    samples, refinements, candidates = [], [], []
    inner = [named(task, weight) for weight in task.weights if not is_corner(weight)]
    for i, row in enumerate(conflicting_rows(task)):
        for j, weights in enumerate(inner):
            about = (row.key, weights, 0)
            samples.append(Sample(*about, f"sample {i} {HOSTILE}", [1, 2], finished=i % 2 == 0))
            gains = dict.fromkeys(task.objectives, 0.1)
            refinements.append(
                Refinement(*about, samples[-1].response, f"review {i}", f"rewrite {i}", [3], True, gains, "rewrite")
            )
            fate = CHOSEN if i % 2 == 0 and j == 0 else "no better than response_1 for policy:detail"
            scores = dict.fromkeys(judging_points(task), 0.5)
            originals = {judge: [0.1, 0.2] for judge in scores}
            reasons = [] if fate == CHOSEN else [fate]
            candidates.append(
                Candidate(
                    row.id,
                    row.key,
                    "rewrite",
                    weights,
                    0,
                    f"rewrite {i}",
                    [3],
                    1,
                    scores,
                    originals,
                    0.5,
                    fate,
                    reasons,
                )
            )
    return samples, refinements, candidates


def write_run(task: Task, differences: Differences = LEVEL) -> Path:
    run = task.config.run_dir
    for stage in stages_of(task.config):
        write_json(run / stage.name / "stage.json", {"fingerprint": "f", "seconds": 1.5, "peak_memory_gib": 0.25})
    steps = [
        {"objective": name, "step": i, "epoch": 1, "loss": 0.7 - 0.01 * i, "accuracy": 0.5, "nll": 0.0}
        for name in task.objectives
        for i in range(1, 31)
    ]
    steps[-1]["validation_loss"] = 0.6
    write_records(run / "align" / "training.jsonl", steps)
    if "sipo" in task.config.evaluate.methods:
        samples, refinements, candidates = drafts_of(task)
        write_records(run / "sample" / "samples.jsonl", samples)
        write_records(run / "refine" / "refinements.jsonl", refinements)
        write_records(run / "filter" / "candidates.jsonl", candidates)
        write_records(run / "realign" / "training.jsonl", steps[:1])
    responses = [
        Response(
            method, point["weights"], f"key{k}", f"asked {k} {HOSTILE}", 0, f"{method} says {HOSTILE}", 9, k > 0,
            point["rewards"],
        )
        for method, front in fronts_of(task, differences)["methods"].items()
        for point in front["points"]
        for k in range(3)
    ]  # fmt: skip
    write_records(run / "evaluate" / "responses.jsonl", responses)
    write_json(run / "evaluate" / "fronts.json", fronts_of(task, differences))
    return run


def page_of(settings: dict[str, Any], folder: Path) -> str:
    """The page of the run that the settings describe, written into an empty folder."""
    task = Task(Config(**settings))
    folder.mkdir()
    path = report(write_run(task), task, folder)
    assert path == folder / "report.html"
    assert "backbone" not in vars(task)
    assert "bank" not in vars(task)
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes; tags that are left open are counted."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_holds_every_case_those_with_a_chosen_response_first(settings: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(settings, tmp_path / "report")
    task = Task(Config(**settings))
    ids = re.findall(r'id="case-(\w+)"( data-chosen)?', page)
    assert {row for row, _ in ids} == {row.id for row in conflicting_rows(task)}
    marks = [bool(mark) for _, mark in ids]
    assert marks == sorted(marks, reverse=True)
    assert {True, False} == set(marks)
    assert "cut by the length limit" in page


def test_shows_no_more_cases_than_asked(settings: dict[str, Any], tmp_path: Path) -> None:
    page = page_of({**settings, "report": {"cases": 2, "title": HOSTILE}}, tmp_path / "report")
    assert len(re.findall(r'id="case-', page)) == 2
    assert "<title>&lt;script&gt;" in page


def test_other_peoples_text_is_escaped_and_nothing_is_loaded(settings: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(settings, tmp_path / "report")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    elements = Elements(page)
    assert elements.open == []
    names = [name for name, _ in elements.found]
    assert names.count("script") == 1
    assert "link" not in names
    assert "iframe" not in names
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    outside = re.sub(re.escape("https://example.org/x.png"), "", page)  # as text only
    assert "http://" not in outside
    assert "https://" not in outside
    assert "url(" not in outside


VERDICTS = ("above", "below", "no difference beyond the error bars")


@pytest.mark.parametrize(
    ("interval", "word", "numbers"),
    [
        ((0.2, 0.1, 0.3), "above", "(difference 0.200, 95 % interval 0.100 to 0.300)"),
        ((-0.2, -0.3, -0.1), "below", "(difference -0.200, 95 % interval -0.300 to -0.100)"),
        ((0.2, -0.1, 0.5), VERDICTS[2], "(difference 0.200, 95 % interval -0.100 to 0.500)"),
        ((-0.2, -0.5, 0.0), VERDICTS[2], "(difference -0.200"),
        ((0.2, 0.0, 0.5), VERDICTS[2], "(difference 0.200"),
        ((float("nan"),) * 3, VERDICTS[2], "(difference nan"),
    ],
)
def test_verdict_says_what_the_interval_says(
    settings: dict[str, Any], interval: tuple[float, float, float], word: str, numbers: str
) -> None:
    text = verdict(fronts_of(Task(Config(**settings)), {"mod": interval})).replace(MINUS, "-")
    assert [each for each in VERDICTS if each in text] == [word]
    assert numbers in text


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("methods", [["base"], ["base", "mod"], ["mod", "sipo"], ["base", "soups", "mod", "sipo"]])
def test_any_number_of_objectives_and_any_methods(
    settings: dict[str, Any], tmp_path: Path, objectives: int, methods: list[str]
) -> None:
    settings["objectives"] = [*settings["objectives"], TONE][:objectives]
    settings["evaluate"] = {**settings["evaluate"], "methods": methods}
    page = page_of(settings, tmp_path / "report")
    sections = re.findall(r'<section id="(\w+)"', page)
    sipo = ["yield", "rewards", "training", "cases"] if "sipo" in methods else ["training"]
    assert sections == ["verdict", "run", "front", "data", *sipo, "answers"]
    assert re.findall(r'href="#(\w+)"', page) == sections
    for name in ("front.png", "training.png"):
        picture = matplotlib.image.imread(BytesIO((tmp_path / "report" / name).read_bytes()), format="png")
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 0.01


def test_folders_of_a_run_that_had_sipo_are_left_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    page_of(settings, tmp_path / "before")
    settings["evaluate"] = {**settings["evaluate"], "methods": ["base", "mod"]}
    assert "case-" not in page_of(settings, tmp_path / "after")


def test_objectives_without_a_reward_have_no_true_rewards(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["objectives"] = [{k: v for k, v in each.items() if k != "reward"} for each in settings["objectives"]]
    page = page_of(settings, tmp_path / "report")
    assert '<section id="cases"' in page
    assert '<section id="rewards"' not in page


def test_stage_costs_carry_the_time_of_the_output_that_holds(settings: dict[str, Any], tmp_path: Path) -> None:
    run = Path(settings["run_dir"])
    run.mkdir()
    cost = {"stage": "align", "peak_memory_gib": 0.25}
    records = [{"time": 0, "seconds": 1.5, **cost}, {"time": 86400, "seconds": 9.0, **cost}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records) + '{"torn')
    page = page_of(settings, tmp_path / "report")
    assert "1970-01-01" in page
    assert "1970-01-02" not in page


def test_numbers_read_alike_down_a_column() -> None:
    table = Table(["name", "value"], [["a", 12.3456], ["b", Measured(-1.0, -2.0, 0.5)], ["c", None]])
    assert table.texts() == [["a", "12.35"], ["b", f"{MINUS}1.00 [{MINUS}2.00, 0.50]"], ["c", NOTHING]]
    assert [number(value) for value in (0.0, 0.00012, 4321.5, -7)] == ["0", f"1.20e{MINUS}04", "4,322", f"{MINUS}7"]
