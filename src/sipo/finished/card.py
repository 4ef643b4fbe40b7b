"""The model card of an exported policy: recipe, numbers, front, limits, and how to load it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load

from sipo import __version__
from sipo.config import Config
from sipo.errors import SipoError
from sipo.finished.loading import how_to_use
from sipo.methods.registry import specs
from sipo.models.chat import Codec
from sipo.models.locate import origin_of
from sipo.models.pretrained import Origin, folder_of
from sipo.plain import Markdown, code, escape, markdown_table
from sipo.report.fronts import better, left_out
from sipo.report.measure import REWARDS, measure_of
from sipo.runs.status import fronts_of, read_subject
from sipo.settings.model import on_the_hub
from sipo.weights import ROUNDING, Weight

if TYPE_CHECKING:
    from sipo.finished.cutting import Cut
    from sipo.finished.handle import AlignedModel

MOST = 25
"""Points of a front that a card shows: those nearest to the model's weight."""
LICENCE = ("license", "license_name", "license_link")
"""Where a card of the hub states it."""


def model_card(
    model: "AlignedModel", *, base: str, rank: int | None, codec: Codec | None = None, lowered: "Cut | None" = None
) -> str:
    """A README.md in Markdown with the hub's header.

    `base` is what the policies stand on, as others load it: a hub id or an absolute path. `rank` is the adapter's, None
    for a merged model; `codec` tells how the model is asked, and `lowered` what a lower rank cost.
    """
    run, config, method = model.run.path, model.run.config, model.method
    shares = ", ".join(f"{name} {share:g}" for name, share in (model.weights or {}).items()) or "any weight"
    even = 1 / len(config.names)
    weight = tuple((model.weights or dict.fromkeys(config.names, even)).values())
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
        eval_results=_eval_results(fronts, config, method, weight) or None,
        **licence,
    )
    parts = [
        f"# {escape(name)} at {shares}",
        f"A {kind}, the method {code(method)} at this weight over {len(config.names)} objectives, made with "
        f"sipo {__version__} (Self-Improvement Towards Pareto Optimality, arXiv 2502.14354).",
        "## Recipe",
        _recipe(model, shares, base, rank, lowered),
        "## Numbers",
        _numbers(fronts, config, weight, method),
        *_front(fronts, config, weight, method),
        "## Limits",
        _limits(fronts, config, kind, licence.get("license")),
        "## How to use it",
        how_to_use(base, revision, rank, codec),
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


def _eval_results(fronts: Mapping[str, Any] | None, config: Config, method: str, weight: Weight) -> list[EvalResult]:
    """What was measured of this very model, for the header: of its method at its weight, and no other."""
    points = fronts["methods"].get(method, {}).get("points", []) if fronts else []
    measured = next((p for p in points if p["weights"] is None or _distance(p, config.names, weight) <= ROUNDING), None)
    if fronts is None or measured is None:
        return []
    measure, source = measure_of(fronts), config.data.source
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=source.name if source and on_the_hub(source.name) else "preference-rows",
            dataset_name=config.data.path.name,
            dataset_split="test",
            metric_type=each["name"],
            metric_name=f"{measure.point} of {each['name']} ({better(each['direction'])})",
            metric_value=round(measured["rewards"][each["name"]], 4),
        )
        for each in fronts["objectives"]
    ]


def _recipe(model: "AlignedModel", shares: str, base: str, rank: int | None, lowered: "Cut | None") -> str:
    run, config, method = model.run.path, model.run.config, model.method
    align, realign = config.align, config.realign
    steps = f"DPO: beta {align.beta:g}, epochs {align.epochs}"
    if method in specs() and specs()[method].improves:
        steps += f"; then SIPO's realignment: beta {realign.beta:g}, alpha {realign.alpha:g}, epochs {realign.epochs}"
    named = base if on_the_hub(base) else config.model.path  # a place on this machine tells others nothing
    found = "" if base in (named, config.model.path) else f" (found at {code(base)})"
    at = config.model.revision if base == config.model.path else None
    revision = escape(f"at revision {at}" if at else "")
    tuned = ", fine-tuned on the responses of the data" if config.fine_tunes else ""
    lora = f"r {config.lora.r}, alpha {config.lora.alpha:g} for each policy"
    here = f"; r {rank} here, " + (f"cut from {lowered.exact}: {lowered}" if lowered else "since the sum is exact")
    exact = "" if rank is None else here
    rows = {
        "base": Markdown(" ".join(filter(None, [escape(named), revision])) + tuned + found),
        "weights": shares,
        "policies": steps,
        **({"parameters": "all trained"} if config.policies == "full" else {"LoRA": lora + exact}),
        "data": f"{config.data.path.name}, digest {read_subject(run)['rows']}",
        "seed": str(config.seed),
    }
    goals = [f"- {o.name} ({o.direction}): {escape(o.better)}" for o in config.objectives]
    return "\n".join([markdown_table(["", ""], rows.items()), "", "Objectives:", "", *goals])


def _numbers(fronts: Mapping[str, Any] | None, config: Config, weight: Weight, method: str) -> str:
    """What the run measured closest to this model."""
    if fronts is None:
        return "The run was not evaluated."
    shown = [name for name in dict.fromkeys(("base", "soups", "sipo", method)) if name in fronts["methods"]]
    lines = [_row(fronts, name, _nearest(fronts, name, config.names, weight)[0]) for name in shown]
    about = (
        f"This model is {code(method)}."
        if method in fronts["methods"]
        else f"This model is {code(method)}, which the run did not measure itself."
    )
    if not lines:
        return about
    measure = measure_of(fronts)
    what = f"{measure.point} on held-out prompts, with its 95 % bootstrap interval, at the nearest weights measured:"
    told = [what, _table(fronts, lines), left_out(fronts), *measure.caveats(fronts), about]
    return "\n\n".join(filter(None, told))


def _front(fronts: Mapping[str, Any] | None, config: Config, weight: Weight, method: str) -> list[str]:
    """The same of all weights, of the model's method or, where that was not measured, of soups."""
    name = next((each for each in (method, "soups") if fronts and each in fronts["methods"]), None)
    if fronts is None or name is None or len(fronts["methods"][name]["points"]) < 2:
        return []
    points = fronts["methods"][name]["points"]
    near = _nearest(fronts, name, config.names, weight)[:MOST]
    more = f" (the {MOST} of {len(points)} nearest to this one)" if len(points) > MOST else ""
    lines = [_row(fronts, name, point) for point in points if point in near]
    said = f"Other weights are other exports of the run. {code(name)} at those that were measured{more}:"
    return ["## Front", Markdown(said), _table(fronts, lines)]


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
    what = f"`{licence}`; see there for its terms" if licence else "not stated where sipo found it; look it up"
    said.append(f"The base model's licence holds for this {kind}, too: {what}.")
    return "\n".join(f"- {each}" for each in said)


def _row(fronts: Mapping[str, Any], name: str, point: Mapping[str, Any]) -> list[str]:
    at = "any" if point["weights"] is None else ", ".join(f"{n} {s:g}" for n, s in point["weights"].items())
    names = [each["name"] for each in fronts["objectives"]]
    cells = ["{:.3f} [{:.3f}, {:.3f}]".format(point["rewards"][n], *point["interval"][n]) for n in names]
    return [name, at, *cells, f"{point['length']:.0f}"]


def _table(fronts: Mapping[str, Any], lines: Sequence[Sequence[str]]) -> Markdown:
    names = [f"{each['name']} ({better(each['direction'])})" for each in fronts["objectives"]]
    return markdown_table(["method", "weights", *names, "tokens"], lines)


def _nearest(
    fronts: Mapping[str, Any], name: str, objectives: tuple[str, ...], weight: Weight
) -> list[Mapping[str, Any]]:
    return sorted(fronts["methods"][name]["points"], key=lambda point: _distance(point, objectives, weight))


def _distance(point: Mapping[str, Any], names: tuple[str, ...], weight: Weight) -> float:
    shares = point["weights"] or {}
    return sum(abs(shares.get(name, 0.0) - share) for name, share in zip(names, weight, strict=True))
