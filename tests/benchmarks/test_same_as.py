"""Whether two runs have the same tables is told table by table."""

import json
from pathlib import Path

import pytest

from benchmarks.same_as import differences, tables


def run(folder: Path, **files: str) -> Path:
    for place, text in files.items():
        file = folder / place.replace("__", "/").replace("_jsonl", ".jsonl").replace("_json", ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def answer(text: str, reward: float | None = 1.0) -> str:
    return json.dumps({"response": text, "rewards": {} if reward is None else {"good": reward}}) + "\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"align__stage_json": "2 seconds", "metrics_jsonl": "later"}, []),
        ({"align__training_jsonl": "{}"}, ["align/training.jsonl: differs"]),
        ({"compare__new_json": "[7]"}, ["compare/new.json: is new"]),
        ({"judged__b__responses_jsonl": answer("b", 2.0)}, ["responses.jsonl: differs"]),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: dict[str, str], told: list[str]) -> None:
    split = {"judged__a__responses_jsonl": answer("a"), "judged__b__responses_jsonl": answer("b")}
    one = run(tmp_path / "one", evaluate__fronts_json="[1]", align__training_jsonl="[]",
              evaluate__responses_jsonl=answer("b") + answer("a"))  # fmt: skip
    two = run(tmp_path / "two", compare__fronts_json="[1]", align__training_jsonl="[]",
              answers__a__responses_jsonl=answer("a", None), **split)  # fmt: skip
    assert differences(tables(one), tables(run(two, **change))) == told


def test_a_table_that_is_gone_is_named(tmp_path: Path) -> None:
    one = run(tmp_path / "one", score__x_json="1", align__y_json="2")
    assert differences(tables(one), tables(run(tmp_path / "two", align__y_json="2"))) == [
        "score/x.json: is no longer written"
    ]
