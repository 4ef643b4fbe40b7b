"""A run that measured one weight speaks of no others, on its page and on the terminal."""

import json
import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from sipo.cli.main import main


@pytest.fixture(scope="module")
def told(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    settings = make_settings(folder) | {
        "methods": ["base", "mod"],
        "weights": {"grid": [{"detail": 0.5, "brevity": 0.5}]},
    }
    settings["align"] |= {"epochs": 1}
    settings["evaluate"] |= {"prompts": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml"


def test_one_weight_is_no_average_and_no_choice(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(told)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("  loading torch and transformers ...\n  reading ") and "test; 1 weight\n" in said
    assert f"  loading {yaml.safe_load(told.read_text())['model']['path']} ...\n" in said
    assert not [line for line in said.splitlines() if line.startswith("choose")], "there is nothing to choose"
    folder = told.parent / "run"
    page = unescape((folder / "report" / "report.html").read_text())
    text = " ".join(re.sub(r"(?s)<(style|script|template).*?</\1>|<[^>]+>", " ", page).split())
    for plural in (
        "over the weights",
        "every weight",
        "choose another",
        "1 weights",
        "1 prompts",
        "1 held-out prompts",
    ):
        assert plural not in text, plural
    assert "at the one weight" in text and "1 held-out prompt " in text and "\N{MINUS SIGN}0.000" not in text
    linked = re.findall('<a href="#(\\w+)">', page[: page.index("</nav>")])
    assert linked == re.findall('<section id="(\\w+)">', page), "the page leads to all that it has"
    assert main(["choose", str(folder), "--maximise", "detail", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == {"detail": 0.5, "brevity": 0.5}


def test_a_configuration_that_is_looked_at_says_what_is_under_way(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(told)]) == 0
    lines = capsys.readouterr().out.splitlines()
    begun = [line for line in lines if line.endswith(" ...")]
    assert lines[: len(begun)] == begun and len(begun) == 6 and begun[-1] == "  encoding 40 rows ..."
    assert shlex.split(lines[-1].partition("`")[2].partition("`")[0])[1] == "run"
    assert main(["check", str(told), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["test"] == 5, "and nothing but JSON where that is asked for"
