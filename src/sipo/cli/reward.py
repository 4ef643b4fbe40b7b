"""`sipo reward train`: preference data in, a reward model out, with what it is worth."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sipo.cli.arguments import Json, parse_pairs
from sipo.cli.disk import writing
from sipo.errors import SipoError
from sipo.hush import hush
from sipo.progress import answering
from sipo.words import quantity

if TYPE_CHECKING:
    from sipo.progress import Progress
    from sipo.rewards.examples import Example, Examples

FEW_PROMPTS = 30
"""Held-out prompts below which a measure says little."""

reward = typer.Typer(help="Train reward models.", no_args_is_help=True, rich_markup_mode=None)


@reward.callback()
def _root() -> None:
    """Train reward models."""


@reward.command()
def train(
    data: Annotated[str, typer.Option(metavar="SOURCE", help="Pairs or scores, as `sipo data prepare` takes them.")],
    model: Annotated[str, typer.Option(help="What to start from, as model.path in a run.yaml.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    objectives: Annotated[str, typer.Option(metavar="A,B", help="Which, in which order.  [default: all]")] = "",
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN", help="prompt=question. May be repeated.")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the prompts to measure on.")] = 0.1,
    r: Annotated[
        int, typer.Option("--rank", min=0, help="Of LoRA adapters on all linear layers; 0 trains all weights.")
    ] = 16,
    lr: float = 2e-4,
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs, or scored responses, an optimizer step.")] = 16,
    layout: Annotated[
        str, typer.Option("--format", help="How the model reads, as the format of a reward in a run.yaml.")
    ] = "chat",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Leave out what is longer, prompt and response together.")
    ] = None,
    seed: int = 0,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Train one head for each objective, on pairs or scores. It is measured on held-out prompts.

    Where the source has scores, they are learned; `sipo data prepare` makes pairs of them. A killed training goes on
    when the same command is given again.
    """
    from sipo.disk.appearing import STATE, appearing
    from sipo.disk.locking import place_beside
    from sipo.disk.publishing import check_name
    from sipo.disk.tables import write_json
    from sipo.progress import Progress
    from sipo.rewards.accuracy import held_out_accuracy, score_errors
    from sipo.rewards.examples import read_examples
    from sipo.rewards.heads import Heads
    from sipo.rewards.reading import Reader
    from sipo.rewards.training import RewardTraining, plan_of, rewards_of, train_reward_model
    from sipo.settings import Model
    from sipo.training.learner import Checkpoint

    if not 0 < lr < math.inf:
        raise SipoError(f"--lr {lr:g}: give a number above 0")
    check_name(to)
    hush()
    names = tuple(filter(None, (name.strip() for name in objectives.split(","))))
    settings = RewardTraining(
        r=r, lr=lr, epochs=epochs, batch_size=batch_size, format=layout, seed=seed, max_tokens=max_tokens
    )
    with answering(as_json) as told:
        progress = Progress()
        place, hidden = place_beside(to)
        with writing(to):
            with appearing(to) as folder:
                found = read_examples(
                    data, objectives=names, columns=parse_pairs("--map", columns or []), held_out=held_out, seed=seed
                )
                _introduce(found, progress)
                reader = Reader(Model(path=model), settings.format, settings.max_tokens)
                train, measured = reader.read(found.train, progress), reader.read(found.held_out, progress)
                _check_held_out(found, measured.examples, held_out)
                heads = Heads(found.kind, found.objectives)
                plan = plan_of(heads, train, reader, settings)
                network = train_reward_model(
                    heads,
                    train,
                    reader,
                    settings,
                    device=device,
                    checkpoint=Checkpoint(place / f"{hidden}.{plan}{STATE}"),
                    progress=progress,
                )
                rewards = rewards_of(network, measured, settings.token_budget)
                against = (measured.examples, train.examples, found.objectives)
                lines: dict[str, list[dict[str, Any]]] = {
                    "held_out": [asdict(each) for each in held_out_accuracy(found.kind, rewards, *against)],
                }
                if found.kind == "scores":
                    lines["scores"] = [asdict(each) for each in score_errors(rewards, *against)]
                network.save_pretrained(folder)
                reader.tokenizer.save_pretrained(folder)
                called = Path(data).resolve().name if Path(data).exists() else data  # for others' machines
                about = {"model": model, "data": called, "kind": found.kind, "settings": asdict(settings)}
                write_json(folder / "training.json", {**about, **lines})
            known = f"{escape(hidden)}.{'?' * 16}{STATE}"
            for state in (*place.glob(known), *place.glob(f".{known}.tmp")):  # a kill while saving leaves the second
                state.unlink()
        if measured.examples:
            _conclude(lines, progress)
        else:
            progress.say("nothing is held out: what the model is worth has not been measured")
        reads = "" if layout == "chat" else f", format: {json.dumps(layout)}"
        progress.say(f"{to}: written; as a reward: {{model: {to}, head: {found.objectives[0]}{reads}}}")
        told |= {"folder": to, **about, **lines}


def _introduce(found: "Examples", progress: "Progress") -> None:
    what, prompts = "pairs" if found.kind == "pairs" else "scored responses", _prompts(found.held_out)
    progress.say(f"read as {what}: {len(found.train)} to train on, {len(found.held_out)} held out")
    if 0 < prompts < FEW_PROMPTS:
        few = quantity(prompts, "held-out prompt is", "held-out prompts are")
        progress.say(f"{few} few to measure on; --held-out takes a larger share")
    for reason, count in found.left_out.items():
        progress.say(f"left out {count}: {reason}")


def _check_held_out(found: "Examples", measured: Sequence["Example"], share: float) -> None:
    """Raise SipoError where a share of the prompts was to be held out, and none is."""
    if not share or measured:
        return
    count = len(found.held_out)
    why = f"the {count} held-out examples are over --max-tokens" if count else "no prompt is held out"
    raise SipoError(
        f"there is nothing to measure on: {why} (of {_prompts([*found.train, *found.held_out])} prompts, "
        f"--held-out {share:g}); take a larger share or more prompts, or give --held-out 0 to train without a measure"
    )


def _prompts(examples: Sequence["Example"]) -> int:
    return len({example.prompt for example in examples})


def _conclude(lines: dict[str, list[dict[str, Any]]], progress: "Progress") -> None:
    progress.table(
        "held-out comparisons that are right (larger is better)",
        ["objective", "labels", "model", "95 %", "by length", "majority"],
        [[_shown(value) for value in line.values()] for line in lines["held_out"]],
    )
    if "scores" in lines:
        progress.table(
            "held-out scores: squared error (smaller is better), next to that of the training mean",
            ["objective", "scores", "error", "of mean", "R2", "correlation"],
            [
                [_shown(line[key]) for key in ("objective", "scores", "error", "error_of_mean", "r2", "correlation")]
                for line in lines["scores"]
            ],
        )


def _shown(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value[0]:.3f} to {value[1]:.3f}" if isinstance(value, tuple) else value
