"""`sipo data prepare` and `sipo data convert`: what the command line gives, and what it says when they are done."""

from pathlib import Path
from typing import Any

from sipo.cli.arguments import parse_pairs
from sipo.commands import sipo
from sipo.data.cleaning import Choice
from sipo.data.columns import about_unread
from sipo.data.convert import convert
from sipo.data.datacard import GIVEN_UP
from sipo.data.prepare import prepare
from sipo.errors import SipoError
from sipo.progress import say
from sipo.words import quantity


def prepare_source(
    source: str,
    to: Path,
    *,
    objectives: str,
    columns: list[str],
    directions: list[str],
    drop_ties: str | None,
    **limits: Any,
) -> dict[str, Any]:
    """What was made, as it is said, as a record. `limits` are fields of Choice as they are."""
    if drop_ties not in (None, "any", "all"):
        raise SipoError(f"--drop-ties {drop_ties}: write any, for a tie in any objective, or all")
    minimize = parse_pairs("--direction", directions)
    for name, direction in minimize.items():
        if direction not in ("maximize", "minimize"):
            raise SipoError(f"--direction: {name}={direction}; write maximize or minimize")
    choice = Choice(
        objectives=tuple(filter(None, (name.strip() for name in objectives.split(",")))),
        columns=parse_pairs("--map", columns),
        minimize=tuple(name for name, direction in minimize.items() if direction == "minimize"),
        drop_ties=drop_ties,  # type: ignore[arg-type]
        **limits,
    )
    made = prepare(source, to, choice)
    count = made.statistics
    rows, prompts = quantity(count.rows, "row"), quantity(count.prompts, "prompt")
    say(f"{made.name} read as {made.found.source.name}: {rows}, {prompts}")
    for name, part in made.splits.items():
        say(f"  {name}: {quantity(part.rows, 'row')}, {quantity(part.prompts, 'prompt')}")
    if made.given_up:
        say(f"  {GIVEN_UP.format(', '.join(made.given_up))}")
    for name in count.objectives:
        say(f"  {name}: {count.ties[name]} ties or no label")
    say(f"conflict ratio {count.conflict_ratio:.1%}")
    for reason, left_out in made.dropped.items():
        say(f"left out {left_out}: {reason}")
    if made.contradictions:
        say(f"{quantity(made.contradictions, 'label is', 'labels are')} null because the same pair has both")
    for line in (*made.doubts, *about_unread(made.unread)):
        say(line)
    rows_file = to / made.file
    after = sipo("init", "run.yaml", "--data", rows_file) if len(count.objectives) > 1 else None
    following = f"`{after}` is next" if after else "a run needs two objectives or more"
    say(f"{rows_file}: written; {to / 'README.md'} is its card; {following}")
    return {
        "file": rows_file,
        **count.as_json(),
        "source": made.name,
        "format": made.found.source.name,
        "splits": {name: {"rows": part.rows, "prompts": part.prompts} for name, part in made.splits.items()},
        "left_out": made.dropped,
        "contradictions": made.contradictions,
        "unread": made.unread,
        "doubts": made.doubts,
        "next": after,
    }


def convert_rows(file: Path, to: Path, format: str) -> dict[str, Any]:
    """How many pairs each file has, as it is said, as a record."""
    made = convert(file, to, format)
    for name, pairs in made.pairs.items():
        say(f"{to / name}: {quantity(pairs, 'pair')}")
    for line in about_unread(made.unread):
        say(line)
    return {"folder": to, "format": format, "pairs": made.pairs, "unread": made.unread}
