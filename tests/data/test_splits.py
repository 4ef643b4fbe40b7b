"""Splits depend on the prompt and the seed, and on nothing else."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipo.data import Row, split_of, split_rows
from sipo.message import Message

keys = st.text("0123456789abcdef", min_size=16, max_size=16)
seeds = st.integers(0, 2**32)
fractions = st.floats(0, 0.5, exclude_max=True)


def row(prompt: str, answer: str) -> Row:
    return Row((Message("user", prompt),), (answer, "other"), {"a": 0})


rows = st.lists(st.builds(row, st.sampled_from("abcdefgh"), st.text(max_size=3)), max_size=20)


@given(rows, seeds, fractions, fractions, st.randoms())
def test_order_changes_nothing_and_prompts_stay_together(
    rows: list[Row], seed: int, validation: float, test: float, random: object
) -> None:
    splits = split_rows(rows, seed, validation, test)
    parts = [splits.train, splits.validation, splits.test]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert not {row.key for row in parts[a]} & {row.key for row in parts[b]}
    for part in parts:
        assert [id(row) for row in rows if any(row is other for other in part)] == [id(row) for row in part]
    assert sum(map(len, parts)) == len(rows)

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = split_rows(shuffled, seed, validation, test)
    assert [{row.key for row in part} for part in (again.train, again.validation, again.test)] == [
        {row.key for row in part} for part in parts
    ]


@given(keys, seeds, fractions, fractions, fractions)
def test_more_validation_takes_from_train_only(key: str, seed: int, test: float, less: float, more: float) -> None:
    less, more = sorted([less, more])
    before, after = split_of(key, seed, less, test), split_of(key, seed, more, test)
    assert before == after or (before, after) == ("train", "validation")


def test_the_shares_are_what_was_asked_and_the_seed_moves_prompts() -> None:
    count = 4000
    prompts = [f"prompt {number}" for number in range(count)]
    shares = Counter(split_of(prompt, 0, 0.2, 0.1) for prompt in prompts)
    assert shares["validation"] / count == pytest.approx(0.2, abs=0.03)
    assert shares["test"] / count == pytest.approx(0.1, abs=0.03)
    assert [split_of(p, 0, 0.2, 0.1) for p in prompts] != [split_of(p, 1, 0.2, 0.1) for p in prompts]
    assert {split_of(prompt, 0, 0.0, 0.0) for prompt in prompts} == {"train"}
