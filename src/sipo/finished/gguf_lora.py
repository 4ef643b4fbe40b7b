"""A run's policies as GGUF adapters for llama.cpp, whose server adds them up by scales that each request names.

What it adds up, sum_i w_i s_i B_i A_i, is the exact soup of the policies at w.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
from torch import Tensor
from transformers import PretrainedConfig

from sipo.bank import Adapter
from sipo.bank.kinds import base_of
from sipo.commands import llama_scales, llama_server, ratios
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.finished.export import check_single
from sipo.models.locate import gguf_file, origin_of
from sipo.models.pretrained import read_config
from sipo.models.quantisation import said_of
from sipo.runs.outputs import backbone_of

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "granite": "granite", "smollm3": "smollm3", "qwen2": "qwen2",
    "qwen3": "qwen3", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "phi": "phi2", "olmo3": "olmo2",
    "cohere": "command-r", "cohere2": "cohere2",
}  # fmt: skip
"""By transformers' `model_type`, the name that llama.cpp knows the architecture by."""
PAIRED = ("llama", "granite", "smollm3")
"""Architectures whose queries and keys llama.cpp rotates as pairs of neighbours, 2j and 2j + 1; transformers rotates
rows j and j + d/2 of a head together, so their rows change places."""


def export_gguf(model: "AlignedModel", to: Path) -> "dict[str, Any]":
    """Write each policy that the model is a soup of as `NAME.gguf` into the new folder `to`, with a README.md.

    Returns the adapters' files in the order of their ids, their `scales`, the commands' base and the lines that
    start the server and choose the scales. Raises SipoError where no sum of adapters is the model, or llama.cpp knows
    no such layers.
    """
    run, config, points = model.run, model.run.config, model.aligned.mixture.points
    check_name(to)
    if ":" in str(to):
        raise SipoError(f"{to}: llama-server reads no path with a colon in it; name another folder")
    check_single(model, "llama.cpp cannot", "export the policies of its soup")
    adapters = [each for each in model.aligned.adapters if isinstance(each, Adapter)]
    if len(adapters) < len(model.aligned.adapters):
        raise SipoError("policies: full trains whole models, which are no adapters; export one with --merged")
    backbone = backbone_of(run.path, config)
    shape = read_config(origin_of(backbone))
    names = config.names if len(adapters) == len(config.names) else (model.method.replace(":", "-"),)
    base = gguf_file(backbone.path)
    stands_on = base or base_of(run.path / "align" / "adapters" / config.names[0])
    scales = dict(zip(names, points[0], strict=True))
    start = llama_server(base, {to / f"{name}.gguf": scale for name, scale in scales.items()})
    with appearing(to) as folder:
        for name, adapter in zip(names, adapters, strict=True):
            write_adapter(adapter, shape, folder / f"{name}.gguf")
        write_text(folder / "README.md", _page(model, str(stands_on), scales, base))
    files = [to / f"{name}.gguf" for name in names]
    lora = llama_scales(scales.values())
    return {"adapters": files, "scales": scales, "base": str(stands_on), "serve": start, "request": lora}


def write_adapter(adapter: Adapter, config: PretrainedConfig, file: Path) -> None:
    """Write one adapter, in float32. `config` is its base model's.

    Raises SipoError where llama.cpp has no name for a layer.
    """
    tensors = factors(adapter, config)
    writer = gguf.GGUFWriter(file, ARCHITECTURES[config.model_type])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(file.stem)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scaling * adapter.rank)
    for name, (a, b) in tensors.items():
        writer.add_tensor(f"{name}.lora_a", a.contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", b.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def factors(adapter: Adapter, config: PretrainedConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """A [r, d_in] and B [d_out, r] by llama.cpp's name of the weight, such as blk.0.attn_q.weight; B's rows as it has
    them. Raises SipoError for an architecture or a layer that it does not know.
    """
    if config.model_type not in ARCHITECTURES:
        raise SipoError(
            f"model type `{config.model_type}` is none whose adapters sipo writes as GGUF; they are "
            f"{', '.join(ARCHITECTURES)}; export --merged and convert that"
        )
    name = ARCHITECTURES[config.model_type]
    architecture = next(each for each, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    found = {}
    for layer, (a, b) in adapter.factors.items():
        known = names.get_name(layer)
        if known is None:
            raise SipoError(f"llama.cpp's {name} has no layer `{layer}`; export --merged and convert that")
        b = _paired(b, config, known) if name in PAIRED else b
        found[f"{known}.weight"] = a.detach().float().cpu(), b.detach().float().cpu()
    return found


def _paired(b: Tensor, config: PretrainedConfig, name: str) -> Tensor:
    """Of each head of queries and keys, rows 0, d/2, 1, d/2 + 1, ..., so that what is rotated together stands side by
    side.
    """
    kind = name.rpartition(".")[2]
    if kind not in ("attn_q", "attn_k"):
        return b
    heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
    return b.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _page(model: "AlignedModel", base: str, scales: Mapping[str, float], file: Path | None) -> str:
    """How llama.cpp loads them."""
    here = {Path(f"{name}.gguf"): scale for name, scale in scales.items()}
    made = "" if file else (
        "\nMake `model.gguf` of it once, by llama.cpp's `convert_hf_to_gguf.py`; a quantised one answers a little "
        "differently.\n"
    )  # fmt: skip
    if rounded := said_of(model.run.config.model.quantise):
        made += f"\nNote: {rounded}.\n"
    at = f" at {ratios(model.weights)}" if model.weights else ""
    sum_ = f"At the scales below they sum to the method `{model.method}`{at}"
    sum_ += "; at the shares of any other weight, to the soup there." if len(scales) > 1 else "."
    return f"""# Policies of {model.run.path.resolve().name} for llama.cpp

Each file is an adapter over `{base}`. {sum_}
{made}
```sh
{llama_server(Path(file.name) if file else None, here)}
```

Requests are answered at these scales, unless they name others, for all of the adapters: 0, 1, ... are
{", ".join(scales)}. To name these, a request has, beside its other fields,

```json
{json.dumps(llama_scales(scales.values()))}
```

Scales of 0 are the base model. An empty list counts as no scales named.
"""
