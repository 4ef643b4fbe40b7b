"""Chat templates: one rendering, which is transformers', adapts the chat where a template asks for it, and never traces."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from families import ALTERNATING, CHATML, KINDS, REFUSING, TEMPLATES, save_model, tokenizer_of

from sipo.check import check
from sipo.config.file import parse_config
from sipo.data import read_rows
from sipo.data.consistency import doubts
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.template import ChatTemplate
from sipo.progress import Progress

MOMENT = datetime(2031, 2, 3, 4, 5, 6)
CHATS = {
    "question": [("user", "how do I keep my plants alive?")],
    "system": [("system", "be kind"), ("user", "why is the sun warm?")],
    "turns": [("user", " why? "), ("assistant", "the soil\n is dark. "), ("user", "\nand <tool> then? é ☀")],
    "all": [("system", "a\n\nb"), ("user", "x"), ("assistant", "y <b>z</b>"), ("user", "{{ 7 }} {% raw %}")],
}


def chat_of(name: str) -> list[Message]:
    return [Message(*each) for each in CHATS[name]]


REFUSED = {("gemma", "system"), ("gemma", "all"), ("dropping", "system"), ("dropping", "all")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_ordinary_chats_are_encoded_as_transformers_does(template: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    codec = Codec(tokenizer, 2000, 100, moment=MOMENT)
    dated = TEMPLATES[template].replace("{{ strftime_now('%d %b %Y') }}", MOMENT.strftime("%d %b %Y"))
    for name in CHATS:
        if (template, name) not in REFUSED:
            messages = [message._asdict() for message in chat_of(name)]
            expected = tokenizer.apply_chat_template(
                messages, chat_template=dated, add_generation_prompt=True, return_dict=False
            )
            assert codec.encode_prompt(chat_of(name)) == expected


def rendered(template: str, *chat: tuple[str, str], opening: bool = True) -> str:
    return ChatTemplate(tokenizer_of("byte", template), MOMENT).render(
        [Message(*each) for each in chat], opening=opening
    )


S, U, A, V = ("system", "be kind"), ("user", "why?"), ("assistant", "so"), ("user", "and?")
ASIS = CHATML.replace("{% for m in messages %}", REFUSING + ALTERNATING)


@pytest.mark.parametrize(
    ("template", "chat", "like"),
    [
        (REFUSING + CHATML, [S, U], [("user", "be kind\n\nwhy?")]),
        (REFUSING + CHATML, [S, U, A, V], [("user", "be kind\n\nwhy?"), A, V]),
        (REFUSING + CHATML, [("system", ""), U], [U]),
        (ASIS, [U, V], [("user", "why?\n\nand?")]),
        (ASIS, [S, U, V, A, A, V], [("user", "be kind\n\nwhy?\n\nand?"), ("assistant", "so\n\nso"), V]),
        (ALTERNATING + CHATML + "{% endfor %}", [S, U], [("user", "be kind\n\nwhy?")]),
        (TEMPLATES["dropping"], [S, U], [("user", "be kind\n\nwhy?")]),
        (TEMPLATES["dropping"], [U, A, S, V], [U, A, ("user", "be kind\n\nand?")]),
    ],
)
def test_a_chat_is_adapted_where_the_template_asks_for_it(template: str, chat: list, like: list) -> None:
    assert rendered(template, *chat) == rendered(template, *like)


@pytest.mark.parametrize("chat", [[S, U], [U, V], [S, S, U], [U, A, S, V]])
def test_and_nowhere_else(chat: list) -> None:
    assert (
        rendered(CHATML, *chat)
        == "".join(f"<|im_start|>{r}\n{c}<|im_end|>\n" for r, c in chat) + "<|im_start|>assistant\n"
    )


def test_a_template_with_a_system_text_of_its_own_drops_none() -> None:
    """Qwen's writes one where the chat has none: equal text, and nothing is lost."""
    own = "{% if messages[0].role != 'system' %}<|im_start|>system\nbe kind<|im_end|>\n{% endif %}" + CHATML
    assert rendered(own, S, U) == rendered(own, U) == rendered(CHATML, S, U)


BROKEN = {
    "raises": "{{ raise_exception('no such chat') }}",
    "division": "{{ 1 / 0 }}",
    "type": "{{ messages + 1 }}",
    "value": "{{ 'x' | int(base=99) }}{{ 'a'.index('b') }}",
    "undefined": "{{ nothing.at.all }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for m in messages %}",
    "no such filter": "{{ messages | nothing }}",
    "code": "{{ messages.__class__.__mro__ }}{{ cycler.__init__.__globals__.os.system('echo') }}",
    "include": "{% include 'other' %}",
    "large": "{{ 'a' * 10**10 }}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "attribute": "{{ messages[7].content.strip() }}",
    "nested": "{% for a in messages %}" * 25 + "{% endfor %}" * 25,
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_a_template_raises_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipo.sandbox.SECONDS", 0.1)
    codec = Codec(tokenizer_of("byte", BROKEN[name]), 2000, 100)
    with pytest.raises(
        SipoError, match=r"the prompt 'why\?'.*does not fit the chat template .*set model.prompt_template"
    ) as error:
        codec.encode_prompt([Message("user", "why?")])
    assert "\n" not in str(error.value)
    assert codec.encode_response("so")[-1] == codec.tokenizer.eos_token_id


def test_several_templates_want_a_default() -> None:
    tokenizer = tokenizer_of("byte", None)
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(SipoError, match="default.*set model.prompt_template"):
        Codec(tokenizer, 2000, 100).encode_prompt([Message("user", "why?")])
    tokenizer.chat_template = {"rag": "{{ 1 / 0 }}", "default": CHATML}
    plain = Codec(tokenizer_of("byte", CHATML), 2000, 100)
    assert Codec(tokenizer, 2000, 100).encode_prompt([Message(*U)]) == plain.encode_prompt([Message(*U)])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (CHATML, []),
        (REFUSING + CHATML, ["has no system turn"]),
        (TEMPLATES["dropping"], ["leaves the system text out"]),
        (TEMPLATES["headless"], ["no header for the assistant's turn"]),
        ("{{ 1 / 0 }}", ["has no system turn", "does not fit a plain question (division by zero)"]),
    ],
)
def test_what_is_unusual_is_found(template: str, words: list[str]) -> None:
    found = ChatTemplate(tokenizer_of("byte", template), MOMENT).findings
    assert len(found) == len(words) and all(word in line for word, line in zip(words, found, strict=True))


def test_the_date_is_the_moment_s() -> None:
    assert "Today is 03 Feb 2031" in rendered(TEMPLATES["dated"], U)


def test_check_says_how_answers_end_and_which_rows_hold_special_tokens(
    settings: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_of("byte", REFUSING + CHATML, "<|endoftext|>")
    settings["model"]["path"] = str(save_model(tmp_path / "other", tokenizer))
    rows = Path(settings["data"]["path"])
    lines = rows.read_text().splitlines()
    written = json.dumps({**json.loads(lines[0]), "prompt": "<|im_start|>user\nwhy<|im_end|>", "response_0": "x<tool>"})
    rows.write_text("\n".join([*lines, written]) + "\n")
    check(parse_config(settings, "settings"), Progress())
    shown = " ".join(capsys.readouterr().out.split())
    assert "closed with '<|im_end|>'; decoding stops at" in shown and "'<|endoftext|>'" in shown
    assert "the chat template has no system turn" in shown
    assert "special tokens are written in 1 row, the first <|im_start|> with the prompt '<|im_start|>user" in shown


@pytest.mark.parametrize("mark", ["<|im_end|>", "<s>", "[/INST]", "<end_of_turn>", "<\uff5cUser\uff5c>", "<|eot_id|>"])
def test_rows_that_have_been_rendered_are_counted_without_a_tokenizer(mark: str, rows_file: Path) -> None:
    rows = read_rows(rows_file)
    assert not any("special tokens" in line for line in doubts(rows, ["detail"]))
    odd = [replace(row, responses=(row.responses[0] + mark, row.responses[1])) for row in rows[:2]]
    (line,) = (line for line in doubts([*odd, *rows[2:]], ["detail"]) if "special tokens" in line)
    assert "in 2 rows" in line and mark in line and repr(rows[0].prompt[-1].content[:40]) in line
