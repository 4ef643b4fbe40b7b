"""`sipo demo`: one knob, a few prompts, five weights."""

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from sipo.commands import sipo
from sipo.progress import say
from sipo.weights import simplex_lattice
from sipo.words import quantity

if TYPE_CHECKING:
    from sipo.demo.knob import Answer

PROMPTS = (
    "Why is the sky blue? Answer in one sentence.",
    "Why do people keep cats as pets? Answer in one sentence.",
    "How do I learn to swim? Answer in one sentence.",
)
WEIGHTS = simplex_lattice(2, 4)
HEAD = "  detail  plain  different words  reading ease  "
QUICKSTART = Path("configs/quickstart.yaml")


def show_demo(prompts: Sequence[str]) -> dict[str, Any]:
    """Print the answers at all weights with their rewards, the means of these, and what to do next; the answers as a
    record.
    """
    began = time.monotonic()
    from sipo.demo.knob import answers

    say("SmolLM2-135M and two small policies that come with sipo: `detail` learned to use many different words,")
    say("`plain` to be easy to read. Their weights are chosen with the question. Nothing is trained now.")
    found = answers(prompts, WEIGHTS)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for prompt in prompts:
        say(f"\n{prompt}")
        for line in lines([each for each in found if each.prompt == prompt], width):
            say(line)
    say(f"\nmeans over {quantity(len(prompts), 'prompt')}")
    for line in means(found):
        say(line)
    say(f"\n{len(found)} answers in {time.monotonic() - began:.0f} s, most of it to load and prove the model\n")
    say("next")
    wide = max(len(command) for command, _ in suggestions())
    for command, what in suggestions():
        say(f"  {command:<{wide}}  {what}")
    return {"answers": [_record(each) for each in found]}


def _record(each: "Answer") -> dict[str, Any]:
    from sipo.demo.shipped import REWARDS

    weights, rewards = (dict(zip(REWARDS, values, strict=True)) for values in (each.weight, each.rewards))
    return {"prompt": each.prompt, "weights": weights, "rewards": rewards, "response": each.text}


def lines(answers: Sequence["Answer"], width: int) -> list[str]:
    """A table of one prompt's answers; long ones go on below, within `width` columns, and stand below their numbers
    where there is no room beside them.
    """
    beside = width >= len(HEAD) + 20
    shown = [f"{HEAD}answer" if beside else HEAD.rstrip()]
    for each in answers:
        start, text = _row(each.weight, each.rewards), " ".join(each.text.split())
        if beside:
            shown += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * len(HEAD))
        else:
            shown += [start.rstrip(), *textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")]
    return shown


def means(answers: Sequence["Answer"]) -> list[str]:
    """A table of the mean rewards at each weight."""
    shown = [HEAD.rstrip()]
    for weight in dict.fromkeys(each.weight for each in answers):
        rewards = zip(*(each.rewards for each in answers if each.weight == weight), strict=True)
        shown.append(_row(weight, [mean(given) for given in rewards]).rstrip())
    return shown


def _row(weight: Sequence[float], rewards: Sequence[float]) -> str:
    (detail, plain), (words, ease) = weight, rewards
    return f"  {detail:6.2f} {plain:6.2f}  {words:15.0f}  {ease:12.0f}  "


def suggestions() -> list[tuple[str, str]]:
    """Commands, and what they do."""
    here = [("make quickstart", "trains such policies by all of SIPO, and writes a report")]
    return [
        (sipo("play"), "these policies on a page in the browser, at any weight"),
        (sipo("demo", "--prompt", "What is rain?"), "the same for a question of yours"),
        *(here if QUICKSTART.exists() else []),
        (sipo("testbed"), "all of SIPO in a synthetic language, in a minute or two"),
        (sipo("init", "run.yaml", "--data", "rows.jsonl"), "a run on your own rows"),
    ]
