"""A whole run: the sections that all runs have, and those that methods and filter rules declare in their own files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, create_model, model_validator

from sipo.config.data import Data
from sipo.errors import SipoError
from sipo.filters.registry import specs as rules
from sipo.filters.spec import Filter
from sipo.methods.registry import check_name, specs
from sipo.places import path_of, shown
from sipo.registry import as_one_line
from sipo.rewards.objective import Objective
from sipo.settings import (
    Align,
    Decoding,
    Evaluate,
    Execution,
    Lora,
    Model,
    Realign,
    Refine,
    Report,
    Sample,
    Section,
    Sft,
    Weights,
)
from sipo.settings.section import Seed, Whole, field_of
from sipo.weights import grid, lattice_size
from sipo.words import nearest

MOST_WEIGHTS = 10_000
"""The lattice that a run's weights are taken from; over N objectives it grows like divisions^(N - 1)."""


def _place(value: Any) -> Any:
    return path_of(value) if isinstance(value, str | Path) else value


class Run(Section):
    """A whole run, but for the sections that methods and filter rules declare in their own files."""

    seed: Seed = 0
    """Of splits, adapters, batch order, sampling and bootstrap."""
    run_dir: Annotated[Path, BeforeValidator(_place), PlainSerializer(shown, return_type=str, when_used="json")]
    """Where everything goes, a folder or `s3://BUCKET/FOLDER`; `runs/<name of the file>` where it is left out."""
    model: Model
    data: Data
    objectives: Annotated[tuple[Objective, ...], Field(min_length=2)]
    methods: Annotated[tuple[Annotated[str, AfterValidator(check_name)], ...], Field(min_length=1)] = (
        "base",
        "soups",
        "mod",
        "sipo",
    )
    """What is trained and measured."""
    weights: Weights = Weights()
    sft: Sft | None = None
    """A section here fine-tunes the backbone first, on all responses of the training rows; needs `sipo[sft]`."""
    policies: Literal["lora", "full"] = "lora"
    """What is trained for each objective: an adapter over the backbone, or a whole model, all parameters its own."""
    lora: Lora = Lora()
    decoding: Decoding = Decoding()
    align: Align = Align()
    rounds: Annotated[Whole, Field(gt=0, le=100)] = 1
    """How often SIPO samples, refines, filters and realigns, each time from the policies of the time before."""
    sample: Sample = Sample()
    refine: Refine = Refine()
    filter: Filter
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
    def by_labels(self) -> bool:
        """Whether held-out labels measure the methods, since an objective has no reward."""
        return any(objective.reward is None for objective in self.objectives)

    @property
    def ranks(self) -> bool:
        """Whether the methods' models rank held-out responses, to decide or beside rewards."""
        return self.by_labels or self.evaluate.labels

    @property
    def fine_tunes(self) -> bool:
        """Whether the policies stand on a backbone that the run itself fine-tunes first."""
        return self.sft is not None and self.sft.enabled

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("objectives: two have the same name")
        if self.sft is not None and self.sft.max_tokens <= self.data.max_prompt_tokens:
            raise ValueError("sft.max_tokens: leaves no room for a response beside data.max_prompt_tokens; raise it")
        for spec in specs().values():
            if spec.check:
                with as_one_line(f"the method `{spec.name}`", ValueError):
                    spec.check(self)
        for place, mapping, whole in self._mappings():
            unknown, missing = (
                sorted(set(mapping) - set(self.names)),
                [each for each in self.names if each not in mapping],
            )
            if unknown:
                near = nearest(unknown[0], self.names)
                hint = f"did you mean `{near}`?" if near else f"they are {', '.join(self.names)}"
                raise ValueError(f"{place}: `{unknown[0]}` is no objective; {hint}")
            if whole and missing:
                raise ValueError(
                    f"{place}: leaves out `{missing[0]}`; give a number for each of {', '.join(self.names)}"
                )
        return self

    @model_validator(mode="after")
    def _whole_models_have_no_adapters(self) -> Self:
        if self.policies == "full":
            dead = {
                "lora": (self.lora != Lora(), "is not read; leave it out"),
                "execution.engine": (
                    "vllm" in self.execution.engines,
                    "vllm decodes adapters; take transformers",
                ),
                "model.quantise": (self.model.quantise is not None, "all parameters learn; leave it out"),
                "model.trust_remote_code": (self.model.trust_remote_code, "a model's own code is not run for them"),
            }
            for key, (given, why) in dead.items():
                if given:
                    raise ValueError(f"{key}: with policies: full, which trains whole models, {why}")
        return self

    @model_validator(mode="after")
    def _vllm_reads_the_checkpoint(self) -> Self:
        if self.model.quantise is not None and "vllm" in self.execution.engines:
            raise ValueError(
                "model.quantise: vllm would write with the model as it is stored; take transformers or pool"
            )
        return self

    @model_validator(mode="after")
    def _comparisons_have_a_base(self) -> Self:
        comparing = [objective.name for objective in self.objectives if objective.compares]
        if comparing and "base" not in self.methods:
            raise ValueError(
                f"methods: the judge of `{comparing[0]}` compares every answer with the base model's; add base"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_be_counted(self) -> Self:
        n = len(self.names)
        for place, section in self._weighed.items():
            divisions, listed = section.divisions, section.grid
            count = lattice_size(n, divisions) if listed is None else len(listed)
            if count > MOST_WEIGHTS:
                made = f"divisions: {divisions} makes" if listed is None else "grid: has"
                raise ValueError(f"{place}.{made} {count:,} weights over {n} objectives; take at most {MOST_WEIGHTS:,}")
            if listed is None and section.at_most < n:
                raise ValueError(
                    f"{place}.at_most: {section.at_most} has no room for the corners of {n} objectives; raise it"
                )
            if listed is not None:
                try:
                    grid(section, self.names, place)
                except SipoError as error:
                    raise ValueError(str(error)) from None
        return self

    @property
    def _weighed(self) -> dict[str, Weights]:
        """All sections of weights, by their places."""
        judging = getattr(self.filter, "weights", None)
        sections = {"weights": self.weights, "sample.weights": self.sample.weights, "filter.weights": judging}
        return {place: each for place, each in sections.items() if isinstance(each, Weights)}

    def _mappings(self) -> list[tuple[str, Mapping[str, float], bool]]:
        """Place, mapping, and whether it must name every objective (shares may leave some out)."""
        found = [
            ("align.lr", self.align.lr, True),
            ("realign.lr", self.realign.lr, True),
            ("evaluate.reference_point", self.evaluate.reference_point, True),
            ("refine.reviewer", self.refine.reviewer, False),
            *((f"{at}.grid", shares, False) for at, each in self._weighed.items() for shares in each.grid or ()),
        ]
        return [(place, mapping, whole) for place, mapping, whole in found if isinstance(mapping, dict)]


def _sections() -> dict[str, Any]:
    """Of the methods. Raises SipoError where one takes the place of another key."""
    found: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for spec in specs().values():
        if spec.section is None or spec.settings is None or taken.get(spec.section) is spec.settings:
            continue
        if spec.section in taken or hasattr(Run, spec.section) or spec.section in Run.model_fields:
            raise SipoError(
                f"the method `{spec.name}`: there is a key `{spec.section}` already; give its section another name"
            )
        found[spec.section], taken[spec.section] = field_of(spec.settings), spec.settings
    return found


def _filter() -> Any:
    try:
        return field_of(tuple(spec.settings for spec in rules().values()))
    except ValueError as problem:
        raise SipoError(f"the filter rules: {problem}; mend or remove the package that brings one of them") from None


if TYPE_CHECKING:
    Config = Run
else:
    SHOWN = """The settings of a whole run, checked; docs/configuration.md has every key.

    >>> sipo.load_config("quickstart.yaml").names
    ('detail', 'plain')
    """
    Config = create_model("Config", __base__=Run, __doc__=SHOWN, filter=_filter(), **_sections())
