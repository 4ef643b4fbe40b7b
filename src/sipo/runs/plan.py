"""Which stages a run has, what each reads, and so the fingerprint that tells whether its output still holds."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sipo.config import Config
from sipo.errors import SipoError

if TYPE_CHECKING:  # `sipo status` reads the plan and must not wait for torch
    from sipo.task import Task


@dataclass(frozen=True)
class Stage:
    name: str
    needs: tuple[str, ...]
    """Stages whose output it reads."""
    reads: tuple[str, ...]
    """What it reads of the configuration: sections, or a field of every objective."""


ALIGN = Stage("align", (), ("seed", "subject", "data", "lora", "align"))
SAMPLE = Stage("sample", ("align",), ("weights", "decoding", "sample"))
REFINE = Stage("refine", ("sample",), ("refine", "templates", "objectives.better", "filter"))
FILTER = Stage("filter", ("refine",), ("filter",))
REALIGN = Stage("realign", ("filter",), ("realign",))
EVALUATE = Stage("evaluate", ("align", "realign"), ("weights", "decoding", "evaluate", "rewards"))
REPORT = Stage("report", ("evaluate",), ("report", "objectives.better"))


def stages_of(config: Config) -> list[Stage]:
    """The stages in order; without `sipo` among the methods, those that only it needs are left out."""
    if "sipo" in config.evaluate.methods:
        return [ALIGN, SAMPLE, REFINE, FILTER, REALIGN, EVALUATE, REPORT]
    evaluate = Stage("evaluate", ("align",), EVALUATE.reads)
    return [ALIGN, evaluate, REPORT]


def subject(task: "Task") -> dict[str, Any]:
    """What a run is about: another model, other rows or other objectives make another run."""
    from sipo.models.load import identify

    rows = hashlib.sha256()
    for row in task.rows:
        rows.update(json.dumps([row.id, row.preferred], sort_keys=True).encode())
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
        content = json.dumps([stage.name, read, upstream], sort_keys=True, default=str)
        result[stage.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return result


def _read(config: Config, name: str, about: dict[str, Any]) -> Any:
    if name == "subject":
        return about
    if name == "rewards":
        return [(o.reward, o.direction) for o in config.objectives]
    if name == "objectives.better":
        return [o.better for o in config.objectives]
    if name == "templates":
        paths = (config.refine.review_template, config.refine.rewrite_template)
        return [_content(path) if path else None for path in paths]
    if name == "data":  # the path is no matter: the rows themselves are in the subject
        return config.data.model_dump(exclude={"path"})
    if name == "refine":
        return config.refine.model_dump(exclude={"review_template", "rewrite_template"})
    if name == "seed":
        return config.seed
    return getattr(config, name).model_dump(mode="json")


def _content(path: Any) -> str:
    try:
        return str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SipoError(f"prompt template {path}: cannot be read ({error})") from None
