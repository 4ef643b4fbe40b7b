"""Conflict statistics against counts made another way, and their printed form."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipo.cli.inspect import inspect_file
from sipo.data import Row, conflict_statistics, read_rows, write_rows
from sipo.message import Message

PKU = Path(__file__).parents[3] / "shared" / "data" / "pku-saferlhf" / "sample.jsonl"
NAMES = ("a", "b", "c", "d")


def row(labels: tuple[int | None, ...], prompt: str = "Why?", names: tuple[str, ...] = NAMES) -> Row:
    return Row((Message("user", prompt),), ("one", "two words"), dict(zip(names, labels, strict=False)))


labels_of_rows = st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.sampled_from([0, 1, None])] * n)))


@given(labels_of_rows)
def test_ratios_are_counts_of_disagreement(labels: list[tuple[int | None, ...]]) -> None:
    statistics = conflict_statistics([row(each) for each in labels])
    assert statistics.rows == len(labels)
    assert statistics.conflict_ratio * len(labels) == pytest.approx(sum({0, 1} <= set(each) for each in labels))
    for (i, a), (j, b) in itertools.combinations(enumerate(statistics.objectives), 2):
        opposite = sum({each[i], each[j]} == {0, 1} for each in labels)
        assert statistics.pairwise[a][b] == statistics.pairwise[b][a]
        assert statistics.pairwise[a][b] * len(labels) == pytest.approx(opposite)
        assert statistics.pairwise[a][b] <= statistics.conflict_ratio
    for i, name in enumerate(statistics.objectives):
        assert statistics.ties[name] == sum(each[i] is None for each in labels)
        assert sum(statistics.preferred[name]) + statistics.ties[name] == len(labels)


def test_a_subset_of_the_objectives_and_lengths_in_words() -> None:
    rows = [row((0, 0, 1, None)), row((1, 1, 1, 0)), row((0, None, None, 1), "Who is there?")]
    statistics = conflict_statistics(rows, ["a", "b"])
    assert (statistics.objectives, statistics.conflict_ratio, statistics.prompts) == (("a", "b"), 0.0, 2)
    report = conflict_statistics(rows).as_json()
    assert json.loads(json.dumps(report)) == report
    assert {"rows", "objectives", "ties", "conflict_ratio", "pairwise", "prompts", "lengths"} <= set(report)
    assert report["conflict_ratio"] == 1.0
    assert report["lengths"]["prompt"] == {"min": 1, "median": 1, "max": 3}
    assert report["lengths"]["response"] == {"min": 1, "median": 1.5, "max": 2}


def test_inspect_prints_the_numbers_and_conflicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    tricky = Row((Message("user", "[bold] :smile: \x1b[2J" + "x" * 500),), ("[/] one", "two"), {"a": 1, "b": 0})
    write_rows(path, [row((0, 0), "First?"), tricky, row((1, None), "Third?")])
    inspect_file(path, as_json=False)
    printed = capsys.readouterr().out
    assert "3 rows, 3 prompts, 2 objectives" in printed and "conflict ratio 33.3% (1 of 3 rows)" in printed
    assert "[bold] :smile: \N{REPLACEMENT CHARACTER}[2Jxx" in printed and "[/] one" in printed
    assert "\x1b" not in printed and "x..." in printed and "preferred by a\n" in printed
    inspect_file(path, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["examples"] == [tricky.as_record()]
    assert report["pairwise"] == {"a": {"b": pytest.approx(1 / 3)}, "b": {"a": pytest.approx(1 / 3)}}
    inspect_file(path, as_json=True, examples=0)
    assert json.loads(capsys.readouterr().out)["examples"] == []


@pytest.mark.skipif(not PKU.exists(), reason="needs the PKU-SafeRLHF sample")
def test_real_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records = [json.loads(line) for line in PKU.read_text(encoding="utf-8").splitlines()]
    conflicts = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            helpful, harmless = record["better_response_id"], record["safer_response_id"]
            conflicts += helpful != harmless
            file.write(json.dumps({**record, "preferred": {"helpful": helpful, "harmless": harmless}}) + "\n")
    statistics = conflict_statistics(read_rows(path))
    assert statistics.rows == len(records)
    assert statistics.prompts == len({record["prompt"] for record in records})
    assert statistics.conflict_ratio == conflicts / len(records)
