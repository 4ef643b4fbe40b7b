"""What is judged is what is trained on: the text of a row, cut where the run cuts it, wherever a reward sees it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import unpacked

from sipo.check import check
from sipo.config.file import parse_config
from sipo.data import read_rows
from sipo.runs.pipeline import run
from sipo.studies.filters import _truly_better
from sipo.studies.ground import Ground
from sipo.studies.responses import ResponseStudy
from sipo.task import Task

LONG = " the sun is warm and the soil is dark" * 3


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that a reward is shown; the rewards are those of `settings` by the module `watching`."""
    texts: list[str] = []

    def new(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Whatever the model writes is better than what was given, which begins with a number."""
        texts.extend(responses)
        return [float(not response[:1].isdigit()) for response in responses]

    module = ModuleType("watching")
    module.new = new  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "watching", module)
    return texts


@pytest.fixture
def long_settings(settings: dict[str, Any], seen: list[str]) -> dict[str, Any]:
    """A run whose responses are all longer than it reads: they begin apart, and go on with what it never sees."""
    path = Path(settings["data"]["path"])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for at, record in enumerate(records):
        for name in ("response_0", "response_1"):
            record[name] = f"{at} {record[name]}{LONG} UNSEEN"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for objective in settings["objectives"]:
        objective.update(reward="watching:new", direction="maximize")
    settings["filter"] = {"rule": "rewards"}
    settings["sample"] = {"prompts": 4, "per_weight": 1}
    settings["refine"] = {"enabled": False}
    settings["align"]["epochs"] = 1
    settings["evaluate"] = {"prompts": 2, "bootstrap": 10}
    settings["execution"]["checkpoint_seconds"] = 1000
    return settings


def test_every_reward_sees_what_is_trained_on(long_settings: dict[str, Any], seen: list[str]) -> None:
    config = parse_config(long_settings, "settings")
    folder = run(config, until="filter", quiet=True)
    task = Task(config)
    limit = config.data.max_response_tokens
    given = {text for row in task.rows for text in task.texts(row)}
    assert all(len(task.codec.encode_text(text)) <= limit for text in given)
    assert given & set(seen)  # the filter has judged originals
    assert "UNSEEN" in task.rows[0].responses[0] and not any("UNSEEN" in text for text in (*seen, *given))

    seen.clear()
    row = task.splits.train[0]
    _truly_better(task, [(row.id, "sun")])
    assert set(seen) == {*task.texts(row), "sun"}

    seen.clear()
    run(config, quiet=True)
    assert given & set(seen) and not any("UNSEEN" in text for text in seen)
    page = (folder / "report" / "report.html").read_text()
    texts = json.dumps(unpacked(page))
    assert "UNSEEN" not in page + texts and any(json.dumps(text)[1:-1] in texts for text in given)


def test_the_study_of_responses_judges_the_same_texts(
    long_settings: dict[str, Any], seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sipo.progress import Progress

    monkeypatch.setattr(Ground, "settings", lambda *_: long_settings, raising=False)
    ground = Ground.__new__(Ground)
    ResponseStudy().measure(ground, 0, tmp_path, Progress(quiet=True))
    assert seen and not any("UNSEEN" in text for text in seen)


def test_check_says_how_many_are_cut_and_what_follows(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(settings["data"]["path"])
    rows = read_rows(path)
    check(parse_config(settings, "settings"))
    assert "cut: " not in capsys.readouterr().out
    records = [row.as_record() for row in rows]
    for record in records[:3]:
        record["response_0"] = f"{LONG} one"
        record["response_1"] = f"{LONG} two"
        record["split"] = "train"
    records[3].update(response_1=f"so {LONG}", split="test")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    check(parse_config(settings, "settings"))
    said = " ".join(capsys.readouterr().out.split())
    assert "cut: 6 of" in said and "in train, 1 of" in said and "in test. The labels were given to the whole" in said
    assert "3 rows are left with the same text twice" in said
    longest = int(said.split("data.max_response_tokens: ")[1].split()[0])
    settings["data"]["max_response_tokens"] = longest
    check(parse_config(settings, "settings"))
    assert "cut: " not in capsys.readouterr().out
    settings["data"]["max_response_tokens"] = longest - 1
    check(parse_config(settings, "settings"))
    assert "cut: " in capsys.readouterr().out
