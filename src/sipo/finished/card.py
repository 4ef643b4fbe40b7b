"""The model card of an exported policy: base, recipe, data, numbers, and how to load it."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sipo import __version__
from sipo.commands import serve
from sipo.config import Config
from sipo.methods.registry import specs
from sipo.models.chat import Codec
from sipo.models.plain import frame
from sipo.plain import Markdown, code, escape, markdown_table
from sipo.report.fronts import better, left_out
from sipo.report.measure import measure_of
from sipo.runs.status import fronts_of, read_subject
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel


def model_card(model: "AlignedModel", *, base: str, rank: int | None, codec: Codec | None = None) -> str:
    """A README.md in Markdown with the hub's header.

    `base` is what the policies stand on, as others load it: a hub id or an absolute path. `rank` is the adapter's, None
    for a merged model; `codec` tells how the model is asked.
    """
    run, config, method = model.run.path, model.run.config, model.method
    shares = ", ".join(f"{name} {share:g}" for name, share in (model.weights or {}).items()) or "any weight"
    even = 1 / len(config.names)
    nearest = tuple((model.weights or dict.fromkeys(config.names, even)).values())
    whole = "whole model" if config.policies == "full" else "merged model"
    kind = whole if rank is None else "LoRA adapter"
    revision = config.model.revision if base == config.model.path else None
    parts = [
        _header(config, base, merged=rank is None),
        f"# {escape(run.resolve().name)} at {shares}",
        f"A {kind}, the method {code(method)} at this weight over {len(config.names)} objectives, made with "
        f"sipo {__version__} (Self-Improvement Towards Pareto Optimality, arXiv 2502.14354).",
        "## Recipe",
        _recipe(model, shares, base, rank),
        "## Numbers",
        _numbers(run, config, nearest, method),
        "## How to use it",
        _use(base, revision, rank, codec),
    ]
    return "\n\n".join(parts) + "\n"


def _header(config: Config, base: str, merged: bool) -> str:
    from huggingface_hub import ModelCardData

    about = ModelCardData(
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        base_model=next(filter(on_the_hub, (base, config.model.path)), None),
        tags=["sipo", "dpo", "full-fine-tuning" if config.policies == "full" else "lora", "preference-alignment"],
    )
    return f"---\n{about.to_yaml()}\n---"


def _recipe(model: "AlignedModel", shares: str, base: str, rank: int | None) -> str:
    run, config, method = model.run.path, model.run.config, model.method
    align, realign = config.align, config.realign
    steps = f"DPO: beta {align.beta:g}, epochs {align.epochs}"
    if method in specs() and specs()[method].improves:
        steps += f"; then SIPO's realignment: beta {realign.beta:g}, alpha {realign.alpha:g}, epochs {realign.epochs}"
    known = f" ({'published as' if on_the_hub(base) else 'found at'} {code(base)})"
    found = known if base != config.model.path else ""
    revision = escape(f"at revision {config.model.revision}" if config.model.revision else "")
    tuned = ", fine-tuned on the responses of the data" if config.fine_tunes else ""
    lora = f"r {config.lora.r}, alpha {config.lora.alpha:g} for each policy"
    exact = "" if rank is None else f"; r {rank} here, since the sum is exact"
    rows = {
        "base": Markdown(" ".join(filter(None, [escape(config.model.path), revision])) + tuned + found),
        "weights": shares,
        "policies": steps,
        **({"parameters": "all trained"} if config.policies == "full" else {"LoRA": lora + exact}),
        "data": f"{config.data.path.name}, digest {read_subject(run)['rows']}",
        "seed": str(config.seed),
    }
    goals = [f"- {o.name} ({o.direction}): {escape(o.better)}" for o in config.objectives]
    return "\n".join([markdown_table(["", ""], rows.items()), "", "Objectives:", "", *goals])


def _numbers(run: Path, config: Config, weight: Weight, method: str) -> str:
    """What the run measured closest to this model."""
    if (fronts := fronts_of(run, config)) is None:
        return "The run was not evaluated."
    shown = dict.fromkeys(("base", "soups", "sipo", method))
    lines: list[list[str]] = []
    for name in (name for name in shown if name in fronts["methods"]):
        points = fronts["methods"][name]["points"]
        point = min(points, key=lambda p: _distance(p["weights"], config.names, weight))
        at = "any" if point["weights"] is None else ", ".join(f"{n} {s:g}" for n, s in point["weights"].items())
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(point["rewards"][o], *point["interval"][o]) for o in config.names]
        lines.append([name, at, *cells, f"{point['length']:.0f}"])
    names = [f"{o['name']} ({better(o['direction'])})" for o in fronts["objectives"]]
    columns = ["method", "weights", *names, "tokens"]
    about = (
        f"This model is {code(method)}."
        if method in fronts["methods"]
        else f"This model is {code(method)}, which the run did not measure itself."
    )
    if not lines:
        return about
    measure = measure_of(fronts)
    what = f"{measure.point} on held-out prompts, with its 95 % bootstrap interval, at the nearest weights measured:"
    told = [what, markdown_table(columns, lines), left_out(fronts), *measure.caveats(fronts), about]
    return "\n\n".join(filter(None, told))


def _use(base: str, revision: str | None, rank: int | None, codec: Codec | None) -> str:
    merged = rank is None
    if merged:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")',
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        ]
    else:
        at = f", revision={_quoted(revision)}" if revision else ""
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'base = AutoModelForCausalLM.from_pretrained({_quoted(base)}{at}, dtype="auto")',
            'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
            f"tokenizer = AutoTokenizer.from_pretrained({_quoted(base)}{at})",
        ]
    served = serve("path/to/this/folder", None if merged else base, rank or 0)
    server = ["", "With vLLM:", "", "```sh", served, "```"] if served else []
    return "\n".join(["```python", *code, *(_asking(codec) if codec else []), "```", *server])


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


def _distance(shares: dict[str, float] | None, names: tuple[str, ...], weight: Weight) -> float:
    return sum(abs((shares or {}).get(name, 0.0) - share) for name, share in zip(names, weight, strict=True))


def on_the_hub(path: str) -> bool:
    """Is it a hub id, as the hub allows them, and nothing on this machine?"""
    named = re.fullmatch(r"\w[\w.-]*/[\w.-]+", path, re.ASCII) is not None and not path.endswith(".gguf")
    return named and not Path(path).exists()
