"""A frozen backbone in 4 or 8 bits a weight, its embeddings, norms and output head as they are.

4 bits are bitsandbytes' NF4 with scales that are quantised again (Dettmers et al. 2023, QLoRA), 8 bits torchao's whole
numbers with a scale for each output. Weights alone are rounded: where activations are as well (LLM.int8), what a row
gives depends on the rows beside it.
"""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from sipo.commands import install_extra
from sipo.errors import SipoError
from sipo.settings.model import Quantise

NEEDS = {"4bit": "bitsandbytes", "8bit": "torchao"}
BLOCK = 64
"""Weights that share a scale."""
BITS = {"4bit": 4.127, "8bit": 8.0}
"""Of a weight, scales included: NF4 has one of 8 bits for 64 weights, and one of 32 bits for 256 of those."""


def check_quantise(quantise: Quantise | None) -> None:
    """Raise SipoError where the library is not installed."""
    if quantise is not None and find_spec(NEEDS[quantise]) is None:
        way = install_extra("quantised")
        raise SipoError(f"model.quantise: {quantise} needs {NEEDS[quantise]}; `{way}`, or leave it out")


def said_of(quantise: Quantise | None) -> str:
    """What to say to those who take policies elsewhere; empty where nothing was quantised."""
    if quantise is None:
        return ""
    how = f"{quantise.removesuffix('bit')} bits ({NEEDS[quantise]})"
    plain = "over its plain weights, as other programs load it, they answer otherwise"
    return f"the policies learned over the base in {how}; {plain}"


def options_as_code(quantise: Quantise | None) -> tuple[list[str], str]:
    """How others load the same base: lines of Python to import, and what `from_pretrained` is given besides."""
    if quantise is None:
        return [], ""
    if quantise == "4bit":
        how = (
            'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
            'bnb_4bit_compute_dtype="bfloat16")'
        )
        return ["from transformers import BitsAndBytesConfig"], f", quantization_config={how}"
    imports = ["from torchao.quantization import Int8WeightOnlyConfig", "from transformers import TorchAoConfig"]
    return imports, ", quantization_config=TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))"


def options_of(quantise: Quantise, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given, besides; weights are quantised on the device as they are read."""
    check_quantise(quantise)
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if quantise == "4bit":
        how: Any = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        how = TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    return {"quantization_config": how, "device_map": {"": device}}


def takes(layer: nn.Module, quantise: Quantise) -> bool:
    """Does transformers quantise the layer? bitsandbytes is given no linear layer of a class of its own (Falcon's), and
    torchao no Conv1D (GPT-2's).
    """
    return isinstance(layer, Conv1D) or type(layer) is nn.Linear if quantise == "4bit" else isinstance(layer, nn.Linear)


def settle(model: nn.Module, quantise: Quantise | None) -> None:
    """Keep a processor from what bitsandbytes' kernels for it get wrong: packed weights, which give no gradient.

    Raises SipoError for a layer whose rows do not end with a block: they are read wrongly there; and where nothing has
    been quantised.
    """
    if quantise is not None and not any(is_quantised(each) for each in model.parameters()):
        raise SipoError(
            f"model.quantise: {quantise} leaves all layers of this model as they are, since {NEEDS[quantise]} does not "
            f"take their kind; take {'8bit' if quantise == '4bit' else '4bit'}, or leave it out"
        )
    for name, layer in model.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is None:
            continue
        layer.support_avx512bf16_for_cpu = False
        if layer.weight.device.type == "cpu" and state.shape[-1] % BLOCK:
            raise SipoError(
                f"model.quantise: 4bit on a CPU wants layers whose inputs are a multiple of {BLOCK} wide; {name} reads "
                f"{state.shape[-1]}; take 8bit"
            )


def is_quantised(weight: Tensor) -> bool:
    return is_traceable_wrapper_subclass(weight) or hasattr(weight, "quant_state")


def dense(layer: nn.Module) -> Tensor:
    """The weight that a linear layer computes with, [d_out, d_in], of a `Conv1D` [d_in, d_out]."""
    weight: Any = layer.weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize() if is_quantised(weight) else weight


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors that it is made of: itself, or numbers and their scales."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        if name != "zero_point":
            yield getattr(tensor, name)


def bytes_of(model: nn.Module, head: nn.Module | None, quantise: Quantise | None, each: int) -> tuple[int, int]:
    """Of all weights, and of the largest that is made whole again to compute with; `each` of a number that is not
    quantised. The model may be an outline, to be quantised so.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    if quantise is None:
        small = [parameter for parameter in model.parameters() if is_quantised(parameter)]
        kept = sum(part.numel() * part.element_size() for parameter in small for part in parts(parameter))
        whole = [math.prod(one.quant_state.shape) if hasattr(one, "quant_state") else one.numel() for one in small]
        return (total - sum(one.numel() for one in small)) * each + kept, max(whole, default=0) * each
    weights: list[Any] = [each.weight for each in model.modules() if takes(each, quantise) and each is not head]
    sizes = [weight.numel() for weight in weights]
    return round((total - sum(sizes)) * each + sum(sizes) * BITS[quantise] / 8), max(sizes, default=0) * each
