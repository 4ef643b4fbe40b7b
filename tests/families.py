"""Chat templates and tokenizers of the families that people align, in small."""

import json
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = "how do I keep my plants alive? water them once a week. give them light. the sun is warm and the soil is dark"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + REFUSING + ALTERNATING + "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = m['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for m in loop_messages %}{% set content = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
SMOLLM3 = (
    "{%- set ns = namespace(first=true) -%}{% for m in messages %}{% generation %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
    "{{- m['content'].split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endgeneration %}"
    "{% if not loop.last %}{% continue %}{% endif %}{% set ns.first = false %}{% endfor %}"
    "{% if add_generation_prompt and not ns.first %}<|im_start|>assistant\n{% endif %}"
)
DROPPING = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
HEADLESS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + CHATML
TEMPLATES = {
    "chatml": CHATML, "gemma": GEMMA, "llama3": LLAMA3, "phi3": PHI3, "llama2": LLAMA2, "smollm3": SMOLLM3,
    "dropping": DROPPING, "headless": HEADLESS, "dated": DATED,
}  # fmt: skip
MARKS = [
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>", "<eos>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
]  # fmt: skip
VOCABULARY = "<tool>"
"""An added token that is no special one."""
KINDS = ("byte", "prefix", "first", "word", "unigram")


def byte_level(special: list[str], vocabulary: int) -> Tokenizer:
    """BPE of bytes, learned from TEXT."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def tokenizer_of(kind: str, template: str | None, eos: str = "</s>", *, adds: str = "") -> PreTrainedTokenizerFast:
    """`kind`: byte-level BPE; BPE whose normaliser prepends a space (Llama 2), or whose pre-tokeniser does at a text's
    beginning; whole words, lower case; unigram with the marks as pieces. `adds`: "bos", "eos", "both" by itself."""
    alphabet = sorted({*TEXT, *"".join(map(chr, range(32, 127))), "▁"})
    trainer: object
    if kind == "byte":
        made, trainer = byte_level(MARKS, 330), None
    elif kind in ("prefix", "first"):
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if kind == "prefix":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=MARKS, initial_alphabet=[*alphabet, "\n"], show_progress=False
        )
    elif kind == "word":
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=MARKS, show_progress=False)
    else:
        pieces = [(mark, 0.0) for mark in MARKS] + [(letter, -4.0) for letter in [*alphabet, "\n"]]
        made = Tokenizer(models.Unigram(pieces, unk_id=MARKS.index("<unk>")))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder, trainer = decoders.Metaspace(), None
    if trainer is not None:
        made.train_from_iterator([TEXT, " ".join(MARKS)] if kind == "word" else [TEXT], trainer)
    made.add_special_tokens(MARKS)
    made.add_tokens([VOCABULARY])
    before, after = ("<s>" if adds in ("bos", "both") else ""), (eos if adds in ("eos", "both") else "")
    if adds:
        made.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".split(), pair=f"{before} $A {after} $B:1 {f'{after}:1' * bool(after)}".split(),
            special_tokens=[(mark, made.token_to_id(mark)) for mark in {before, after} if mark],
        )  # fmt: skip
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=eos, unk_token="<unk>")
    if template is not None:
        fast.chat_template = template
    return fast


def save_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, generation_ends: list[int] | None = None, **sizes: int
) -> Path:
    """A tiny random Llama that reads the tokenizer's ids, in a folder, as a hub would have it."""
    torch.manual_seed(0)
    pad = tokenizer.eos_token_id if tokenizer.unk_token is None else tokenizer.unk_token_id
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, **sizes}
    config = LlamaConfig(
        vocab_size=len(tokenizer), intermediate_size=48, num_hidden_layers=2, max_position_embeddings=2048,
        tie_word_embeddings=True, initializer_range=0.3, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=pad, **sizes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if generation_ends is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation_ends}))
    return folder


def llama_writer(file: Path, config: LlamaConfig) -> gguf.GGUFWriter:
    """Of a GGUF file, which says already of what shape its Llama is."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    return writer
