"""A tiny Llama and a tokenizer of whole words, as an ordinary checkpoint folder, and the prompts of its three tasks.

    respond   <s> respond PROMPT <sep>
    review    <s> review PROMPT <sep> RESPONSE <sep>
    rewrite   <s> rewrite PROMPT <sep> RESPONSE <sep> REVIEW <sep>

A system message names the task; without one it is `respond`, so that a plain prompt is only the user's text. Each of
the texts is a message of the user's.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sipo.testbed.environment import TASKS, Environment

UNKNOWN, BEGIN, END, SEPARATOR = "<unk>", "<s>", "</s>", "<sep>"
CONTROL = (UNKNOWN, BEGIN, END, SEPARATOR, *TASKS)
"""They come first in the vocabulary; the unknown word also pads."""
CHAT = (
    "<s> {% if messages[0].role != 'system' %}respond {% endif %}"
    "{% for m in messages %}{{ m.content }} {% if m.role == 'user' and not loop.last %}<sep> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<sep>{% endif %}"
)
TEMPLATES = ("review.yaml", "rewrite.yaml")
"""Prompt templates of the product for the tasks that it asks for by them."""


def new_tokenizer(environment: Environment) -> PreTrainedTokenizerFast:
    """One token a word, words apart by spaces."""
    words = {word: index for index, word in enumerate((*CONTROL, *environment.vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=UNKNOWN, bos_token=BEGIN, eos_token=END,
        additional_special_tokens=[SEPARATOR], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT
    return fast


def new_model(environment: Environment, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with 2 layers of width 64 and tied embeddings, about 100k parameters, float32."""
    longest = environment.max_prompt_words + 2 * environment.max_response_words + environment.max_review_words + 8
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=168, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=longest, tie_word_embeddings=True, initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def task_prompt(task: str, texts: Sequence[str]) -> str:
    """What the chat template makes of a task and its texts: the prompt, then the response, then the review."""
    return f"{BEGIN} {task} {f' {SEPARATOR} '.join(texts)} {SEPARATOR}"


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint to `folder/model` and the prompt templates beside it."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in TEMPLATES:
        (folder / name).write_bytes((files("sipo.testbed") / name).read_bytes())
