"""What the page holds for its scripts: packed texts, and how many of them."""

import random
import string

import pytest
from pages import unpacked

from sipo.plain import COMMANDING
from sipo.records import Response
from sipo.report.answers import answered, middle, places
from sipo.report.lengths import lengths
from sipo.report.pack import ROOM, pack, pack_list
from sipo.report.truth import Share

HOSTILE = "</template><script>alert(1)</script>\x1b[31m \u202e \ud800 {{ 7 * 7 }} \u2028"


def test_packed_texts_hold_no_markup_and_command_nothing() -> None:
    packed = str(pack({HOSTILE: [HOSTILE, 1, None, {"x": (HOSTILE,)}]}))
    assert set(packed) <= set(string.ascii_letters + string.digits + "+/=")
    (found,) = unpacked(f"<template data-pack>{packed}</template>")
    ((name, (text, *rest)),) = found.items()
    assert "<script>" in text and "\N{REPLACEMENT CHARACTER}" in name and rest[:2] == [1, None]
    assert not COMMANDING.search(name + text + rest[2]["x"][0])


def test_ten_thousand_rows_fit_and_more_than_fits_is_left_out_from_the_end() -> None:
    source = random.Random(0)
    words = ["".join(source.choices(string.ascii_lowercase, k=6)) for _ in range(2000)]
    records = [{"id": i, "text": " ".join(source.choices(words, k=30))} for i in range(10_000)]
    packed, count = pack_list(records, ROOM["cases"])
    assert count == 10_000 and len(packed) < ROOM["cases"]
    packed, count = pack_list(records, room=100_000, about="them")
    assert len(packed) <= 100_000 and 0 < count < 10_000
    (found,) = unpacked(f"<template data-pack>{packed}</template>")
    assert found["about"] == "them" and [each["id"] for each in found["records"]] == list(range(count))
    assert sum(ROOM.values()) < 19_000_000, "the rest of the page has its room, too"
    assert pack_list(records[:1], room=1)[1] == 1 and pack_list([], room=1)[1] == 0


def test_what_repeats_itself_is_left_out_where_a_browser_could_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipo.report.pack.UNPACKED", 1000)
    records = [{"id": i, "text": "a" * 100} for i in range(50)]
    packed, count = pack_list(records, ROOM["cases"], about="them")
    assert 5 < count < 10 and unpacked(f"<template data-pack>{packed}</template>") == [
        {"about": "them", "records": records[:count]}
    ]
    assert pack_list([{"text": "a" * 2000}] * 2, ROOM["cases"])[1] == 1


def answer(method: str, prompt: str, weights: dict[str, float] | None, text: str, **more: int) -> Response:
    return Response(
        method, weights, prompt, f"about {prompt}", more.get("index", 0), text, len(text), more.get("cut", 0) == 0,
        {"a": 1.0, "b": None}, more.get("draw", 0),
    )  # fmt: skip


def test_every_method_answers_a_prompt_at_every_weight() -> None:
    all_of_a, all_of_b = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}
    responses = [
        *(answer("sipo", prompt, weights, f"{prompt}{i}") for prompt in "xy" for i, weights in enumerate((all_of_a, all_of_b))),
        answer("sipo", "x", all_of_b, "another", index=1),
        *(answer("base", prompt, None, f"{draw}{prompt}", draw=draw) for draw in (1, 0) for prompt in "xy"),
    ]  # fmt: skip
    assert places(responses) == [all_of_a, all_of_b]
    first, second = answered(responses, ("a", "b"), 10)
    assert answered(responses, ("a", "b"), 1) == [first], "none of whose answers come later is lost"
    assert first["prompt"] == "about x" and [each[0] for each in first["answers"]["sipo"]] == ["x0", "x1"]
    assert [each[0] for each in second["answers"]["base"]] == ["0y", "1y"], "the draw of that weight's noise"
    assert first["answers"]["sipo"][0][1:] == ([1.0, None], 2, False)
    assert len(answered(responses, ("a", "b"), 1)) == 1


def test_the_knob_begins_in_the_middle() -> None:
    assert middle([{"a": 1.0, "b": 0.0}, {"a": 0.4, "b": 0.6}, {"a": 0.0, "b": 1.0}]) == 1
    assert middle([]) == 0


def test_lengths_are_held_against_the_base_model_s_on_the_same_prompts() -> None:
    half = {"a": 0.5, "b": 0.5}
    prompts = [str(i) for i in range(40)]
    base = [answer("base", each, None, "x" * (5 + i % 3)) for i, each in enumerate(prompts)]
    mod = [answer("mod", each, half, "x" * (7 + i % 3), cut=i % 2) for i, each in enumerate(prompts)]
    table = lengths({"base": [base], "mod": [mod]})
    first, second = table.rows
    assert first[2] is None and second[2].value == pytest.approx(2.0) and second[1].low < second[1].value
    assert second[-1] == "50 %" and second[3] == second[4]
    assert len(lengths({"mod": [mod]}).columns) == 5
    few = lengths({"mod": [mod[:5]]}).rows[0]
    assert isinstance(few[1], float), "no interval from five prompts"


def test_a_share_is_said_with_its_interval() -> None:
    said = Share(13, 29).said.replace("\N{NO-BREAK SPACE}", " ")
    assert said == "13 of 29 (45 %, 95 % interval 28 to 62 %)"
