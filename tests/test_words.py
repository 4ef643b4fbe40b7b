"""Counts and lists as people read them."""

from sipo.words import listed, nearest, quantity


def test_one_and_several() -> None:
    assert [quantity(count, "row") for count in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1000 rows"]
    assert quantity(1, "prompt is", "prompts are") == "1 prompt is" and quantity(3, "prompt is", "prompts are")[2:] == (
        "prompts are"
    )
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


def test_what_was_meant_is_named_where_it_is_plain() -> None:
    assert nearest("algin", ["lora", "align"]) == "align" and nearest("x", ["align"]) == "" == nearest("x", [])
    assert nearest("betta", ["beta", "beta"]) == "beta"
    assert nearest("bat", ["cat", "hat"]) == "", "as near are two"
    for sizes in (["4bit", "8bit"], ["16bit", "4bit"], ["2bits", "4bit", "8bit"]):
        assert nearest("2bit", sizes) == ("2bits" if "2bits" in sizes else ""), "another number is another thing"
    assert nearest("4bits", ["4bit", "8bit"]) == "4bit"
    assert nearest("rows-2.jsonl", ["rows-1.jsonl"]) == "rows-1.jsonl"
