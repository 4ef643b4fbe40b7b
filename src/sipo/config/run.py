"""A whole run, and how it decodes, measures, reports and uses the machine."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sipo.config.improvement import Filter, Realign, Refine, Sample
from sipo.config.inputs import Data, Model
from sipo.config.objectives import Objective
from sipo.config.section import Positive, Section
from sipo.config.training import Align, Lora, Modpo, Sft
from sipo.methods.names import check_name


class Weights(Section):
    """The preference weights: the lattice of the simplex with steps of 1 / divisions, or an explicit list."""

    divisions: Positive = 5
    grid: Annotated[tuple[dict[str, float], ...], Field(min_length=1)] | None = None


class Decoding(Section):
    """How every response is drawn; temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Mod(Section):
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the alpha-divergence that `mod-alpha` decodes by; towards 0 it is reverse KL, at 1 forward KL."""


class Evaluate(Section):
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
    engine: Literal["transformers", "vllm"] = "transformers"
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
    methods: Annotated[tuple[Annotated[str, AfterValidator(check_name)], ...], Field(min_length=1)] = (
        "base",
        "soups",
        "mod",
        "sipo",
    )
    weights: Weights = Weights()
    sft: Sft | None = None
    lora: Lora = Lora()
    decoding: Decoding = Decoding()
    align: Align = Align()
    mod: Mod = Mod()
    modpo: Modpo = Modpo()
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

    @property
    def maximise(self) -> tuple[bool, ...]:
        """Whether larger is better, of each objective."""
        return tuple(objective.maximise for objective in self.objectives)

    @property
    def fine_tunes(self) -> bool:
        """Whether the policies stand on a backbone that the run itself fine-tunes first."""
        return self.sft is not None and self.sft.enabled

    @field_validator("filter", mode="before")
    @classmethod
    def _filter_by_its_rule(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_agree(self) -> "Config":
        if len(set(self.names)) < len(self.names):
            raise ValueError("objectives: two have the same name")
        if self.sft is not None and self.sft.max_tokens <= self.data.max_prompt_tokens:
            raise ValueError("sft.max_tokens: leaves no room for a response beside data.max_prompt_tokens; raise it")
        if self.modpo.objective is not None and self.modpo.objective not in self.names:
            raise ValueError(f"modpo.objective: `{self.modpo.objective}` is none; they are {', '.join(self.names)}")
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
