"""Subsets at a conflict ratio: exact counts, whatever the order, and a clear line where the data cannot give it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipo.data import Row, conflict_subset
from sipo.errors import SipoError
from sipo.message import Message

NAMES = ("a", "b")


def rows(conflicting: int, agreeing: int) -> list[Row]:
    labels = [{"a": 0, "b": 1}] * conflicting + [{"a": 0, "b": 0}] * agreeing
    return [Row((Message("user", f"q{i}"),), ("x", "y"), each) for i, each in enumerate(labels)]


def take(of: list[Row], size: int | None, ratio: float | None, seed: int = 0) -> list[Row]:
    return conflict_subset(of, NAMES, size=size, ratio=ratio, seed=seed)


@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), st.randoms())
def test_counts_order_and_seed(conflicting: int, agreeing: int, ratio: float, random) -> None:
    data = rows(conflicting, agreeing)
    found = take(data, None, ratio)
    conflicts = sum(row.conflicting(NAMES) for row in found)
    assert conflicts == round(ratio * len(found))
    assert [row for row in data if row in found] == found, "in the order of the data"
    shuffled = list(data)
    random.shuffle(shuffled)
    assert {row.id for row in take(shuffled, None, ratio)} == {row.id for row in found}
    if found:
        assert len(take(data, len(found), ratio)) == len(found)


def test_none_and_nothing_else() -> None:
    data = rows(10, 10)
    assert not any(row.conflicting(NAMES) for row in take(data, 8, 0.0))
    assert all(row.conflicting(NAMES) for row in take(data, 8, 1.0))
    assert len(take(data, None, 0.0)) == len(take(data, None, 1.0)) == 10


def test_another_seed_takes_others_and_without_a_ratio_all_kinds() -> None:
    data = rows(50, 50)
    assert take(data, 20, 0.5, 0) != take(data, 20, 0.5, 1)
    assert {row.conflicting(NAMES) for row in take(data, 20, None)} == {True, False}
    assert take(data, None, None) == data


@pytest.mark.parametrize(
    ("size", "ratio", "message"),
    [
        (
            30,
            0.9,
            r"the file: has 10 rows in conflict, but 30 rows at a conflict ratio of 0.9 need 27; lower data.train",
        ),
        (30, 0.0, "has 10 rows without conflict"),
        (30, None, "has 20 rows, fewer than the 30 asked for"),
    ],
)
def test_what_the_data_cannot_give_is_said(size: int, ratio: float | None, message: str) -> None:
    with pytest.raises(SipoError, match=message):
        conflict_subset(rows(10, 10), NAMES, size=size, ratio=ratio, seed=0, place="the file")
