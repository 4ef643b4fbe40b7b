"""Which stages a run has, what each reads, and so the fingerprint that tells whether its output still holds."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.config import Config, Judge, Objective, Section
from sipo.disk.content import rough_content
from sipo.errors import SipoError
from sipo.methods.names import stages_needed

if TYPE_CHECKING:  # `sipo status` reads the plan and must not wait for torch
    from sipo.task import Task


@dataclass(frozen=True)
class Stage:
    name: str
    needs: tuple[str, ...]
    """Stages whose output it reads."""
    reads: tuple[str, ...]
    """What it reads of the configuration: sections, or a field of every objective."""
    form: int = 1
    """Raised when the stage writes something else than before: what an earlier version wrote is then made anew."""


SFT = Stage("sft", (), ("seed", "subject", "data", "sft"))
ALIGN = Stage("align", (), ("seed", "subject", "data", "lora", "align"))
LW = Stage("lw", ("align",), ("weights",))
MODPO = Stage("modpo", ("align",), ("weights", "modpo"))
RACO = Stage("raco", ("align",), ("weights", "raco"))
CONSENSUS = Stage("consensus", ("align",), ("weights",))
CALIBRATE = Stage("calibrate", ("align",), ("calibration",))
SAMPLE = Stage("sample", ("align",), ("weights", "decoding", "sample"))
REFINE = Stage("refine", ("sample",), ("refine", "templates", "objectives.better", "gains"))
SCORE = Stage("score", ("sample",), ("judges",))
FILTER = Stage("filter", ("score",), ("filter",))
REALIGN = Stage("realign", ("filter",), ("realign",))
EVALUATE = Stage("evaluate", (), ("methods", "weights", "decoding", "mod", "evaluate", "rewards"), form=2)
REPORT = Stage("report", ("evaluate",), ("report", "objectives.better"))


def stages_of(config: Config) -> list[Stage]:
    """The stages in order, as the run's methods and SIPO's switches ask for them."""
    needed = stages_needed(config.methods)
    first = [SFT, replace(ALIGN, needs=("sft",))] if config.fine_tunes else [ALIGN]
    stages = [*first, *(stage for stage in (LW, MODPO, RACO, CONSENSUS) if stage.name in needed)]
    if "realign" in needed:
        stages += _self_improvement(config)
    evaluate = replace(EVALUATE, needs=tuple(stage.name for stage in stages if stage.name in needed))
    return [*stages, evaluate, REPORT]


def _self_improvement(config: Config) -> list[Stage]:
    """From the samples to the realigned policies."""
    judged = [CALIBRATE] if config.filter.rule == "calibrated" else []
    refined = [REFINE] if config.refine.enabled else []
    reads = FILTER.reads if config.filter.rule != "rewards" else (*FILTER.reads, "rewards")
    return [
        *judged,
        SAMPLE,
        *refined,
        replace(SCORE, needs=("refine",)) if refined else SCORE,
        replace(FILTER, needs=(*(stage.name for stage in judged), "score"), reads=reads),
        REALIGN,
    ]


def subject(task: "Task") -> dict[str, Any]:
    """What a run is about: another model, other rows or other objectives make another run."""
    from sipo.models.load import identify

    rows = hashlib.sha256()
    for row in task.rows:
        rows.update(json.dumps([row.id, row.preferred, *filter(None, [row.split])], sort_keys=True).encode())
    return {
        "model": identify(task.config.model),
        "rows": rows.hexdigest()[:16],
        "objectives": list(task.objectives),
    }


def fingerprints(config: Config, about: dict[str, Any]) -> dict[str, str]:
    """For every stage, a hash of all that its output depends on."""
    result: dict[str, str] = {}
    for stage in stages_of(config):
        read = {name: _read(config, name, about) for name in stage.reads}
        upstream = [result[name] for name in stage.needs]
        content = json.dumps(
            [stage.name, read, upstream, *([stage.form] if stage.form > 1 else [])], sort_keys=True, default=str
        )
        result[stage.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return result


def _read(config: Config, name: str, about: dict[str, Any]) -> Any:
    if name == "subject":
        return about
    if name == "rewards":
        return [_measured_by(objective) for objective in config.objectives]
    if name == "objectives.better":
        return [o.better for o in config.objectives]
    if name == "templates":
        paths = (config.refine.review_template, config.refine.rewrite_template)
        return [_content(path) if path else None for path in paths]
    if name == "lora":
        return _usual(config.lora.model_dump(mode="json"))
    if name == "sft" and config.sft and config.sft.lora:
        return {**config.sft.model_dump(mode="json"), "lora": _usual(config.sft.lora.model_dump(mode="json"))}
    if name == "data":  # where they are from is no matter: the rows themselves are in the subject
        return config.data.model_dump(exclude={"path", "source"})
    if name == "refine":
        return config.refine.model_dump(exclude={"review_template", "rewrite_template"})
    if name == "calibration":
        return config.filter.folds
    if name == "judges":
        return config.filter.judges
    if name == "gains":
        return config.filter.beta
    if name in ("seed", "methods"):
        return getattr(config, name)
    return getattr(config, name).model_dump(mode="json")


def _usual(lora: dict[str, Any]) -> dict[str, Any]:
    """Left open, the modules follow from the model; where they can be the usual ones, they are."""
    return {**lora, "target_modules": lora["target_modules"] or ["q_proj", "k_proj", "v_proj", "o_proj"]}


def _measured_by(objective: Objective) -> list[Any]:
    """What an objective's values depend on; a judge also reads what is better, and its pace changes nothing.

    A model or an adapter in a folder counts by its content: it may be trained anew in the same place.
    """
    reward = objective.reward
    pace = {"concurrency", "requests_per_minute", "timeout", "retries", "key_variable"}
    settings = reward.model_dump(mode="json", exclude=pace) if isinstance(reward, Section) else reward
    if isinstance(reward, Judge):
        return [settings, objective.direction, objective.better]
    named = [getattr(reward, name, None) for name in ("model", "policy", "base")]
    folders = [Path(path).expanduser() for path in named if path is not None]
    return [settings, objective.direction, *(_digest(folder) for folder in folders if folder.is_dir())]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for part in rough_content(folder):
        digest.update(part)
    return digest.hexdigest()[:16]


def _content(path: Any) -> str:
    try:
        return str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SipoError(f"prompt template {path}: cannot be read ({error})") from None
