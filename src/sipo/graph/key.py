"""What a stage's output depends on, as a key: settings, version, and the content of what it was made from.

An input counts by its bytes, so one that was made anew and came out the same stops there.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.config import Config
from sipo.declare.stage import Part, Stage, function_of
from sipo.disk.content import Seal, rough_digest, short_digest
from sipo.filters.registry import find as find_rule
from sipo.rewards.kinds.registry import kind_of
from sipo.rewards.objective import Objective, file_of
from sipo.settings import Section

if TYPE_CHECKING:
    from sipo.task import Task


def subject_of(task: "Task") -> dict[str, Any]:
    """What a run is about: the model, the rows and the objectives, of which others make another run.

    Part of every stage's key.
    """
    rows = ([row.id, row.preferred, *filter(None, [row.split])] for row in task.rows)
    from sipo.models.load import identify  # loads torch, which a graph is there without

    return {
        "model": identify(task.config.model),
        "rows": short_digest(json.dumps(row, sort_keys=True).encode() for row in rows),
        "objectives": list(task.objectives),
    }


def key_of(
    stage: Stage,
    config: Config,
    subject: Mapping[str, Any],
    inputs: Mapping[str, str],
    outside: Mapping[str, str | None] | None = None,
) -> str:
    """`subject` is what the run is about; `inputs` the digests of the outputs that it is made from, by their names in
    `stage.outputs()`; `outside` what `outside_of` gives.
    """
    read = {key: setting(config, key) for key in stage.reads}
    outside = outside_of(stage, config) if outside is None else outside
    return _digest([stage.name, stage.version, read, dict(stage.given), dict(subject), dict(inputs), dict(outside)])


def outside_of(stage: Stage, config: Config) -> dict[str, str | None]:
    """Digests of what the stage's settings only name, by the setting: prompt templates, models and adapters on
    disk, the code of functions and of plug-ins. They may change in their places. None for what is not to be found
    from here.
    """
    found = dict(code_of(stage.make, *stage.brought))
    for name in ("review_template", "rewrite_template"):
        path = getattr(config.refine, name)
        if path is not None and f"refine.{name}" in stage.reads:
            found[f"refine.{name}"] = short_digest(path.read_bytes()) if path.is_file() else None
    if "filter" in stage.reads:
        found.update(_at_places("filter", config.filter, find_rule(config.filter.rule).places))
    if "objectives.reward" in stage.reads:
        for objective in config.objectives:
            found.update(_named_by(objective))
    return found


def digest_of_part(seal: Seal, part: Part) -> str:
    """Of a part's files, as the stage's seal has them."""
    held = {
        name: about["sha256"]
        for name, about in seal.items()
        if part.files in (name, ".") or name.startswith(f"{part.files}/")
    }
    return _digest(held)


def is_key(config: Config, key: str) -> bool:
    """Has the configuration such a key, with the rules that it has?"""
    section, _, rest = key.partition(".")
    value: Any = config.objectives[0] if section == "objectives" else config
    for name in (rest if section == "objectives" else key).split("."):
        if value is None:  # a part that may be left out
            return True
        if not isinstance(value, Section) or name not in type(value).model_fields:
            return False
        value = getattr(value, name)
    return True


def setting(config: Config, key: str) -> Any:
    """The value of a key as plain data."""
    if key in SPECIAL:
        return SPECIAL[key](config)
    value: Any = config
    section, _, rest = key.partition(".")
    if section == "objectives":
        return [getattr(objective, rest) for objective in config.objectives]
    for name in key.split("."):
        value = None if value is None else getattr(value, name)
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def _digest(content: Any) -> str:
    return short_digest(json.dumps(content, sort_keys=True, default=str))


def _data(config: Config) -> Any:
    """Where the rows are from is no matter: they themselves are in the subject."""
    return config.data.model_dump(mode="json", exclude={"path", "source"})


def _usual(lora: dict[str, Any]) -> dict[str, Any]:
    """Left open, the modules follow from the model; where they can be the usual ones, they are. All layers need no
    word, as before there was one.
    """
    some = {name: value for name, value in lora.items() if name != "layers" or value not in ("all", 0)}
    return {**some, "target_modules": lora["target_modules"] or ["q_proj", "k_proj", "v_proj", "o_proj"]}


def _lora(config: Config) -> Any:
    """How a policy is made: with whole models, that it is one."""
    if config.policies == "full":
        return config.policies
    return _usual(config.lora.model_dump(mode="json"))


def _sft(config: Config) -> Any:
    read = config.sft.model_dump(mode="json") if config.sft else {}
    return {**read, "lora": _usual(read["lora"])} if read.get("lora") else read


def _measured_by(objective: Objective) -> list[Any]:
    """What an objective's values depend on; a judge also reads what is better, and its pace changes nothing."""
    reward = objective.reward
    if not isinstance(reward, Section):
        in_file = file_of(reward) if reward else None  # which counts by its content, wherever it lies
        return [f"{in_file[0].name}:{in_file[1]}" if in_file else reward, objective.direction]
    kind = kind_of(reward)
    words = [objective.better] if kind.by_words else []
    raised = [kind.version] if kind.version > 1 else []
    return [reward.model_dump(mode="json", exclude=set(kind.pace)), objective.direction, *words, *raised]


def _named_by(objective: Objective) -> Iterator[tuple[str, str | None]]:
    """What an objective's reward names, and its digest; a hub id is all that is known of a model there."""
    reward, place = objective.reward, f"objectives.{objective.name}.reward"
    if isinstance(reward, str):
        yield place, _code(reward)
    elif isinstance(reward, Section):
        kind = kind_of(reward)
        yield from code_of(kind.scorer)
        yield from _at_places(place, reward, kind.places)


def _at_places(section: str, settings: Section, names: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """What keys that may name a file or a folder name, and its digest."""
    for name in names:
        path = Path(getattr(settings, name) or "").expanduser()
        if path.is_absolute() or (path.parts and path.exists()):
            yield f"{section}.{name}", rough_digest(path) if path.exists() else None


def code_of(*functions: Callable[..., Any]) -> Iterator[tuple[str, str | None]]:
    """Where plug-ins bring code, its module and digest; sipo's own counts by the versions of its stages."""
    for module in sorted({function_of(each).__module__ for each in functions}):
        if module.partition(".")[0] != __name__.partition(".")[0]:
            yield f"code of {module}", _code(module)


@cache
def _code(function: str) -> str | None:
    """Of the file of a function's module, which is not imported; what it imports in turn is not followed.

    Once a process, which goes on with the code that it has once loaded.
    """
    if in_file := file_of(function):
        return short_digest(in_file[0].read_bytes()) if in_file[0].is_file() else None
    first, *rest = function.partition(":")[0].split(".")
    try:
        spec = find_spec(first)
        for part in rest:
            spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations) if spec else None
    except (ImportError, ValueError):  # no name of a module; one that was made by hand
        return None
    file = Path(spec.origin) if spec and spec.origin else None
    return short_digest(file.read_bytes()) if file and file.is_file() else None


SPECIAL: Mapping[str, Callable[[Config], Any]] = {
    "data": _data,
    "lora": _lora,
    "sft": _sft,
    "refine.review_template": lambda _: None,  # it counts by its content
    "refine.rewrite_template": lambda _: None,
    "objectives.reward": lambda config: [_measured_by(objective) for objective in config.objectives],
}
