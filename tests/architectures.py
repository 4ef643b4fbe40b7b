"""Families of language models as tiny random ones, each with what is peculiar to it turned on."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sipo.models.load import attention_of

WINDOW = 6
"""Tokens: shorter than all that the tests score and decode."""
LLAMA: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
HALF = {"layer_types": ["linear_attention", "full_attention"]}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
MAMBA = {
    "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4,
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    model_type: str
    settings: dict[str, Any]
    packs: bool = True
    mixes: bool = True


# fmt: off
FAMILIES = {
    "llama": Family("llama", LLAMA),
    "llama with biases": Family("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "mistral": Family("mistral", {**LLAMA, "sliding_window": WINDOW}),
    "qwen2 with a window": Family("qwen2", {**LLAMA, "use_sliding_window": True, "max_window_layers": 1, **WINDOWED}),
    "qwen3": Family("qwen3", LLAMA),
    "qwen3_moe": Family("qwen3_moe", {**LLAMA, **EXPERTS}),
    "gemma2": Family(
        "gemma2", {**LLAMA, **WINDOWED, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
    ),
    "gemma3": Family("gemma3_text", {**LLAMA, **WINDOWED}),
    "phi": Family("phi", LLAMA),
    "phi3": Family("phi3", LLAMA),
    "gpt_oss": Family("gpt_oss", {**LLAMA, **WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo3": Family("olmo3", {**LLAMA, **WINDOWED}),
    "deepseek_v3": Family("deepseek_v3", {**LLAMA, **LATENT}),
    "smollm3": Family("smollm3", {**LLAMA, "no_rope_layers": [1, 0]}),
    "granite": Family("granite", {**LLAMA, "logits_scaling": 3.0, "residual_multiplier": 0.7}),
    "cohere": Family("cohere", {**LLAMA, "logit_scale": 0.3}),
    "cohere2": Family("cohere2", {**LLAMA, **WINDOWED, "logit_scale": 0.3}),
    "llama4": Family(
        "llama4_text",
        {**LLAMA, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 48, "num_local_experts": 4,
         "layer_types": ["chunked_attention", "full_attention"]},
    ),
    "minicpm3": Family("minicpm3", {**LLAMA, **LATENT, "dim_model_base": 8}),
    "gptj": Family("gptj", {**GPT, "rotary_dim": 4}),
    "gpt2": Family("gpt2", GPT),
    "gpt_neox": Family("gpt_neox", LLAMA),
    "opt": Family("opt", {**LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "xglm": Family("xglm", {**LLAMA, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}),
    "bloom": Family("bloom", LLAMA, packs=False),
    "gpt_neo": Family(
        "gpt_neo",
        {**LLAMA, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
        packs=False, mixes=False,
    ),
    "mpt": Family(
        "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 96, "max_seq_len": 256}, False, False
    ),
    "qwen3_5": Family("qwen3_5_text", {**LLAMA, **LINEAR, **HALF}, packs=False, mixes=False),
    "qwen3_next": Family("qwen3_next", {**LLAMA, **LINEAR, **EXPERTS, **HALF}, packs=False, mixes=False),
    "lfm2": Family("lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"]}, packs=False, mixes=False),
    "falcon_h1": Family("falcon_h1", {**LLAMA, **MAMBA, "mamba_d_ssm": 64}, packs=False, mixes=False),
}
# fmt: on


@cache
def tiny(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Frozen; nothing in it is at zero, biases included."""
    config = AutoConfig.for_model(FAMILIES[family].model_type, **FAMILIES[family].settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.to(dtype).requires_grad_(False)  # type: ignore[no-any-return]
