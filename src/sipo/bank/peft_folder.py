"""An adapter as a PEFT folder: written for PEFT to load, and read only where sipo computes what PEFT would."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import check_target_module_exists
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sipo.bank.adapter import Adapter
from sipo.errors import SipoError, first_line
from sipo.finite import infinite_tensor
from sipo.memory import is_full

PREFIX = "base_model.model."
NUMBER = re.compile(r"\.(\d+)\.")
"""Of a decoder layer, in the name of a layer in it."""
FACTOR = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+)\.lora_[AB]\.weight")
Factors = dict[str, tuple[Tensor, Tensor]]


class PlainLora(BaseModel):
    """The fields of PEFT's configuration that sipo reads, or that change nothing; all others must have their defaults.

    Some ways of drawing the first weights, PiSSA's and OLoRA's among them, change the base as well, so only those that
    do not are here.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    """Of the base."""
    r: int = Field(ge=1)
    lora_alpha: float
    use_rslora: bool = False
    target_modules: str | list[str] = Field(min_length=1)
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    fan_in_fan_out: bool = False
    """How the base's layers are stored, which they know themselves."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    init_lora_weights: Literal[True, False, "gaussian", "orthogonal"] = True
    auto_mapping: Any = None
    peft_version: Any = None
    inference_mode: Any = False

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)

    @property
    def targets(self) -> LoraConfig:
        """Which layers it changes, as PEFT has it."""
        names = ("r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
        return LoraConfig(**{name: getattr(self, name) for name in names})


def save_adapter(adapter: Adapter, folder: Path, base: str) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads; `base` is a hub id or an absolute path.

    Raises SipoError where a number is not finite.

    >>> adapter = sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))
    >>> sipo.save_adapter(adapter, Path("detail"), base="HuggingFaceTB/SmolLM2-135M-Instruct")
    """
    tensors = {}
    for name, (a, b) in adapter.factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    _check_finite(folder, tensors, "lower the learning rate that it was trained with")
    folder.mkdir(parents=True, exist_ok=True)
    lora = LoraConfig(
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.scaling * adapter.rank,  # type: ignore[arg-type]
        inference_mode=True,
    )
    # Set here, because the constructor makes a set of it, whose order differs from process to process.
    lora.target_modules = _targets(adapter.layers)
    lora.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _targets(layers: Sequence[str]) -> list[str]:
    """What PEFT finds just these layers by: their last names, or where some decoder layer up to the highest is not
    adapted as the others are, all of their names.
    """
    adapted: dict[int, set[str]] = {}
    for name in layers:
        number = NUMBER.search(name)
        adapted.setdefault(int(number[1]) if number else 0, set()).add(NUMBER.sub(".", name, count=1))
    alike = sorted(adapted) == [*range(len(adapted))] and all(each == adapted[0] for each in adapted.values())
    return sorted({name.rsplit(".", 1)[-1] for name in layers} if alike else layers)


def load_adapter(folder: Path, base: PreTrainedModel | None = None) -> Adapter:
    """Read a PEFT LoRA folder; with `base`, the model or its outline, see that it has just the layers that it names.

    Raises SipoError where it is missing, damaged, or anything but a whole plain LoRA. An outline is changed by it.

    >>> adapter = sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))
    >>> len(adapter.factors) > 0  # layers
    True
    """
    lora = read_lora(folder)
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # the reader raises whatever the bytes lead it to
        if is_full(error):
            raise
        raise _unreadable(folder, error) from None
    factors = _factors(folder, lora, tensors)
    _check_finite(folder, tensors, "train it anew, with a lower learning rate")
    if base is not None:
        _check_fit(folder, lora, factors, base)
    return Adapter(factors, lora.scaling)


def read_lora(folder: Path) -> PlainLora:
    """The folder's configuration. Raises SipoError, with the field, for what is not plain LoRA."""
    try:
        fields = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind = fields["peft_type"]
    except Exception as error:  # RecursionError among them
        raise _unreadable(folder, error) from None
    if kind != "LORA":
        raise SipoError(f"{folder}: `peft_type` is {str(kind)[:40]}, which sipo does not read; use plain LoRA")
    defaults = json.loads(json.dumps(LoraConfig().to_dict(), default=str))
    for name, value in fields.items():
        if name in PlainLora.model_fields:
            continue
        # A field of another version of PEFT is off where it is empty.
        if json.dumps(value) != json.dumps(defaults[name]) if name in defaults else value:
            raise SipoError(f"{folder}: uses PEFT's `{name}`, which sipo does not read; use plain LoRA")
    try:
        return PlainLora.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        name, given = problem["loc"][0], fields.get(problem["loc"][0])
        if problem["type"] == "missing":
            raise SipoError(f"{folder}: adapter_config.json has no `{name}`; is the folder whole?") from None
        raise SipoError(
            f"{folder}: has `{name}: {str(given)[:40]}`, which sipo does not read; use plain LoRA as PEFT writes it"
        ) from None


def _factors(folder: Path, lora: PlainLora, tensors: dict[str, Tensor]) -> Factors:
    """Each layer's A [r, d_in] and B [d_out, r] in float32."""
    names: dict[str, None] = {}
    for key, tensor in tensors.items():  # biases, embeddings, magnitudes: the rest would be lost without a word
        known = FACTOR.fullmatch(key)
        if not known or not tensor.is_floating_point():
            raise SipoError(f"{folder}: holds `{key}`, which sipo does not read; use plain LoRA on linear layers")
        names[known["layer"]] = None
    if not names:
        raise SipoError(f"{folder}: the adapter holds no weights; is the folder whole?")
    factors = {}
    for layer in names:
        a, b = (tensors.get(f"{PREFIX}{layer}.{kind}.weight") for kind in ("lora_A", "lora_B"))
        if a is None or b is None:
            raise SipoError(f"{folder}: has one factor of `{layer}` without the other; is the folder whole?")
        if a.dim() != 2 or b.dim() != 2 or not a.shape[0] == b.shape[1] == lora.r:
            shapes = f"lora_A of {tuple(a.shape)} and lora_B of {tuple(b.shape)}"
            raise SipoError(f"{folder}: `{layer}` has {shapes}, not both of rank r = {lora.r}")
        if not _names(folder, lora, layer):
            raise SipoError(f"{folder}: changes `{layer}`, which its target_modules leave out, so PEFT would drop it")
        factors[layer] = a.float(), b.float()
    return factors


def _names(folder: Path, lora: PlainLora, layer: str) -> bool:
    if lora.target_modules == "all-linear":  # which those are only the model tells
        return True
    try:
        return bool(check_target_module_exists(lora.targets, layer))
    except Exception as error:  # a pattern that is none, or fields that exclude each other
        raise SipoError(f"{folder}: PEFT cannot tell which layers it names ({first_line(error)[:200]})") from None


def _check_fit(folder: Path, lora: PlainLora, factors: Factors, base: PreTrainedModel) -> None:
    """Has the adapter all the layers that it names in the base, no others, and of their shapes?"""
    head = next((name for name, module in base.named_modules() if module is base.get_output_embeddings()), None)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is drawn again in a moment
        try:
            inject_adapter_in_model(lora.targets, base, low_cpu_mem_usage=True)
        except Exception as error:  # it raises whatever the pattern and the model lead it to
            raise SipoError(f"{folder}: does not fit its base model ({first_line(error)[:200]})") from None
    wanted = {
        name: (layer.lora_A["default"].weight.shape, layer.lora_B["default"].weight.shape)
        for name, layer in base.named_modules()
        if "default" in getattr(layer, "lora_A", ())
    }
    for name in wanted:
        if name not in factors:
            raise SipoError(f"{folder}: has no weights for `{name}`, which its target_modules name; is it whole?")
    for name, (a, b) in factors.items():
        if name not in wanted:
            raise SipoError(f"{folder}: changes `{name}`, which its base model has not; name the right one as base")
        if name == head:
            raise SipoError(f"{folder}: changes the output head `{name}`, which sipo keeps frozen")
        if (a.shape, b.shape) != wanted[name]:
            shapes = f"{tuple(b.shape)} x {tuple(a.shape)}"
            raise SipoError(f"{folder}: `{name}` has factors of {shapes}, which its base model's layer does not take")


def _check_finite(folder: Path, tensors: dict[str, Tensor], way_out: str) -> None:
    name = infinite_tensor(tensors.items())
    if name is not None:
        raise SipoError(f"{folder}: `{name.removeprefix(PREFIX)}` holds NaN or infinite numbers; {way_out}")


def _unreadable(folder: Path, error: Exception) -> SipoError:
    return SipoError(f"{folder}: no readable PEFT adapter ({first_line(error)[:200]})")
