"""Where an answer ends: what the template, the tokenizer and the generation configuration say, as transformers reads it."""

from pathlib import Path

import pytest
import torch
from families import CHATML, TEMPLATES, save_model, tokenizer_of

from sipo.bank import Bank
from sipo.decoding import Request, base, decode
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone, identify, load_backbone
from sipo.settings import Decoding, Model

NOW = "2031-02-03"
FAMILIES = {
    # template, the tokenizer's end, what generation_config adds, what decoding stops at, what closes a response
    "gemma": (TEMPLATES["gemma"], "<eos>", ["<eos>", "<end_of_turn>"], {"<eos>", "<end_of_turn>"}, ["<end_of_turn>"]),
    "phi3": (TEMPLATES["phi3"], "<|endoftext|>", ["<|endoftext|>", "<|end|>"], {"<|endoftext|>", "<|end|>"}, ["<|end|>"]),
    "llama3": (TEMPLATES["llama3"], "<|eot_id|>", ["<|eot_id|>", "</s>"], {"<|eot_id|>", "</s>"}, ["<|eot_id|>"]),
    "llama3 base": (TEMPLATES["llama3"], "</s>", ["</s>"], {"</s>", "<|eot_id|>"}, ["<|eot_id|>"]),
    "qwen base": (CHATML, "<|endoftext|>", ["<|endoftext|>"], {"<|endoftext|>", "<|im_end|>"}, ["<|im_end|>"]),
    "qwen": (CHATML, "<|im_end|>", ["<|im_end|>", "<|endoftext|>"], {"<|endoftext|>", "<|im_end|>"}, ["<|im_end|>"]),
    "llama2": (TEMPLATES["llama2"], "</s>", ["</s>"], {"</s>"}, ["Ġ", "</s>"]),
    "next turn": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "</s>", ["</s>", "<|user|>"], {"</s>", "<|user|>"}, ["<|user|>"],
    ),
    "unclosed": ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}", "</s>", ["</s>"], {"</s>"}, ["</s>"]),
    "two at once": (CHATML.replace("<|im_end|>", "<|im_end|><|endoftext|>"), "<|endoftext|>", [], {"<|endoftext|>"},
                    ["<|im_end|>", "<|endoftext|>"]),
}  # fmt: skip


def family(name: str, folder: Path) -> tuple[Backbone, Codec]:
    template, eos, generation, _, _ = FAMILIES[name]
    tokenizer = tokenizer_of("byte", template, eos)
    save_model(folder, tokenizer, [tokenizer.convert_tokens_to_ids(each) for each in generation])
    settings = Model(path=str(folder), dtype="float32")
    backbone = load_backbone(settings, "cpu")
    return backbone, Codec.of(backbone, settings, 200, 40)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ends_are_those_of_template_and_configurations(name: str, tmp_path: Path) -> None:
    _, codec = family(name, tmp_path)
    *_, stops, closing = FAMILIES[name]
    assert set(codec.tokenizer.convert_ids_to_tokens(sorted(codec.stops))) == stops
    assert codec.tokenizer.convert_ids_to_tokens(codec.closing) == closing
    response = codec.encode_response("the sun")
    assert response[-len(closing) :] == list(codec.closing) and codec.decode(response) == "the sun"
    for room in range(1, 9):
        cut = Codec(codec.tokenizer, 200, room, stated=codec.stated).encode_response("the sun is warm")
        assert len(cut) <= room and cut == codec.encode_response("the sun is warm")[:room]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Models whose head is tilted towards one end or the other, so that answers end at all of them."""
    backbone, codec = family(name, tmp_path)
    prompts = [codec.encode_prompt([Message("user", f"why {word}?")]) for word in ("sun", "soil", "light", "plants")]
    ended = set()
    norms = backbone.model.lm_head.weight.norm(dim=-1)
    for stop in sorted(codec.stops):
        with torch.no_grad():
            backbone.model.lm_head.weight[stop] *= 8 * norms.mean() / norms[stop]
        bank = Bank(backbone)
        with bank.mounted([]):
            ours = decode(
                bank, [Request(tuple(each), base(0)) for each in prompts], Decoding(temperature=0), 30, codec.stops
            )
        for prompt, mine in zip(prompts, ours, strict=True):
            with torch.no_grad():
                made = backbone.model.generate(
                    torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=30, pad_token_id=0,
                    eos_token_id=sorted(codec.stops),
                )  # fmt: skip
            assert list(mine.tokens) == made[0, len(prompt) :].tolist()
            text = codec.decode(mine.tokens)
            assert not any(end in text for end in codec.tokenizer.convert_ids_to_tokens(list(codec.stops)))
            assert not codec.stops & set(mine.tokens[:-1]) and mine.finished == (mine.tokens[-1] in codec.stops)
            ended.update(mine.tokens[-1:] if mine.finished else ())
    assert ended, "some answer must end"


def test_what_generate_stops_at_by_itself_is_among_ours(tmp_path: Path) -> None:
    backbone, codec = family("gemma", tmp_path)
    assert set(backbone.model.generation_config.eos_token_id) == set(codec.stops)


def test_a_key_takes_the_place_of_all_ends(tmp_path: Path) -> None:
    backbone, _ = family("gemma", tmp_path)
    settings = Model(path=str(tmp_path), dtype="float32", end_tokens=("<eos>",))
    codec = Codec.of(backbone, settings, 200, 40)
    assert codec.stops == {codec.tokenizer.eos_token_id} and codec.closing == (codec.tokenizer.eos_token_id,)
    both = Codec.of(backbone, settings.model_copy(update={"end_tokens": ("<eos>", "<end_of_turn>")}), 200, 40)
    assert codec.tokenizer.convert_ids_to_tokens(both.closing) == ["<end_of_turn>"]
    assert len({identify(settings), identify(Model(path=str(tmp_path), dtype="float32"))}) == 2
    for text in ("two words", "", "<|none|>"):
        with pytest.raises(SipoError, match="model.end_tokens.*is not one token"):
            _ = Codec.of(backbone, settings.model_copy(update={"end_tokens": (text,)}), 200, 40).stops


def test_a_plain_format_closes_with_the_tokenizer_s_end(tmp_path: Path) -> None:
    backbone, _ = family("gemma", tmp_path)
    codec = Codec.of(backbone, Model(path=str(tmp_path), prompt_template="Q: {prompt}\nA:"), 200, 40)
    assert codec.closing == (codec.tokenizer.eos_token_id,)


def test_an_end_that_is_no_special_token_is_not_in_the_answer() -> None:
    tokenizer = tokenizer_of("byte", CHATML.replace("<|im_end|>", "<tool>"))
    codec = Codec(tokenizer, 200, 40)
    end = tokenizer.convert_tokens_to_ids("<tool>")
    assert codec.closing == (end,) and end in codec.stops
    assert codec.decode(codec.encode_response("the sun")) == "the sun"
    inside = codec.encode_response("the <tool> sun")
    assert inside.count(end) == 1 and codec.decode(inside) == "the <tool> sun"
