"""What tables and journals read back is what was written, to the last bit, with what repeats held once."""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import pytest

from sipo.disk.damage import DamageError
from sipo.disk.journal import Journal, Results, in_any_order
from sipo.disk.once import alike, ids, parse
from sipo.disk.tables import read_lines, read_records, write_records
from sipo.progress import Progress
from sipo.records import Candidate

REASONS = ["no better than response_0 for policy:x"]


def candidate(row: str, reward: float, tokens: tuple[int, ...]) -> Candidate:
    text, judged = "a\u2028b\n é " + row, {"policy:x": [reward, None]}
    return Candidate(row, "p", "sample", {"x": 1.0}, 0, text, tokens, len(tokens), {"policy:x": reward}, judged, None, REASONS[0], reasons=list(REASONS))  # fmt: skip


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [
        candidate("r", 0.1, (5, 300_000)),
        candidate("r", 0.1, ()),
        candidate("s", -0.0, (5, 2**40)),
        candidate("s", 0.0, (5,)),
    ]
    write_records(tmp_path / "t.jsonl", iter(written))
    found = read_records(tmp_path / "t.jsonl", Candidate)
    assert found == written and list(map(repr, found)) == list(map(repr, written))
    assert (tmp_path / "t.jsonl").read_text() == "".join(
        json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in written
    )
    assert read_lines(tmp_path / "t.jsonl") == [json.loads(json.dumps(asdict(each))) for each in written]


def test_what_repeats_is_held_once(tmp_path: Path) -> None:
    write_records(tmp_path / "t.jsonl", [candidate("r", 0.5, (70_000, 70_001)), candidate("r", 0.5, (70_001, 70_000))])
    first, second = read_records(tmp_path / "t.jsonl", Candidate)
    assert first.originals is second.originals and first.weights is second.weights
    assert first.reasons[0] is second.reasons[0]
    assert first.tokens[0] is second.tokens[1] is ids([70_000])[0] is parse("[70000]")[0]


@pytest.mark.parametrize("pair", [(0.0, -0.0), (1, True), (1, 1.0), ([0.0], [-0.0]), ({"a": 1}, {"a": 1.0})])
def test_only_what_is_the_same_to_the_last_bit_is_alike(pair: tuple[object, object]) -> None:
    assert alike(*pair) is pair[0]


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": 1}\n[1', "[1]\n", '{"a"\n', "\n"])
def test_lines_that_are_none_of_ours_are_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DamageError, match=r"t\.jsonl: damaged"):
        read_lines(tmp_path / "t.jsonl")


def test_a_journal_goes_on_from_its_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of any kind, None among them; lines in any order, torn, damaged, of units beyond, and twice."""
    journal = Journal(tmp_path, "units", Progress())
    results = [None, False, -0.0, [1, [70_000]], {"a": "b\u2028"}, "x", 1e-300, []]
    asked: list[set[int]] = []

    def work(done: Collection[int]) -> Results:
        asked.append({number for number in range(len(results)) if number in done})
        assert len(done) == len(asked[-1]) == len(set(done)) and asked[-1] == set(done)
        yield from ((number, results[number]) for number in reversed(range(len(results))) if number not in done)

    assert list(map(repr, in_any_order(journal, len(results), work))) == list(map(repr, results))
    assert in_any_order(journal, len(results), work)[4] == results[4]
    lines = journal.path.read_bytes().splitlines(keepends=True)
    damaged = lines[2].replace(b"x", b"y") if b"x" in lines[2] else lines[2][1:]
    journal.path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:], lines[0], lines[5][:-1]]))
    capsys.readouterr()
    assert list(map(repr, in_any_order(journal, len(results), work))) == list(map(repr, results))
    assert asked == [set(), set(range(8)), set(range(8)) - {5}]
    assert f"{journal.path}: 3 of 10 lines are torn or damaged" in capsys.readouterr().err
    assert len(journal.path.read_bytes().splitlines()) == 8
    assert in_any_order(journal, 3, work) == results[:3]
