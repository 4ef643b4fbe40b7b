"""The card of prepared rows: where they come from, how many there are, and where their objectives conflict."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sipo import __version__
from sipo.data.cleaning import Choice
from sipo.data.conflicts import ConflictStatistics
from sipo.data.labels import Split
from sipo.data.sources.finding import Found
from sipo.plain import Markdown, code, escape, markdown_table
from sipo.words import quantity

YAML_LICENCES = {"CC-BY-4.0": "cc-by-4.0", "CC-BY-NC-4.0": "cc-by-nc-4.0", "MIT": "mit"}
GIVEN_UP = "the source states splits ({}), but rows are left in one alone"


@dataclass(frozen=True)
class Prepared:
    """What `sipo data prepare` made, and of what."""

    name: str
    """A known data set or hub id, or a file's or folder's own name."""
    choice: Choice
    found: Found
    statistics: ConflictStatistics
    splits: Mapping[Split, ConflictStatistics]
    """Empty where the source states no splits."""
    given_up: Sequence[Split]
    """Splits that the source names and that are left to the run, because its rows stand in one alone."""
    dropped: dict[str, int]
    """How many rows, or records that make none, were left out for which reason."""
    contradictions: int
    """Labels that are null because the same pair has both."""
    unread: Mapping[str, int]
    """Columns that nobody reads, and for how many prompts the rows differ in them."""
    doubts: Sequence[str]
    """What the labels say of each other (`sipo.data.consistency`)."""
    file: str
    digest: str
    """Of the source and the choice (`sipo.data.digest`)."""


def data_card(made: Prepared) -> str:
    """A README.md in Markdown with the hub's header; the same for the same rows, whenever it is made."""
    from huggingface_hub import DatasetCardData

    licence = made.found.known.licence if made.found.known else None
    header = DatasetCardData(
        license=YAML_LICENCES[licence] if licence else "unknown",
        task_categories=["text-generation"],
        tags=["sipo", "preference"],
    )
    count = made.statistics
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {escape(made.name)}, for sipo",
        f"{quantity(count.rows, 'row')} of {quantity(count.prompts, 'prompt')} in {code(made.file)}, made by sipo "
        f"{__version__}: a prompt, two responses, and for each objective the index of the one that it prefers, or null "
        "for a tie or no label.",
        _about(made, licence),
        "## Rows",
        _rows(made),
        "## Labels",
        "\n\n".join([_labels(count), *made.doubts]),
        "## Conflicts",
        _conflicts(count),
        "## Left out",
        _dropped(made),
        *(["## Not read", _unread(made)] if made.unread else []),
    ]
    return "\n\n".join(parts) + "\n"


def digest_on(card: Path) -> str | None:
    """What the rows beside a card were made from, where there is a card and it says so."""
    if not card.is_file():
        return None
    found = re.search(r"^\| digest \| `([0-9a-f]{16})`", card.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def _about(made: Prepared, licence: str | None) -> str:
    choice = made.choice
    mapping = Markdown(", ".join(f"{escape(name)} is {code(column)}" for name, column in choice.columns.items()))
    facts = {
        "source": Markdown(f"{code(made.name)}, read as {escape(made.found.source.name)}"),
        "licence": licence or _likely_licence(made.found),
        "columns": mapping,
        "smaller is better": ", ".join(choice.minimize),
        "longest": Markdown(f"{choice.max_tokens} tokens by {code(str(choice.tokenizer))}")
        if choice.max_tokens
        else "",
        "rows left out for ties": {"any": "in any objective", "all": "in all objectives"}.get(
            choice.drop_ties or "", ""
        ),
        "seed of the splits": str(choice.seed) if made.splits else "",
        "digest": Markdown(f"{code(made.digest)}, of the source and these options"),
    }
    return markdown_table(["", ""], [[name, fact] for name, fact in facts.items() if fact])


def _likely_licence(found: Found) -> str:
    """Of a file that only looks like a known data set."""
    licences = {known.licence: known.name for known in found.source.known}
    if len(licences) != 1:
        return "not known here; ask the source"
    [(licence, name)] = licences.items()
    return f"{licence} upstream, if this is a copy of {name}"


def _rows(made: Prepared) -> str:
    parts = [*made.splits.items(), ("all", made.statistics)]
    table = markdown_table(
        ["split", "rows", "prompts", "in conflict"],
        [[name, part.rows, part.prompts, f"{part.conflict_ratio:.2%}"] for name, part in parts],
    )
    if made.splits:
        return f"{table}\n\nThe column `split` says which; a run keeps to it. No prompt is in two."
    stated = GIVEN_UP.format(", ".join(made.given_up)) if made.given_up else "the source states no splits"
    return f"{table}\n\n{stated[0].upper()}{stated[1:]}; a run makes them by a seeded hash of the prompt."


def _labels(count: ConflictStatistics) -> str:
    return markdown_table(
        ["objective", "prefers response_0", "prefers response_1", "tie or no label"],
        [[name, *count.preferred[name], count.ties[name]] for name in count.objectives],
    )


def _conflicts(count: ConflictStatistics) -> str:
    """The paper's Table 1 has the ratio for the first 3, 4 and 5 attributes of HelpSteer."""
    if len(count.objectives) < 2:
        return "One objective is in conflict with none."
    sizes = markdown_table(
        ["objectives", "the first so many", "any so many, least", "any so many, most"],
        [[size, *(f"{ratio:.2%}" for ratio in ratios)] for size, *ratios in count.by_size()],
    )
    names = count.objectives
    pairs = markdown_table(
        ["two of them", *names],
        [[a, *("" if a == b else f"{count.pairwise[a][b]:.2%}" for b in names)] for a in names],
    )
    what = "Share of all rows in which two objectives prefer different responses; a tie is no conflict."
    return f"{what}\n\n{sizes}\n\n{pairs}"


def _dropped(made: Prepared) -> str:
    torn = (
        f"{quantity(made.contradictions, 'label is', 'labels are')} null because the same pair has both."
        if made.contradictions
        else ""
    )
    if not made.dropped:
        return f"Nothing. {torn}".rstrip()
    table = markdown_table(["why", "rows"], [[reason, count] for reason, count in made.dropped.items()])
    return "\n\n".join(filter(None, [table, torn]))


def _unread(made: Prepared) -> str:
    return (
        "Columns of the source that are in no row, and how many prompts have rows that differ in them:\n\n"
        + markdown_table(["column", "prompts"], [[code(name), count] for name, count in made.unread.items()])
    )
