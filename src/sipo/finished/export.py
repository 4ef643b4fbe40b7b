"""Policies for others to load: a method's model at a preference weight, as an ordinary adapter or merged."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from sipo.bank import Adapter, Policy, load_adapter, save_adapter, soup
from sipo.bank.kinds import base_of
from sipo.bank.whole import wearing
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.finished.built import MADE
from sipo.finished.card import About, model_card
from sipo.finished.cutting import Cut, cut_to
from sipo.finite import infinite_tensor
from sipo.hush import without_bars
from sipo.models.chat import Codec
from sipo.models.ends import stated
from sipo.models.load import UNLIMITED, Backbone
from sipo.models.locate import locate, origin_of
from sipo.models.pretrained import read_config, read_generation, read_tokenizer
from sipo.models.shapes import outline, shape_of
from sipo.runs.outputs import backbone_of
from sipo.settings import Model
from sipo.settings.model import on_the_hub

if TYPE_CHECKING:
    from sipo.finished.distil import Distilled
    from sipo.finished.handle import AlignedModel


class Exported(NamedTuple):
    folder: Path
    base: str | None
    """What the adapter stands on; None for a whole model."""
    rank: int | None
    cut: Cut | None
    """What a lower rank cost."""


def export(
    model: "AlignedModel",
    to: Path,
    *,
    merged: bool,
    base: str | None = None,
    rank: int | None = None,
    distilled: "Distilled | None" = None,
) -> Exported:
    """Write the model into the new folder `to` (`AlignedModel.save_pretrained`). `distilled` is what it was made of,
    where it was (`sipo.finished.distil`).
    """
    run, config, points = model.run, model.run.config, model.aligned.mixture.points
    check_name(to)
    named = named_base(base)
    whole = merged or config.policies == "full"
    if distilled is None and model.method.startswith(MADE):
        mixture = model.method.removeprefix(MADE)
        raise SipoError(f"`{model.method}` is exported with what it is worth, by --method {mixture} and --distil")
    check_single(model, "no adapter can hold", "export the soup of its policies")
    if merged and config.model.quantise is not None:
        raise SipoError(
            f"the policies stand on {config.model.path} in {config.model.quantise} (model.quantise), into which no "
            "adapter can be merged; export the adapter, without --merged"
        )
    if whole and rank is not None:
        raise SipoError("a rank is an adapter's, and what is written is a whole model; leave the rank out")
    policies, point, lowered = model.aligned.adapters, points[0], None
    stands_on = named or base_of(run.path / "align" / "adapters" / config.names[0])
    with appearing(to) as folder:
        if whole:
            with run.turn:
                backbone = run.task.backbone
                mixed = policies[0].soup(policies, point, backbone.model)
                save_merged(backbone, run.task.codec.stops, mixed, folder)
        else:
            adapter = soup(cast(tuple[Adapter, ...], policies), point)
            if rank is not None and rank < adapter.rank:
                adapter, lowered = cut_to(model, adapter, rank)
            rank = adapter.rank
            save_adapter(adapter, folder, stands_on)
            if named:
                _check_fit(folder, named)
        codec = _if_here(backbone_of(run.path, config))
        about = About(stands_on, rank, codec, lowered, distilled)
        write_text(folder / "README.md", model_card(model, about))
    return Exported(to, None if whole else stands_on, rank, lowered)


def check_single(model: "AlignedModel", cannot: str, instead: str) -> None:
    """Raise SipoError where no one model answers as it does: `cannot` hold several, and what to do `instead`."""
    if model.aligned.only_asks:
        raise SipoError(f"`{model.method}` is a way of asking the model, which no adapter can hold")
    if (several := len(model.aligned.mixture.points)) > 1:
        raise SipoError(
            f"`{model.method}` mixes {several} models while decoding, which {cannot}; "
            f"{instead}, by the method soups or sipo-soups"
        )


def named_base(base: str | None) -> str | None:
    """As adapters and cards name it: a hub id, or the absolute path of a folder that holds a model; None is not given.

    Raises SipoError for what is neither.
    """
    if base is None:
        return None
    if not base.strip():
        raise SipoError("base is empty; give a hub id or a folder")
    if base.startswith("package:") or base.endswith(".gguf"):
        raise SipoError(f"base {base}: PEFT and vLLM load no GGUF file; give a hub id or a folder")
    found, local = locate(base)
    if not local and not on_the_hub(found):
        raise SipoError(f"base {base}: is no hub id, which looks like `owner/name`, and no folder")
    return found


def _check_fit(adapter: Path, base: str) -> None:
    """Raise SipoError where the base is on this machine and has not the layers that the adapter changes."""
    shape = shape_of(base)
    try:
        if shape is not None:
            load_adapter(adapter, outline(shape))
    except SipoError as problem:
        reason = str(problem).removeprefix(f"{adapter}: ")
        raise SipoError(f"base {base}: is another model than the policies stand on ({reason})") from None


def codec_of(model: Model, longest: int = UNLIMITED) -> Codec:
    """How the model is asked, and its answers of at most so many tokens read, without its weights.

    Raises SipoError where it is not on this machine.
    """
    origin = origin_of(model)
    ends, tokenizer = stated(read_config(origin), read_generation(origin)), read_tokenizer(origin)
    return Codec(tokenizer, UNLIMITED, longest, model.prompt_template, ends, model.end_tokens, thinking=model.thinking)


def _if_here(model: Model) -> Codec | None:
    try:
        return codec_of(model)
    except SipoError:
        return None


def save_merged(backbone: Backbone, stops: Collection[int], policy: Policy, folder: Path) -> None:
    """Write the backbone as it is with the policy, and leave it as it was. `stops` end an answer.

    Raises SipoError for weights that are not finite.
    """
    weights, generation = policy.merged(backbone.model), backbone.model.generation_config
    name = infinite_tensor(weights.items())
    if name is not None:
        raise SipoError(f"export: the merged {name} is not finite in {weights[name].dtype}; set model.dtype to float32")
    ends = generation.eos_token_id
    with wearing(backbone.model, weights), without_bars():
        try:
            generation.eos_token_id = sorted(stops)  # others stop where the policy learned to, too
            backbone.model.save_pretrained(folder)
        finally:
            generation.eos_token_id = ends
    backbone.tokenizer.save_pretrained(folder)
