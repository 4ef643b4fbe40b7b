"""A run's numbers in TensorBoard and trackio, without a network."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sipo import trackers
from sipo.config.file import parse_config
from sipo.errors import SipoError
from sipo.runs.pipeline import run
from sipo.trackers import Trackers


class Failing:
    def log(self, values: dict[str, Any], step: int) -> None:
        raise ConnectionError("the page\nis gone")

    finish = log


def test_tensorboard_has_every_number_that_metrics_has(settings: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard", reason="the extra `trackers` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings["methods"] = ["base", "soups"]
    path = run(parse_config({**settings, "execution": {**settings["execution"], "report_to": ["tensorboard"]}}, "here"))
    told = EventAccumulator(str(path / "tensorboard")).Reload()
    first, *_ = names = settings["objectives"][0]["name"], settings["objectives"][1]["name"]
    assert {f"align/{name}/loss" for name in names} <= set(told.Tags()["scalars"])
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    losses = [each["loss"] for each in records if each.get("objective") == first and "loss" in each]
    assert [each.value for each in told.Scalars(f"align/{first}/loss")] == pytest.approx(losses)
    places = [at for at, each in enumerate(records) if each.get("objective") == first and "loss" in each]
    assert [each.step for each in told.Scalars(f"align/{first}/loss")] == places


TRACKIO = """
import sys
from pathlib import Path
from sipo.trackers import Trackers
trackers = Trackers(["trackio"], Path("here/mine"), {"seed": 3})
trackers.log({"time": 1.0, "stage": "align", "objective": "helpful", "step": 1, "loss": 0.5}, 7)
trackers.finish()
"""


def test_trackio_keeps_them_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the extra `trackers` is not installed")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", TRACKIO], check=True, env=environment, capture_output=True, timeout=120)
    (file,) = tmp_path.glob("sipo*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("mine", 7)]
    assert json.loads(rows[0][2]) == {"align/helpful/loss": 0.5}


def test_a_tracker_that_fails_ends_no_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_begin", lambda *_: Failing())
    told = Trackers(["wandb"], Path("mine"), {})
    told.log({"loss": 0.5}, 0)
    told.log({"loss": 0.5}, 1)
    told.finish()
    assert capsys.readouterr().err.count("wandb takes no more numbers (the page is gone); metrics.jsonl has") == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_one_that_is_not_installed_is_named_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SipoError, match=f"execution.report_to: no module named `{name}`; pip install {name}"):
        Trackers([name], Path("mine"), {})
