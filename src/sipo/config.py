"""The settings of a run: the small set of keys that people write, typed and checked.

Every stage reads only its own section and those named in `sipo.runs.plan`, which is how a changed key
invalidates exactly what depends on it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
MethodName = Literal["base", "soups", "mod", "sipo"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Model(Section):
    """The backbone: a hub id, a folder, a GGUF file, or `package:NAME` for a GGUF inside a Python package."""

    path: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    prompt_template: str | None = None
    """For models without a chat template; `{prompt}` stands for the user's turn."""

    @field_validator("prompt_template")
    @classmethod
    def _has_a_place_for_the_prompt(cls, template: str | None) -> str | None:
        if template is not None and "{prompt}" not in template:
            raise ValueError("must contain {prompt}")
        return template


class Data(Section):
    """Preference rows and how they are split; fractions are of the prompts, by a seeded hash."""

    path: Path
    validation: Fraction = 0.1
    test: Fraction = 0.1
    max_prompt_tokens: Positive = 256
    max_response_tokens: Positive = 256
    """Longer responses, given or generated, are cut here and then carry no end token."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "Data":
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave rows to train on")
        return self


class Objective(Section):
    name: Name
    better: str
    """One sentence that says what a better response is; reviews and rewrites quote it."""
    reward: str | None = None
    """`module:function` that scores held-out responses: (prompts, responses) -> one number each."""
    direction: Literal["maximize", "minimize"] = "maximize"


class Weights(Section):
    """The preference weights: the lattice of the simplex with steps of 1 / divisions, or an explicit list."""

    divisions: Positive = 5
    grid: Annotated[tuple[dict[str, float], ...], Field(min_length=1)] | None = None


class Lora(Section):
    r: Positive = 64
    alpha: Rate = 64.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "k_proj", "v_proj", "o_proj")


class Decoding(Section):
    """How every response is drawn; temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Training(Section):
    beta: Rate = 0.1
    lr: Rate | dict[str, Rate] = 5e-4
    """One rate, or one for each objective."""
    epochs: Positive = 3
    batch_size: Positive = 8
    """Prompts an optimizer step."""
    warmup: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    max_grad_norm: Rate = 1.0

    def lr_of(self, objective: str) -> float:
        return self.lr[objective] if isinstance(self.lr, dict) else self.lr


class Align(Training):
    checkpoint: Literal["best", "last"] = "best"
    """Keep the adapter of the epoch with the lowest validation loss, or the last one."""


class Sample(Section):
    prompts: Positive | None = None
    """At most so many conflicting prompts (seeded choice); null takes all of them."""
    per_weight: Positive = 1


class Refine(Section):
    reviewer: dict[str, float] | None = None
    """The weight w_e that reviews are written at (Eq. 4); null mixes all policies equally."""
    review_tokens: Positive = 256
    review_template: Path | None = None
    rewrite_template: Path | None = None


class Filter(Section):
    beta: Rate = 0.1


class Realign(Training):
    lr: Rate | dict[str, Rate] = 5e-6
    epochs: Positive = 1
    alpha: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the length-normalised NLL of the chosen response (Eq. 8)."""


class Evaluate(Section):
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] = ("base", "soups", "mod", "sipo")
    prompts: Positive | None = None
    per_prompt: Positive = 1
    reference_point: dict[str, float] | None = None
    """The corner from which hypervolume is measured; null puts it just below the worst point found."""
    bootstrap: Positive = 2000


class Report(Section):
    cases: Positive = 40
    title: str | None = None


class Execution(Section):
    """How the work is cut up: changes speed and memory, not what is computed (up to rounding)."""

    device: str = "auto"
    decode_rows: Positive = 64
    score_tokens: Positive = 4096
    train_tokens: Positive = 4096
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


class Config(Section):
    seed: Annotated[int, Field(ge=0)] = 0
    run_dir: Path
    model: Model
    data: Data
    objectives: Annotated[tuple[Objective, ...], Field(min_length=2)]
    weights: Weights = Weights()
    lora: Lora = Lora()
    decoding: Decoding = Decoding()
    align: Align = Align()
    sample: Sample = Sample()
    refine: Refine = Refine()
    filter: Filter = Filter()
    realign: Realign = Realign()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    execution: Execution = Execution()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(objective.name for objective in self.objectives)

    @model_validator(mode="after")
    def _names_agree(self) -> "Config":
        if len(set(self.names)) < len(self.names):
            raise ValueError("objectives: two have the same name")
        for place, mapping in self._mappings():
            if mapping is not None and set(mapping) - set(self.names):
                unknown = sorted(set(mapping) - set(self.names))[0]
                raise ValueError(f"{place}: `{unknown}` is no objective; they are {', '.join(self.names)}")
        return self

    def _mappings(self) -> list[tuple[str, dict[str, float] | None]]:
        learning_rates = [
            (f"{stage}.lr", section.lr if isinstance(section.lr, dict) else None)
            for stage, section in (("align", self.align), ("realign", self.realign))
        ]
        grid = [("weights.grid", weights) for weights in self.weights.grid or ()]
        return [
            *learning_rates,
            *grid,
            ("refine.reviewer", self.refine.reviewer),
            ("evaluate.reference_point", self.evaluate.reference_point),
        ]
