"""The backbone of a benchmark: a real one, or a shape with random weights; and copies that share its weights."""

import copy
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.settings import Settings
from sipo.bank import Adapter, new_adapter
from sipo.errors import SipoError
from sipo.models.load import Backbone, find_device, load_backbone, pick_dtype
from sipo.models.packed import pack
from sipo.models.shapes import KNOWN
from sipo.settings import Lora, Model

SHAPES: dict[str, PretrainedConfig] = {
    "llama-2-7b": KNOWN["meta-llama/Llama-2-7b-hf"],
    "smollm2-135m": LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
                                max_position_embeddings=8192),
    "tiny": LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3,
                        max_position_embeddings=4096),
}  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UPDATE = 0.02
"""Standard deviation of a random adapter's B: large enough to change what is written."""


def load(settings: Settings) -> Backbone:
    """Frozen. Raises SipoError where the shape or the model is unknown."""
    backbone = _load(settings)
    # Given the last position of several prompts, a strided view, torch's linear on a CPU copies the whole head once a
    # row, and it puts weights into its kernels' order again for every product. Every route is spared that, so that none
    # looks slow for it.
    backbone.model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return backbone


def _contiguous(_: object, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].contiguous(),)


def _load(settings: Settings) -> Backbone:
    if settings.random_weights is None:
        chosen = Model(path=settings.model, dtype=settings.dtype)  # type: ignore[arg-type]
        return load_backbone(chosen, settings.device)
    if settings.random_weights not in SHAPES:
        raise SipoError(f"--random-weights {settings.random_weights}: no such shape; they are {', '.join(SHAPES)}")
    device = find_device(settings.device)
    dtype = pick_dtype(device) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    tokenizer = _byte_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0, "pad_token_id": tokenizer.eos_token_id}
    config = LlamaConfig.from_dict({**SHAPES[settings.random_weights].to_dict(), **ends})
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    pack(model)
    return Backbone(model, tokenizer, f"random {settings.random_weights}")


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, which every shape's vocabulary has room for."""
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
    fast.chat_template = CHAT
    return fast


def random_adapter(model: PreTrainedModel, rank: int, seed: int, layers: Literal["all", "upper"] = "all") -> Adapter:
    fresh = new_adapter(model, Lora(r=rank, alpha=2.0 * rank, layers=layers), seed)
    generator = torch.Generator().manual_seed(seed)
    factors = {n: (a, UPDATE * torch.randn(b.shape, generator=generator)) for n, (a, b) in fresh.factors.items()}
    return Adapter(factors, fresh.scaling)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with modules of its own over the same parameters, for libraries that change modules in place."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    pack(other)
    return other
