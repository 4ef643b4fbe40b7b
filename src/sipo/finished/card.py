"""The model card of an exported policy: recipe, numbers, front, limits, and how to load it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load

from sipo import __version__
from sipo.config import Config
from sipo.errors import SipoError
from sipo.finished.loading import how_to_use
from sipo.finished.numbers import eval_results, front, numbers, of_distilled
from sipo.methods.registry import specs
from sipo.models.chat import Codec
from sipo.models.locate import origin_of
from sipo.models.pretrained import Origin, folder_of
from sipo.models.quantisation import said_of
from sipo.plain import Markdown, code, escape, markdown_table
from sipo.report.measure import REWARDS, measure_of
from sipo.runs.status import fronts_of, read_subject
from sipo.settings.model import on_the_hub

if TYPE_CHECKING:
    from sipo.finished.cutting import Cut
    from sipo.finished.distil import Distilled
    from sipo.finished.handle import AlignedModel

LICENCE = ("license", "license_name", "license_link")
"""Where a card of the hub states it."""


@dataclass(frozen=True)
class About:
    """What a card tells of an export, beside its run."""

    base: str
    """What the policies stand on, as others load it: a hub id or an absolute path."""
    rank: int | None
    """The adapter's; None for a merged model."""
    codec: Codec | None
    """How the model is asked, where that is known."""
    lowered: "Cut | None"
    """What a lower rank cost."""
    distilled: "Distilled | None"
    """What it was made of, where it was."""


def model_card(model: "AlignedModel", about: About) -> str:
    """A README.md in Markdown with the hub's header."""
    base, rank, distilled = about.base, about.rank, about.distilled
    run, config, method = model.run.path, model.run.config, model.method
    of = distilled.method if distilled else method
    shares = ", ".join(f"{name} {share:g}" for name, share in (model.weights or {}).items()) or "any weight"
    even = 1 / len(config.names)
    weight = tuple((model.weights or dict.fromkeys(config.names, even)).values())
    at = " at this weight" if model.weights else ", the same at any weight,"
    whole = "whole model" if config.policies == "full" else "merged model"
    kind = whole if rank is None else "LoRA adapter"
    revision = config.model.revision if base == config.model.path else None
    fronts, licence, name = fronts_of(run, config), licence_of(base, config), run.resolve().name
    header = ModelCardData(
        library_name="transformers" if rank is None else "peft",
        pipeline_tag="text-generation",
        base_model=next(filter(on_the_hub, (base, config.model.path)), None),
        tags=["sipo", "dpo", "full-fine-tuning" if config.policies == "full" else "lora", "preference-alignment"],
        model_name=name,
        eval_results=eval_results(fronts, config, weight, method, distilled) or None,
        **licence,
    )
    parts = [
        f"# {escape(name)} at {shares}" if model.weights else f"# {escape(name)}: {code(method)}",
        f"A {kind}, the method {code(method)}{at} over {len(config.names)} objectives, made with "
        f"sipo {__version__} (Self-Improvement Towards Pareto Optimality, arXiv 2502.14354).",
        "## Recipe",
        _recipe(model, shares, base, _rank(rank, about.lowered, distilled), of),
        *(["## Distilled", of_distilled(distilled, config)] if distilled else []),
        "## Numbers",
        numbers(fronts, config, weight, method),
        *front(fronts, config, weight, of),
        "## Limits",
        _limits(fronts, config, kind, licence.get("license")),
        "## How to use it",
        how_to_use(base, revision, rank, about.codec, config.model.quantise),
    ]
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def licence_of(base: str, config: Config) -> dict[str, Any]:
    """What the base model's own card says of it, by the keys of the hub's header; empty where it is not to be found."""
    places = [Origin(base, local=False)] if on_the_hub(base) else [Origin(base, local=True)]
    with suppress(SipoError):  # it has gone elsewhere
        places.append(origin_of(config.model))
    for folder in filter(None, map(folder_of, places)):
        try:
            stated = metadata_load(folder / "README.md") or {}
        except (OSError, ValueError):  # no card, or none that can be read
            continue
        found = {key: str(stated[key]) for key in LICENCE if isinstance(stated.get(key), str)}
        if "license" in found:
            link = found.get("license_link", "")
            if link and "://" not in link and on_the_hub(base):
                found["license_link"] = f"https://huggingface.co/{base}/blob/main/{link}"
            return found
    return {}


def _rank(rank: int | None, lowered: "Cut | None", distilled: "Distilled | None") -> str:
    """That the adapter has."""
    if rank is None:
        return ""
    how = f", cut from {lowered.exact}: {lowered}" if lowered else "" if distilled else ", since the sum is exact"
    return f"; r {rank} here{how}"


def _recipe(model: "AlignedModel", shares: str, base: str, rank: str, method: str) -> str:
    run, config = model.run.path, model.run.config
    align, realign = config.align, config.realign
    steps = f"DPO: beta {align.beta:g}, epochs {align.epochs}"
    if method in specs() and specs()[method].improves:
        steps += f"; then SIPO's realignment: beta {realign.beta:g}, alpha {realign.alpha:g}, epochs {realign.epochs}"
    named = base if on_the_hub(base) else config.model.path  # a place on this machine tells others nothing
    found = f" (found at {code(base)})" if rank and base not in (named, config.model.path) else ""
    at = config.model.revision if base == config.model.path else None
    revision = escape(f"at revision {at}" if at else "")
    tuned = ", fine-tuned on the responses of the data" if config.fine_tunes else ""
    lora = f"r {config.lora.r}, alpha {config.lora.alpha:g} for each policy"
    rows = {
        "base": Markdown(" ".join(filter(None, [escape(named), revision])) + tuned + found),
        "weights": shares,
        "policies": steps,
        **({"parameters": "all trained"} if config.policies == "full" else {"LoRA": lora + rank}),
        "data": f"{config.data.path.name}, digest {read_subject(run)['rows']}",
        "seed": str(config.seed),
    }
    goals = [f"- {o.name} ({o.direction}): {escape(o.better)}" for o in config.objectives]
    return "\n".join([markdown_table(["", ""], rows.items()), "", "Objectives:", "", *goals])


def _limits(fronts: Mapping[str, Any] | None, config: Config, kind: str, licence: str | None) -> str:
    said = [
        f"It keeps the limits of its base model and of {code(config.data.path.name)}, whose preferences it learned; "
        "nothing else was aimed at, safety included, unless an objective above says so.",
        f"It learned prompts of at most {config.data.max_prompt_tokens} tokens and answers of at most "
        f"{config.data.max_response_tokens}; longer ones were not seen.",
    ]
    if fronts and measure_of(fronts) is REWARDS:
        judged = [each.name for each in config.objectives if each.judged]
        said.append(
            f"The numbers are of {fronts['prompts']} held-out prompts. A reward tells what it measures, and no more"
            + (
                f"; of {', '.join(map(escape, judged))} a language model is the judge, which may err."
                if judged
                else "."
            )
        )
    if rounded := said_of(config.model.quantise):
        said.append(f"{rounded[0].upper()}{rounded[1:]}. All numbers here are of the base in those bits.")
    what = f"`{licence}`; see there for its terms" if licence else "not stated where sipo found it; look it up"
    said.append(f"The base model's licence holds for this {kind}, too: {what}.")
    return "\n".join(f"- {each}" for each in said)
