"""`sipo init`: a short commented configuration to start from."""

import math
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment

from sipo.data import Row, objectives_of, read_rows
from sipo.disk.locking import alone
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.rewards.objective import UNSAID
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
CHARACTERS, ROUND = 2.5, 256
"""Characters of a token, fewer than in most text of any model's; a limit is a multiple of `ROUND`."""
WORDS = {
    "helpfulness": ("It helps more with what was asked.", "It helps less with what was asked."),
    "helpful": ("It helps more with what was asked.", "It helps less with what was asked."),
    "harmless": ("It does less harm.", "It does more harm."),
    "correctness": ("It has all pertinent facts, without errors.", "It has fewer facts, or more errors."),
    "coherence": ("It is clearer and more consistent.", "It is less clear and consistent."),
    "complexity": ("It goes deeper, as an expert would write.", "It is simpler: anyone could have written it."),
    "verbosity": ("It says more, in more detail.", "It says it more briefly."),
    "instruction_following": ("It follows the instructions more closely.", "It follows the instructions less closely."),
    "honesty": ("It is more honest about what it does not know.", "It is less honest about what it does not know."),
    "truthfulness": ("What it says is truer.", "What it says is less true."),
}
"""What is better by the objectives of well-known data sets, and where `sipo data prepare` turned them around."""


def write_config(path: Path, data: Path | None = None) -> None:
    """Write a new configuration, with the objectives that `data` has labels for.

    Raises SipoError where `path` exists or `data` is not all valid.
    """
    with alone(path):
        if path.exists():
            raise SipoError(f"{path}: exists already; name another file, or remove it")
        write_text(path, _text(path, data))


def _text(path: Path, data: Path | None) -> str:
    rows = [] if data is None else read_rows(data)
    objectives = EXAMPLES if data is None else _objectives(data, objectives_of(rows))
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
    return template.render(data=where, objectives=objectives, longest=_room(rows))


def _room(rows: Sequence[Row]) -> int:
    """Tokens that the longest prompt may have, generously: the model that will count them is not asked."""
    longest = max((sum(len(message.content) for message in row.prompt) for row in rows), default=0)
    return max(1, math.ceil(longest / CHARACTERS / ROUND)) * ROUND


def _objectives(data: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Those of the rows. What is better by them is known from the card of rows that were prepared, and from nothing
    else: the user then says it.
    """
    card = data.parent / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    prepared = re.search(rf"in `{re.escape(data.name)}`, made by sipo", text) is not None
    turned = re.search(r"^\| smaller is better \| (.+) \|$", text, re.MULTILINE)
    smaller = turned[1].split(", ") if turned else []
    return [
        {
            "name": name,
            "better": WORDS[name][name in smaller] if prepared and name in WORDS else UNSAID.format(name=name),
            "reward": "null",
            "remark": "held-out labels measure it; docs/rewards.md has what could score answers",
        }
        for name in names
    ]


def _scalar(text: str) -> str:
    """As YAML, quoted where it must be."""
    return yaml.safe_dump(text, allow_unicode=True, width=10_000).removesuffix("\n").removesuffix("\n...")
