"""SIPO itself: what it samples, refines, filters and learns from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sipo.config.training import Epochs, Training
from sipo.section import NotNegative, Number, Positive, Rate, Section, Shares, Whole

Feature = Literal["logratios", "logratios-per-token", "length", "reference-per-token"]
Pool = Literal["all", "kept", "rewrites"]


class Sample(Section):
    rows: Literal["conflicting", "non-conflicting", "all"] = "conflicting"
    """Which training rows SIPO works on."""
    prompts: Positive | None = None
    """At most so many of their prompts (seeded choice); null takes all of them."""
    per_weight: Annotated[Whole, Field(gt=0, le=10_000)] = 1


class Refine(Section):
    enabled: bool = True
    """False leaves the samples as they are: the paper's ablation without refinement."""
    reviewer: Shares | None = None
    """The weight w_e that reviews are written at (Eq. 4); null mixes all policies equally."""
    review_tokens: Positive = 256
    review_template: Path | None = None
    rewrite_template: Path | None = None


class Filter(Section):
    """Which candidate becomes y_c, and which rows keep one. `filter: calibrated` is short for its rule alone."""

    rule: Literal["paper", "calibrated", "random", "rewards"] = "paper"
    """By implicit rewards (Eq. 6, 7); by judges calibrated out of fold; at random, as many as the paper's rule
    keeps; by the true rewards of the objectives, which only a testbed or a reward model can give."""
    pool: Pool = "all"
    """Samples and rewrites compete; or each sample's rewrite if it was kept, else the sample; or rewrites alone."""
    beta: Rate = 0.1
    judges: Annotated[tuple[Literal["policies", "soups"], ...], Field(min_length=1)] = ("policies", "soups")
    """Whose implicit rewards must all be larger (rule `paper`)."""
    reference: bool = True
    """False leaves log pi_ref out of the rewards, as Eq. 6 is printed."""
    per_token: bool = False
    """Divide the rewards by the response's length in tokens."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = (
        "logratios",
        "logratios-per-token",
        "length",
        "reference-per-token",
    )
    """What the calibrated judges see of a response."""
    ridge: Rate = 1.0
    folds: Annotated[Whole, Field(ge=2, le=100)] = 2
    keep: Annotated[Number, Field(gt=0, le=1)] = 0.75
    """The share of the rows that the calibrated rule keeps: those with the surest y_c."""


class Realign(Training):
    pairs: Literal[
        "chosen-originals", "chosen-preferred", "chosen-preferred-dispreferred", "preferred-dispreferred"
    ] = "chosen-originals"
    """What is preferred to what: y_c to both originals (Eq. 8), y_c to y_w, that with y_w to y_l, y_w to y_l alone."""
    rows: Positive | None = None
    """Learn from so many rows at most, a seeded choice of those with a y_c; for comparisons at equal steps."""
    start: Literal["copy", "merged"] = "copy"
    """Train a copy of each policy's adapter, or a fresh adapter above the policy's own."""
    lr: Rate | dict[str, Rate] = 5e-6
    epochs: Epochs = 1
    alpha: NotNegative = 0.1
    """Weight of the length-normalised NLL of the chosen response (Eq. 8)."""
