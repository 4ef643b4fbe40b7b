"""The verbs on preference rows, `sipo data ...`. Each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from sipo.cli.arguments import Json, parse_pairs
from sipo.cli.disk import writing
from sipo.commands import sipo
from sipo.hush import hush
from sipo.places import path_of
from sipo.progress import answering, say
from sipo.words import quantity

Format = Annotated[str, typer.Option(metavar="NAME", help="trl[-plain][-implicit], llama-factory[-alpaca].")]
"""Of the rows that are written for other trainers."""

data = typer.Typer(help="Look at preference rows, or make them.", no_args_is_help=True, rich_markup_mode=None)


@data.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Preference rows, JSON lines or Parquet.")],
    as_json: Json = False,
    examples: Annotated[int, typer.Option(min=0, help="Conflicts to show.")] = 3,
) -> None:
    """Show rows, lengths, ties and conflicts of preference rows."""
    from sipo.cli.inspect import inspect_file

    inspect_file(file, as_json, examples)


@data.command()
def label(
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Records with a column `prompt`.")],
    model: Annotated[str, typer.Option(help="As model.path in a run.yaml.")],
    objective: Annotated[list[str], typer.Option(metavar="NAME=MODULE:FUNCTION", help="May be repeated.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The rows, .jsonl or .parquet.")],
    direction: Annotated[
        list[str] | None, typer.Option(metavar="NAME=minimize", help="Where smaller is better. May be repeated.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Answers at 0 are all alike.")] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer; the data.max_response_tokens of runs on the rows.")
    ] = 64,
    tries: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only answers that end: draw two up to so often.  [default: two, as they come]"),
    ] = None,
    seed: int = 0,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Make preference rows: a model answers, functions label. Two answers are drawn to each prompt."""
    from sipo.cli.label import make_rows
    from sipo.labelling import Drawing
    from sipo.settings import Decoding
    from sipo.settings.explain import adjusted

    rewards = parse_pairs("--objective", objective)
    directions = parse_pairs("--direction", direction or [])
    hush()
    with answering(as_json) as told, writing(to):
        decoding = adjusted(Decoding(), temperature=temperature, top_k=top_k, top_p=top_p)
        drawing = Drawing(decoding, max_tokens, tries, seed)
        rows = make_rows(prompts, model, rewards, directions, to, drawing, device)
        told |= {"file": to, "rows": rows, "next": sipo("data", "inspect", to)}
        say(f"{to}: {quantity(rows, 'row')}; `{told['next']}` shows {'it' if rows == 1 else 'them'}")


@data.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A known data set, a hub id, a file, or a folder of shards.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, for the rows and their card.")],
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="A source or known data set.  [default: by its columns]")
    ] = None,
    objectives: Annotated[
        str, typer.Option(metavar="A,B", help="Which, in which order; of a file of one, its name.  [default: all]")
    ] = "",
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN", help="prompt=question. May be repeated.")
    ] = None,
    direction: Annotated[
        list[str] | None, typer.Option(metavar="NAME=minimize", help="Where smaller is better. May be repeated.")
    ] = None,
    drop_ties: Annotated[
        str | None, typer.Option(metavar="any|all", help="Leave out rows with a tie in any objective, or in all.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Leave out rows with a longer prompt and response.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="As model.path in a run.yaml, to count with.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of splits that the source does not have.")] = 0,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write rows.parquet in place of rows.jsonl.")] = False,
    as_json: Json = False,
) -> None:
    """Make preference rows of a data set: checked, split, counted. Known sets and forms are recognised."""
    from sipo.cli.prepare import prepare_source

    if tokenizer:
        hush()
    with answering(as_json) as told, writing(to):
        told |= prepare_source(
            source,
            to,
            format=format,
            objectives=objectives,
            columns=columns or [],
            directions=direction or [],
            drop_ties=drop_ties,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            seed=seed,
            parquet=parquet,
        )


@data.command()
def convert(
    file: Annotated[Path, typer.Argument(help="Preference rows, JSON lines or Parquet.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, for a file an objective.")],
    format: Format = "trl",
    as_json: Json = False,
) -> None:
    """Write preference rows in TRL's or LLaMA-Factory's format. There is a file for each objective."""
    from sipo.cli.prepare import convert_rows

    with answering(as_json) as told, writing(to):
        told |= convert_rows(file, to, format)


@data.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=path_of, help="The folder of a run with sipo among its methods.")
    ],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    format: Format = "trl",
    as_json: Json = False,
) -> None:
    """Write the responses that SIPO chose as new preference rows. Each is preferred to both originals of its row."""
    hush()
    from sipo.finished.chosen import export_chosen

    with answering(as_json) as told, writing(to):
        told |= export_chosen(run, to, format)
        responses, prompts = quantity(told["responses"], "chosen response"), quantity(told["prompts"], "prompt")
        say(f"{to}: written; {quantity(told['pairs'], 'pair')} of {responses} to {prompts}, in {told['file'].name}")
