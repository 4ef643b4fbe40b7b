"""SIPO itself: what it samples, refines and learns from; `sipo.filters` has how it filters."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sipo.settings.running import Weights
from sipo.settings.section import NotNegative, Number, Positive, Rate, Section, Shares, Whole
from sipo.settings.training import Epochs, Ladder, Training


class Sample(Section):
    rows: Literal["conflicting", "non-conflicting", "all"] = "conflicting"
    """Which training rows SIPO works on."""
    prompts: Positive | None = None
    """At most so many of their prompts (seeded choice); null takes all of them."""
    weights: Weights = Weights()
    """Where samples are drawn: those of these weights that lie between the objectives (Eq. 3)."""
    per_weight: Annotated[Whole, Field(gt=0, le=10_000)] = 1
    """Samples a prompt and weight."""


class Refine(Section):
    enabled: bool = True
    """False leaves the samples as they are: the paper's ablation without refinement."""
    reviewer: Shares | None = None
    """The weight w_e that reviews are written at (Eq. 4); null mixes all policies equally."""
    review_tokens: Positive = 256
    """The longest review."""
    review_template: Path | None = None
    """A YAML list of chat messages with Jinja contents, by which reviews are asked for; null is sipo's own."""
    rewrite_template: Path | None = None
    """The same for rewrites."""


class Realign(Training):
    pairs: Literal[
        "chosen-originals", "chosen-preferred", "chosen-preferred-dispreferred", "preferred-dispreferred"
    ] = "chosen-originals"
    """What is preferred to what: y_c to both originals (Eq. 8), y_c to y_w, that with y_w to y_l, y_w to y_l alone."""
    rows: Positive | None = None
    """Learn from so many rows at most, a seeded choice of those with a y_c; for comparisons at equal steps."""
    start: Literal["copy", "merged"] = "copy"
    """Train a copy of each policy, or a fresh one above it."""
    lr: Rate | dict[str, Rate] | Literal["auto"] = 5e-6
    """Learning rate: a number, a mapping from objective to number, or auto, which tries `strengths` and takes the best
    on validation prompts."""
    strengths: Ladder = (0.1, 0.3, 1.0, 3.0)
    """Of `lr: auto`, rising: multiples of the rate that `align` had, to realign with. Taken is that of the
    largest mean utility; without rewards, of the largest preference accuracy."""
    keep_range: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Of `lr: auto`: the share of the range, in each objective, that the weights must still move it over."""
    epochs: Epochs = 1
    """Passes over the rows."""
    alpha: NotNegative = 0.1
    """Weight of the length-normalised NLL of the chosen response (Eq. 8)."""
