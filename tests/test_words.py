"""Counts and lists as people read them."""

from sipo.words import listed, quantity


def test_one_and_several() -> None:
    assert [quantity(count, "row") for count in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1000 rows"]
    assert quantity(1, "prompt is", "prompts are") == "1 prompt is" and quantity(3, "prompt is", "prompts are")[2:] == (
        "prompts are"
    )
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]
