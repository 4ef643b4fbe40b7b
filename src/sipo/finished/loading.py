"""How others load an exported model and ask it: code and commands for its card."""

import json

from sipo.commands import serve
from sipo.models.chat import Codec
from sipo.models.plain import frame
from sipo.models.quantisation import options_as_code
from sipo.settings.model import Quantise

FOLDER = "path/to/this/folder"
"""Stands for wherever the export lies."""
PLAIN = ", over the base's plain weights, which answers otherwise than what was measured"


def how_to_use(
    base: str, revision: str | None, rank: int | None, codec: Codec | None, quantise: Quantise | None = None
) -> str:
    """Code for transformers, PEFT besides where it is an adapter, and commands for the servers that take it. An adapter
    stands on its base as it was quantised, where that can be told.
    """
    imports, how = options_as_code(quantise)
    at = f", revision={_quoted(revision)}" if revision and rank is not None else ""
    alone = [*_imports(), f'model = AutoModelForCausalLM.from_pretrained({_quoted(FOLDER)}{at}, dtype="auto")']
    asked = _asking(codec) if codec else []
    if rank is None:
        ways = [("With transformers:", "python", [*alone, _tokenizer(FOLDER, ""), *asked])]
    else:
        apart = [
            *_imports("from peft import PeftModel", *imports),
            f'base = AutoModelForCausalLM.from_pretrained({_quoted(base)}{at}, dtype="auto"{how})',
            f"model = PeftModel.from_pretrained(base, {_quoted(FOLDER)})",
            _tokenizer(base, at),
        ]
        ways = [("With PEFT:", "python", [*apart, *asked])]
        if not how:
            itself = "With transformers, which finds the base by itself where PEFT is installed:"
            ways.append((itself, "python", alone))
    if served := serve(FOLDER, None if rank is None else base, rank or 0):
        ways.append((f"With vLLM{PLAIN if how else ''}:", "sh", [served]))
    return "\n\n".join("\n".join([said, "", f"```{kind}", *lines, "```"]) for said, kind, lines in ways)


def _imports(*more: str) -> list[str]:
    return [*more, "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]


def _tokenizer(place: str, at: str) -> str:
    return f"tokenizer = AutoTokenizer.from_pretrained({_quoted(place)}{at})"


def _asking(codec: Codec) -> list[str]:
    """A prompt as the policies were trained on, and an answer that ends where they end it."""
    if codec.template is not None:
        begun = codec.beginning
        instead = f".removesuffix({_quoted(begun.goes)})" if begun.goes else ""
        lead = f" + {_quoted(begun.comes)}" if begun.comes else ""
        asked = [
            'chat = [{"role": "user", "content": question}]',
            "prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)",
            *([f"prompt = prompt{instead}{lead}"] if begun.changes else []),
        ]
    else:
        before, _, after = str(codec.prompt_template).replace("{turns}", "").partition("{prompt}")
        first = "".join(codec.tokenizer.convert_ids_to_tokens(frame(codec.tokenizer)[0]))
        opening = before if before.startswith(first) else first + before
        asked = [f"prompt = {_quoted(opening)} + question + {_quoted(after)}"]
    return [
        "",
        'question = "How do I ...?"',
        *asked,
        'inputs = tokenizer(prompt, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")',
        f"output = model.generate(**inputs, eos_token_id={sorted(codec.stops)}, max_new_tokens=256)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _quoted(text: str) -> str:
    """As a literal of Python that no page takes for markup."""
    return json.dumps(text).replace("<", "\\u003c")
