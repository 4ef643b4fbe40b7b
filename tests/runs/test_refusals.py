"""What a judge refuses is without a score from one end of a run to the other, and no number stands in for it."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import Answer, Server, by_length, server

from sipo.config.file import parse_config
from sipo.filters.contest import CHOSEN, Contender, Contest
from sipo.filters.rewards import decide_by_rewards
from sipo.labelling import Drawing, label
from sipo.progress import Progress
from sipo.records import Response, comparable
from sipo.rewards.objective import Objective
from sipo.runs.pipeline import run
from sipo.settings import Decoding, Execution, Model
from sipo.studies.arms import Front, _on_the_same_prompts

__all__ = ["server"]

UNSPOKEN = ("3", "4", "7")
"""How the prompts end that the judge will not hear of."""


def prudish(request: dict[str, Any], before: int) -> Answer:
    asked = json.loads(request["messages"][1]["content"])["conversation"][-1]["content"]
    refused: Answer = (400, {"error": {"code": "content_filter", "message": "against our content policy"}})
    return refused if asked.endswith(UNSPOKEN) else by_length(request, before)


def judged(server: Server) -> dict[str, Any]:
    return {"judge": server.url, "model": "tiny", "highest": 1000, "lowest": 0}


def strictly(text: str) -> Any:
    """JSON as all readers know it: without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a file"))


def test_a_run_goes_on_without_what_its_judge_refuses(
    server: Server, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = prudish
    settings["objectives"][0] = {"name": "long", "better": "It is longer.", "reward": judged(server)}
    settings["objectives"][1] = {"name": "brevity", "better": "b", "reward": "sipo.rewards.text:distinct_words"}
    rows = Path(settings["data"]["path"])
    rows.write_text(rows.read_text().replace('"detail"', '"long"'))
    config = parse_config({**settings, "methods": ["base", "mod", "sipo"], "filter": {"rule": "rewards"}}, "test")
    folder = run(config)
    told = capsys.readouterr().out
    assert "against our content policy" in told and "they have no score" in told

    fronts = strictly((folder / "compare" / "fronts.json").read_text())
    texts = [(folder / "judged" / name / "responses.jsonl").read_text() for name in ("base", "mod", "sipo")]
    responses = [strictly(line) for text in texts for line in text.splitlines()]
    refused = [each for each in responses if each["text"].endswith(UNSPOKEN)]
    assert refused and all(each["rewards"]["long"] is None for each in refused)
    assert all(None not in each["rewards"].values() for each in responses if each not in refused)
    assert fronts["left_out"] == len({each["prompt"] for each in refused}) and fronts["refused"] == len(refused)
    assert fronts["prompts"] + fronts["left_out"] == len({each["prompt"] for each in responses})
    base = fronts["methods"]["base"]["points"][0]["rewards"]["long"]
    scored = [each["rewards"]["long"] for each in responses if each["method"] == "base" and each not in refused]
    assert base == pytest.approx(np.mean(scored)) or len(fronts["methods"]["base"]["points"]) > 1

    candidates = [strictly(line) for line in (folder / "filter" / "candidates.jsonl").read_text().splitlines()]
    unknown = [each for each in candidates if each["rewards"]["long"] is None]
    assert unknown and all("a judge refused" in each["fate"] and each["estimate"] is None for each in unknown)
    assert any(each["fate"] == CHOSEN for each in candidates)
    page = (folder / "report" / "report.html").read_text()
    told = f"{fronts['left_out']} of {fronts['left_out'] + fronts['prompts']} held-out prompts"
    assert f"{told} {'is' if fronts['left_out'] == 1 else 'are'} left out" in page
    assert ">nan<" not in page.lower()

    asked = server.seen()
    run(config, start="report")
    assert server.seen() - asked == Counter(["Blue."]), "a refusal is kept as a score is"


def test_a_label_that_was_refused_is_null(server: Server, model_folder: Path, tmp_path: Path) -> None:
    server.behave = prudish
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"tell me about the sun {i}"}) + "\n" for i in range(8)))
    rows = label(
        prompts,
        Model(path=str(model_folder), dtype="float32"),
        [
            Objective(name="long", better="It is longer.", reward=judged(server)),
            Objective(name="words", better="It has more words.", reward="sipo.rewards.text:words"),
        ],
        tmp_path / "rows.jsonl",
        Drawing(Decoding(temperature=1.0), 12),
        execution=Execution(device="cpu"),
        progress=Progress(quiet=True),
    )
    refused = [row for row in rows if row.text.endswith(UNSPOKEN)]
    assert refused and all(row.preferred["long"] is None for row in refused)
    assert any(row.preferred["long"] is not None for row in rows)
    assert any(row.preferred["words"] is not None for row in refused)


def contest(count: int) -> Contest:
    contenders = tuple(Contender("sample", {}, i, str(i), (i,), True) for i in range(count))
    return Contest(None, None, contenders)  # type: ignore[arg-type]


def test_the_rule_rewards_compares_nothing_with_what_was_refused() -> None:
    nan = math.nan
    known = np.array([[0, 0], [0, 0], [2, 1], [nan, 9], [1, 1]], dtype=float)
    unknown = np.array([[0, nan], [0, 0], [9, 9]], dtype=float)
    first, second = decide_by_rewards([contest(3), contest(1)], [known, unknown], ("a", "b"), "all")
    assert first.fates == (CHOSEN, "not compared: a judge refused it, or an original", first.fates[2])
    assert first.estimates is not None and second.estimates is not None
    assert first.estimates.tolist()[0] == 1 and math.isnan(first.estimates[1]) and math.isnan(second.estimates[0])
    assert second.fates == (first.fates[1],)
    [nothing] = decide_by_rewards([contest(1)], [np.full((3, 2), nan)], ("a", "b"), "all")
    assert nothing.fates == (first.fates[1],)


def response(method: str, prompt: str, reward: float | None) -> Response:
    return Response(method, None, prompt, prompt, 0, "", 1, True, {"a": reward, "b": 1.0})


def test_methods_are_compared_on_prompts_that_all_of_them_have_scores_for() -> None:
    everything = [response("x", "p", 1.0), response("y", "p", None), response("x", "q", 1.0), response("y", "q", 2.0)]
    assert comparable(everything) == everything[2:]


def test_arms_are_compared_on_the_same_prompts() -> None:
    x, y = np.arange(12.0).reshape(2, 3, 2), np.arange(6.0).reshape(1, 3, 2)
    x[0, 0, 1] = y[0, 2, 0] = math.nan
    fronts = _on_the_same_prompts({"x": Front(x, np.ones(2)), "y": Front(y, np.ones(1))})
    assert fronts["x"].rewards_M_P_N.tolist() == x[:, 1:2].tolist()
    assert fronts["y"].rewards_M_P_N.tolist() == y[:, 1:2].tolist()
