"""What the page stands on: its files, what it is told of a run, what an answer is worth, and the command."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

import sipo
import sipo.cli.play as command
from sipo.cli.main import main
from sipo.finished.handle import FinishedRun
from sipo.play.page import HEADERS, page_files
from sipo.play.routes import pages
from sipo.serve import app
from sipo.serve.keys import Keys
from sipo.serve.naming import Served
from sipo.serve.service import Limits, Service

Start = Callable[..., Any]
PROMPT = "tell me"


def test_the_page_is_there_for_all_and_loads_nothing_from_elsewhere(serving: Start) -> None:
    url = serving("secret").url
    page = httpx.get(f"{url}/")
    assert page.status_code == 200 and page.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    named = set(re.findall(r'(?:href|src)="([^"]+)"', page.text))
    for file in page_files().values():
        text = file.content.decode()
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text and "eval(" not in text and text.count("\n") < 250
        named |= {f"play/{each}" for each in re.findall(r'from "\./([^"]+)"', text)}
    assert {"play/main.js", "play/play.css", "play/page.css", "play/triangle.js"} <= named
    for name in named:
        assert httpx.get(f"{url}/{name}").headers["X-Content-Type-Options"] == "nosniff", name
    assert httpx.get(f"{url}/play/..%2Froutes.py").status_code == 404


def test_the_rest_is_for_those_with_a_key(serving: Start) -> None:
    url = serving("secret").url
    body = {"prompt": PROMPT, "response": "x", "ended": True}
    for key, status in ((None, 401), ("wrong", 401), ("secret", 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert httpx.get(f"{url}/sipo/run", headers=headers).status_code == status
        assert httpx.post(f"{url}/sipo/worth", headers=headers, json=body).status_code == status


def test_it_is_told_what_the_run_is(serving: Start, opened: FinishedRun) -> None:
    told = httpx.get(f"{serving().url}/sipo/run").json()
    assert [each["name"] for each in told["objectives"]] == list(opened.objectives)
    assert [each["direction"] for each in told["objectives"]] == ["maximize", "minimize"]
    assert [each["name"] for each in told["methods"]] == list(opened.methods)
    assert {each["name"]: each["steered"] for each in told["methods"]}.items() >= {"mod": True, "base": False}.items()
    fronts: Any = opened.fronts
    for method, points in told["front"]["methods"].items():
        assert [each["rewards"] for each in points] == [each["rewards"] for each in fronts["methods"][method]["points"]]
    assert not any(each["trained"] for each in told["methods"]) and told["remarks"] == [] and told["runs"] == ["tiny"]
    assert told["usual"] == "mod" and told["tokens"]["usual"] == 12
    assert told["prompt"] in {row.text for row in opened.task.splits.test}


def test_each_of_several_runs_has_its_page(served_run: Path) -> None:
    two = [Served.of(name, sipo.open(served_run)) for name in ("one", "other")]
    service = Service(two, Limits(8))
    application = app.application(service, Keys(), pages=pages(service, Keys()))
    with TestClient(application) as client:
        assert client.get("/sipo/run").json()["run"] == "one"
        told = client.get("/sipo/run", params={"name": "other"}).json()
        assert told["run"] == "other" and told["runs"] == ["one", "other"]
        refused = client.get("/sipo/run", params={"name": "third"})
        assert refused.status_code == 404 and "one, other" in refused.json()["error"]["message"]


def test_an_answer_is_worth_what_policies_and_functions_say(serving: Start, opened: FinishedRun) -> None:
    text, names = "the sun is warm and the water", opened.objectives
    body, url = {"prompt": PROMPT, "response": text, "ended": True}, f"{serving().url}/sipo/worth"
    found = httpx.post(url, json=body).json()
    assert found["rewards"] == dict.fromkeys(names, 7.0)
    of_base = opened.at(method="base").logprobs(PROMPT, text)
    for name in names:
        expected = opened.at(method=f"policy:{name}").logprobs(PROMPT, text) - of_base
        assert found["implicit"][name] == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-2
    cut = httpx.post(url, json={**body, "ended": False}).json()
    assert all(abs(cut["implicit"][name] - found["implicit"][name]) > 1e-4 for name in names), "its end counts no more"
    empty = httpx.post(url, json={**body, "response": "", "ended": False}).json()
    assert empty["implicit"] == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "", "response": "x", "ended": True}, "prompt"),
        ({"prompt": "x", "response": "x"}, "`ended` is missing"),
        ({"prompt": "x", "response": "y " * 3000, "ended": True}, "context"),
        ({"prompt": "x " * 3000, "response": "y", "ended": True}, "tokens"),
        ({"prompt": "x", "response": "y", "ended": True, "more": 1}, "`more` is not supported"),
    ],
)
def test_what_has_no_worth_is_refused_in_words(serving: Start, body: dict[str, Any], said: str) -> None:
    server = serving()
    refused = httpx.post(f"{server.url}/sipo/worth", json=body)
    assert refused.status_code == 400 and said in refused.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_answers_are_scored_while_others_are_written(serving: Start, opened: FinishedRun) -> None:
    """Policies that are mounted for it disturb nobody in the batch."""
    server = serving()
    asked = {
        "model": "tiny/base",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 150,
        "temperature": 0,
    }
    expected = opened.at(method="base").generate(PROMPT, temperature=0, max_new_tokens=150)
    body = {"prompt": PROMPT, "response": "the sun", "ended": True}
    alone = httpx.post(f"{server.url}/sipo/worth", json=body).json()
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**asked, "stream": True}, timeout=60
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        for _ in range(3):
            assert httpx.post(f"{server.url}/sipo/worth", json=body).json() == {
                "rewards": alone["rewards"],
                "implicit": pytest.approx(alone["implicit"], abs=1e-4),
            }
        list(lines)
    again = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60).json()
    assert again["choices"][0]["message"]["content"] == expected


def test_a_browser_is_opened_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = list[str]()
    monkeypatch.setattr(command.webbrowser, "open", lambda page: not opened.append(page))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not command.open_browser("here") and not opened
    monkeypatch.setenv("DISPLAY", ":0")
    assert command.open_browser("here") and opened == ["here"]


def test_what_cannot_be_played_with_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(tmp_path), "--no-browser"]) == 2
    told = capsys.readouterr()
    assert "holds no run" in told.err and told.err.count("\n") == 1 and not told.out
