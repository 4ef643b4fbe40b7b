"""The cache of scores: found again, never mixed up, whole after a crash, shared by processes."""

import sqlite3
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.errors import SipoError
from sipo.message import Message
from sipo.progress import Progress
from sipo.rewards import Item
from sipo.rewards.cache import ScoreCache, key
from sipo.rewards.scoring import _scored

OF_EACH = 50


def item(response: str, prompt: str = "p") -> Item:
    return Item((Message("user", prompt),), response)


class Lengths:
    """Scores the length, remembers what it was asked for, and dies at a response that says so."""

    name = "lengths"
    identity = "lengths v1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check(self) -> None: ...

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        for index in reversed(range(len(items))):  # in any order
            self.asked.append(items[index].response)
            if items[index].response == "die":
                raise SipoError("died")
            yield index, [float(len(items[index].response)), 0.5]


def test_nothing_is_scored_twice_and_a_crash_loses_nothing(tmp_path: Path) -> None:
    scorer, path = Lengths(), tmp_path / "deep" / "scores.sqlite"
    quiet = Progress(quiet=True)
    with pytest.raises(SipoError, match="reward `lengths`: died"):
        _scored(scorer, [item("die"), item("aa"), item("b"), item("aa")], path, quiet)
    assert scorer.asked == ["b", "aa", "die"]
    assert _scored(scorer, [item("b"), item("aa"), item("ccc"), item("b")], path, quiet) == [
        [1, 0.5], [2, 0.5], [3, 0.5], [1, 0.5],
    ]  # fmt: skip
    assert scorer.asked[3:] == ["ccc"]


TEXT = st.text(st.characters(), max_size=8)  # lone surrogates too: what a model writes is not always text
KEYS = st.tuples(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=2), TEXT)


@given(KEYS, KEYS)
def test_keys_differ_exactly_where_contents_do(
    first: tuple[str, list[tuple[str, str]], str], second: tuple[str, list[tuple[str, str]], str]
) -> None:
    keys = [key(scorer, Item(tuple(Message(*m) for m in chat), response)) for scorer, chat, response in (first, second)]
    assert (keys[0] == keys[1]) == (first == second)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(TEXT, st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
def test_numbers_come_back_to_the_last_bit(pairs: list[tuple[str, float]]) -> None:
    store = ScoreCache(Path(":memory:"))
    first: dict[str, float] = {}
    for text, number in pairs:
        first.setdefault(text, number)
        store.put("s", [(item(text), [number])])
    assert all(store.get("s", item(text)) == [number] for text, number in first.items()), "the first one stays"
    assert store.get("another", item("")) is None
    store.close()


def write(path: Path, who: int, forever: Any) -> None:
    """Numbers that all writers have, and numbers of one's own; then, if asked for, the same again without end."""
    store = ScoreCache(path)
    for i in range(OF_EACH):
        store.put("s", [(item(str(number)), [float(number)]) for number in (i, 1000 * who + i)])
    while forever is not None:
        forever.set()
        store.put("s", [(item(f"more {i}"), [float(i)])])
        i += 1


def test_processes_share_it_and_may_be_killed(tmp_path: Path) -> None:
    path, forks = tmp_path / "scores.sqlite", get_context("fork")
    going_on = forks.Event()
    writers = [forks.Process(target=write, args=(path, who, going_on if who == 3 else None)) for who in (1, 2, 3)]
    try:
        for writer in writers:
            writer.start()
        assert going_on.wait(60)
        writers[2].kill()  # in the middle of a transaction, most likely
        for writer in writers[:2]:
            writer.join(60)
        assert [writer.exitcode for writer in writers[:2]] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    store = ScoreCache(path)
    for number in [*range(OF_EACH), *(1000 * who + i for who in (1, 2, 3) for i in range(OF_EACH))]:
        assert store.get("s", item(str(number))) == [number]
    store.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_file_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once where it is no database at all, or at the page that is none."""
    path = tmp_path / "scores.sqlite"
    path.write_bytes(b"no database" * 100)
    store = ScoreCache(path)
    store.put("s", [(item(str(i)), [float(i)]) for i in range(3000)])
    store.close()
    assert f"{path}: damaged" in capsys.readouterr().err
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * len(content[8192:])
    path.write_bytes(content)
    store = ScoreCache(path)
    assert all(store.get("s", item(str(i))) in (None, [float(i)]) for i in range(3000))
    store.put("s", [(item("new"), [1.0])])
    assert store.get("s", item("new")) == [1.0]
    store.close()
    assert f"{path}: damaged" in capsys.readouterr().err
    assert sorted(each.suffix for each in tmp_path.iterdir()) == [".damaged-1", ".damaged-2", ".sqlite"]
    with pytest.raises(SipoError, match="scores cannot be kept"):
        ScoreCache(path / "below a file")


@pytest.mark.parametrize(
    "text", ["", "[", "null", "[null]", "[NaN]", "[Infinity]", "[]", "{}", '["a"]', "[true]", b"\xff\xfe", "[0.25]"]
)
def test_an_entry_that_is_not_as_it_was_put_is_asked_for_again(tmp_path: Path, text: str | bytes) -> None:
    """All but the last, which is how caches of before were written."""
    store = ScoreCache(tmp_path / "scores.sqlite")
    store.put("s", [(item("a"), [0.5, 0.75])])
    database = sqlite3.connect(store.path)
    (whole,) = database.execute("SELECT numbers FROM scores").fetchone()
    for damaged in (text, whole[:-1], whole.replace("5", "6", 1), whole.replace("0.75", "0.76"), f"0{whole[1:]}"):
        with database:
            database.execute("UPDATE scores SET numbers = CAST(? AS TEXT)", (damaged,))
        if damaged not in (whole, "[0.25]"):
            assert store.get("s", item("a")) is None
            store.put("s", [(item("a"), [1.5, 2.5])])
            assert store.get("s", item("a")) == [1.5, 2.5]
    store.close()
    database.close()
