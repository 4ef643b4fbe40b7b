"""`sipo init`: a short commented configuration to start from."""

import os
import re
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment

from sipo.data import objectives_of, read_rows
from sipo.disk.locking import alone
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.rewards.objective import UNNAMED, UNSAID
from sipo.settings.section import NAME

EXAMPLES = [
    {
        "name": "detail",
        "better": "It says more, with many different words and no repetition.",
        "reward": "sipo.rewards.text:distinct_words",
        "remark": "module:function that judges held-out responses",
    },
    {
        "name": "plain",
        "better": "It uses short, everyday words and short sentences.",
        "reward": "sipo.rewards.text:reading_ease",
        "remark": "0 (hard) to 100 (plain)",
    },
]


def write_config(path: Path, data: Path | None = None) -> None:
    """Write a new configuration, with the objectives that `data` has labels for.

    Raises SipoError where `path` exists or `data` is not all valid.
    """
    with alone(path):
        if path.exists():
            raise SipoError(f"{path}: exists already; name another file, or remove it")
        write_text(path, _text(path, data))


def _text(path: Path, data: Path | None) -> str:
    objectives = EXAMPLES if data is None else [_objective(name) for name in objectives_of(read_rows(data))]
    unfit = [each["name"] for each in objectives if not re.match(NAME, each["name"])]
    if unfit:
        raise SipoError(
            f"{data}: the objective {unfit[0]!r} cannot be named in a configuration; rename it in the rows to a letter "
            "and then letters, digits, _ and - alone"
        )
    if len(objectives) < 2:
        raise SipoError(f"{data}: has labels for one objective, `{objectives[0]['name']}`; sipo needs two or more")
    where = "rows.jsonl" if data is None else os.path.relpath(data, path.parent)
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters["yaml"] = _scalar
    template = environment.from_string((files("sipo") / "init.yaml").read_text(encoding="utf-8"))
    return template.render(data=where, objectives=objectives)


def _objective(name: str) -> dict[str, str]:
    return {
        "name": name,
        "better": UNSAID.format(name=name),
        "reward": UNNAMED,
        "remark": "what judges held-out responses, such as sipo.rewards.text:words; a model and a judge are others",
    }


def _scalar(text: str) -> str:
    """As YAML, quoted where it must be."""
    return yaml.safe_dump(text, allow_unicode=True, width=10_000).removesuffix("\n").removesuffix("\n...")
