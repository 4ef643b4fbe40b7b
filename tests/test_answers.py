"""Where answers begin: given ones stand where the chat template writes its own, encoded as the tokenizer reads them there."""

from pathlib import Path
from typing import Any

import pytest
from families import CHATML, KINDS, MARKS, TEMPLATES, save_model, tokenizer_of

from sipo.check import about_chats, check
from sipo.config.file import parse_config
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec

OPENING = "{% if add_generation_prompt %}"


def answering(header: str, before: str) -> str:
    """A ChatML whose header for the next turn ends with one text, and which writes another before an answer."""
    turns = CHATML.replace("m.content", f"('{before}' if m.role == 'assistant' else '') + m.content")
    return turns.replace("<|im_start|>assistant\n' }}{% endif", f"<|im_start|>assistant\n{header}' }}}}{{% endif")


THINKING = {
    "empty thought": answering("", "<think>\n\n</think>\n\n"),
    "open thought": answering("<think>\n", ""),
    "thought closed at once": answering("<think>\n", "<think></think>"),
    "one line more": answering("<think>\n", "<think>\n\n</think>\n\n"),
    "last answer alone": CHATML.replace(
        "m.content", "('<think></think>' if loop.last and m.role == 'assistant' else '') + m.content"
    ),
    "channel": "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<tool>final{% endif %}"
    "<|end|>{{ m.content }}<|im_end|>{% endfor %}" + OPENING + "<|im_start|>assistant{% endif %}",
    "words": "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %} (to the user)\n{% else %} {% endif %}"
    "{{ m.content }}</s>{% endfor %}" + OPENING + "assistant:{% endif %}",
}
SPACED = {
    "colon": "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}" + OPENING + "assistant:{% endif %}",
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}" + OPENING + "<|assistant|>\n{% endif %}",
    "no header": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}",
}  # fmt: skip
CHATS = (
    [Message("user", "why is the sun warm?")],
    [Message("user", "why?"), Message("assistant", "the soil is dark"), Message("user", "and then?")],
)


def read(tokenizer: Any, chat: list[Message], answer: str) -> list[int]:
    """What transformers makes of the whole chat."""
    turns = [message._asdict() for message in [*chat, Message("assistant", answer)]]
    ids: list[int] = tokenizer.apply_chat_template(turns, return_dict=False)
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*THINKING, *SPACED, "chatml", "llama3", "gemma", "phi3", "llama2", "smollm3"])
def test_prompt_and_response_are_the_chat_as_the_template_has_it(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind, {**THINKING, **SPACED, **TEMPLATES}[name])
    codec = Codec(tokenizer, 400, 60)
    for chat in CHATS:
        for answer in ("the light is warm!", "Water them!"):
            ids = [*codec.encode_prompt(chat), *codec.encode_text(answer)]
            assert read(tokenizer, chat, answer)[: len(ids)] == ids
            assert kind == "word" or codec.decode(codec.encode_response(answer)) == answer


@pytest.mark.parametrize("name", THINKING)
def test_with_a_key_the_model_thinks_first(name: str) -> None:
    tokenizer = tokenizer_of("byte", THINKING[name])
    codec, thinks = Codec(tokenizer, 400, 60), Codec(tokenizer, 400, 60, thinking=True)
    turns = [message._asdict() for message in CHATS[0]]
    opened = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert thinks.encode_prompt(CHATS[0]) == opened != codec.encode_prompt(CHATS[0])
    assert any("model.thinking" in line for line in about_chats(codec))
    assert not any("model.thinking" in line for line in about_chats(thinks))
    token = tokenizer.convert_tokens_to_ids("<tool>")
    if name == "channel":  # a mark of its own turns is no text of an answer, but of a thought
        assert (token in codec.encode_response("<tool>x"), token in thinks.encode_response("<tool>x")) == (False, True)


@pytest.mark.parametrize("template", [CHATML, *SPACED.values(), TEMPLATES["gemma"], TEMPLATES["dated"]])
def test_other_prompts_are_the_template_s(template: str) -> None:
    tokenizer = tokenizer_of("byte", template)
    codec = Codec(tokenizer, 400, 60)
    assert not codec.beginning.changes and not any("prompts end" in line for line in about_chats(codec))


@pytest.mark.parametrize("kind", ["prefix", "first", "unigram"])
@pytest.mark.parametrize(
    ("format", "space"), [("Q: {prompt}\nA:", True), ("Q: {prompt}\nA: ", False), ("{prompt}\n", False)]
)
def test_a_plain_format_s_white_space_takes_the_place_of_the_tokenizer_s(kind: str, format: str, space: bool) -> None:
    codec = Codec(tokenizer_of(kind, None), 400, 60, format)
    (first, *_) = codec.tokenizer.convert_ids_to_tokens(codec.encode_response("the sun"))
    assert first.startswith("▁") == space
    chat = [Message("user", "why"), Message("assistant", "the sun"), Message("user", "why")]
    ids, answer = codec.encode_prompt(chat), codec.encode_response("the sun")
    assert any(ids[start : start + len(answer)] == answer for start in range(len(ids)))


PARTS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [PARTS, PARTS.replace("{% for part in m.content %}{{ part.text }}{% endfor %}", "{{ m.content[0]['text'] }}")],
)
def test_a_template_that_reads_parts_gets_them(template: str) -> None:
    codec, plain = (
        Codec(tokenizer_of("byte", each + OPENING + "<|im_start|>assistant\n{% endif %}"), 400, 60)
        for each in (template, CHATML.partition("{% if")[0])
    )
    for chat in (*CHATS, [Message("system", "be kind"), Message("user", "why?")]):
        assert codec.encode_prompt(chat) == plain.encode_prompt(chat)
    assert codec.closing == plain.closing


@pytest.mark.parametrize(
    ("template", "fits"),
    [
        ("hello{{ eos_token }}", 0),
        (CHATML.replace("m.content", "'...'"), 0),
        ("<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n", 1),
        (CHATML.replace("m.content", "m.content | upper"), 2),
        (CHATML.replace("m.content", "m.content.replace('why', '')"), 2),
    ],
)
def test_what_leaves_a_user_s_text_out_is_refused(template: str, fits: int) -> None:
    codec = Codec(tokenizer_of("byte", template), 400, 60)
    for number, chat in enumerate(CHATS):
        if number < fits:
            assert codec.encode_prompt(chat)
        else:
            with pytest.raises(SipoError, match="it leaves the user's text out"):
                codec.encode_prompt(chat)


def test_why_a_review_does_not_fit_is_said(settings: dict, tmp_path: Path) -> None:
    """Its examples are turns, which a template for a single question leaves out; its length is not the reason."""
    single = "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n"
    settings["model"]["path"] = str(save_model(tmp_path / "single", tokenizer_of("byte", single)))
    with pytest.raises(SipoError, match="review template: .*it leaves the system's text out"):
        check(parse_config(settings, "settings"))


def test_an_end_of_one_s_own_is_not_looked_for_behind_the_next_turn_s_mark() -> None:
    codec = Codec(tokenizer_of("byte", TEMPLATES["llama3"], "<|eot_id|>"), 400, 60, end_tokens=("\n",))
    assert codec.tokenizer.decode(list(codec.closing)) == "\n"


def test_a_text_that_nothing_can_mark_is_refused() -> None:
    codec = Codec(tokenizer_of("byte", CHATML), 4000, 60)
    with pytest.raises(SipoError, match="private use"):
        codec.encode_prompt([Message("user", "".join(map(chr, range(0xF0000, 0xF0100))) + MARKS[0])])
