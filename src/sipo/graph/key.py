"""What a stage's output depends on, as a key: settings, version, and the content of what it was made from.

An input counts by its bytes, so one that was made anew and came out the same stops there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sipo.config import Config, Objective, Section
from sipo.disk.content import Seal, rough_content
from sipo.errors import SipoError
from sipo.graph.stage import Part, Stage
from sipo.rewards.kinds.registry import kind_of


def key_of(stage: Stage, config: Config, subject: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """`subject` is what the run is about; `inputs` the digests of the outputs that it is made from, by their names in
    `stage.outputs()`. Raises SipoError for a file that a setting names and that cannot be read.
    """
    read = {key: setting(config, key) for key in stage.reads}
    content = [stage.name, stage.version, read, dict(stage.given), dict(subject), dict(inputs)]
    return _digest(content)


def digest_of_part(seal: Seal, part: Part) -> str:
    """Of a part's files, as the stage's seal has them."""
    held = {
        name: about["sha256"]
        for name, about in seal.items()
        if part.files in (name, ".") or name.startswith(f"{part.files}/")
    }
    return _digest(held)


def setting(config: Config, key: str) -> Any:
    """The value of a key as plain data; of what lies outside the configuration, its content."""
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
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _data(config: Config) -> Any:
    """Where the rows are from is no matter: they themselves are in the subject."""
    return config.data.model_dump(mode="json", exclude={"path", "source"})


def _usual(lora: dict[str, Any]) -> dict[str, Any]:
    """Left open, the modules follow from the model; where they can be the usual ones, they are."""
    return {**lora, "target_modules": lora["target_modules"] or ["q_proj", "k_proj", "v_proj", "o_proj"]}


def _lora(config: Config) -> Any:
    """How a policy is made: with whole models, that it is one."""
    if config.policies == "full":
        return config.policies
    return _usual(config.lora.model_dump(mode="json"))


def _sft(config: Config) -> Any:
    read = config.sft.model_dump(mode="json") if config.sft else {}
    return {**read, "lora": _usual(read["lora"])} if read.get("lora") else read


def _template(name: str) -> Callable[[Config], str | None]:
    def content(config: Config) -> str | None:
        path = getattr(config.refine, name)
        if path is None:
            return None
        try:
            return str(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SipoError(f"prompt template {path}: cannot be read ({error})") from None

    return content


def _measured_by(objective: Objective) -> list[Any]:
    """What an objective's values depend on; a judge also reads what is better, and its pace changes nothing.

    A model or an adapter in a folder counts by its content: it may be trained anew in the same place.
    """
    reward = objective.reward
    if not isinstance(reward, Section):
        return [reward, objective.direction]
    kind = kind_of(reward)
    words = [objective.better] if kind.by_words else []
    named = [getattr(reward, name) for name in kind.places]
    folders = [Path(path).expanduser() for path in named if path is not None]
    content = [_content(folder) for folder in folders if folder.is_dir()]
    return [reward.model_dump(mode="json", exclude=set(kind.pace)), objective.direction, *words, *content]


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for part in rough_content(folder):
        digest.update(part)
    return digest.hexdigest()[:16]


SPECIAL: Mapping[str, Callable[[Config], Any]] = {
    "data": _data,
    "lora": _lora,
    "sft": _sft,
    "refine.review_template": _template("review_template"),
    "refine.rewrite_template": _template("rewrite_template"),
    "objectives.reward": lambda config: [_measured_by(objective) for objective in config.objectives],
}
