"""The graph of a run, as ordinary Python over its configuration: SIPO's rounds, then every method answered and judged.

Stages stand in the order in which they are made. A method adds those of its own (`MethodSpec.needs`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from sipo.config import Config
from sipo.declare import work
from sipo.declare.parts import (
    AGREEMENT,
    CANDIDATES,
    CHOICE,
    FRONTS,
    LOGPROBS,
    MODEL,
    POLICIES,
    RANKINGS,
    REFINEMENTS,
    RESPONSES,
    SAMPLES,
    STRENGTH,
    TRAINING,
    TRIAL_POLICIES,
)
from sipo.declare.stage import Inputs, Output, Stage, later
from sipo.errors import SipoError
from sipo.filters.registry import find as find_rule
from sipo.graph.key import is_key
from sipo.graph.proposal import proposed
from sipo.graph.trials import best_aligned, best_realigned, trained_by
from sipo.methods.registry import find
from sipo.methods.spec import MethodSpec
from sipo.registry import as_one_line
from sipo.settings import Align
from sipo.settings.section import NAME

ROWS = ("seed", "data")
"""What gives a stage its rows and their order."""
DRAWN = (*ROWS, "weights", "decoding")
"""What responses are drawn with."""
WORKED = ("sample.rows", "sample.prompts")
"""Which rows SIPO works on."""
REFINED = (
    *(*ROWS, "decoding", "objectives.better", "align.beta"),
    *(f"refine.{key}" for key in ("reviewer", "review_tokens", "review_template", "rewrite_template")),
)
SHOWN = (
    *(*DRAWN, *WORKED, "lora", "align.checkpoint", "realign.rows", "report"),
    *("objectives.reward", "objectives.better", "objectives.direction"),
)
"""What the report tells of."""
PAIRS = 500
"""Labelled pairs on which a judge is asked, at most: enough for an interval of four points to either side."""


class Graph:
    """The stages that the configuration's methods ask for, by name, each after those that it is made from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._stages: dict[str, Stage] = {}
        self.backbone: Output | None = self._fine_tuned() if config.fine_tunes else None
        self.align: Stage = self._trained()
        self.policies: Output = self.align[POLICIES]
        """One for each objective, by DPO."""
        needs = {find(name): self._needs(find(name)) for name in dict.fromkeys(config.methods)}
        answers = {spec.name: self._answered(spec, inputs)[RESPONSES] for spec, inputs in needs.items()}
        judged = answers
        if self.measured:
            judged = {name: self._judged(name, output, answers)[RESPONSES] for name, output in answers.items()}
        ranked = {}
        if config.ranks:
            ranked = {spec.name: self._ranked(spec, needs[spec])[RANKINGS] for spec in needs if spec.exported}
        self.proposal = proposed(self, needs)
        self.compare = self._compared(judged, ranked)
        self.report = self._reported(judged, ranked)

    @property
    def measured(self) -> tuple[str, ...]:
        """The objectives that have a reward."""
        return tuple(each.name for each in self.config.objectives if each.reward is not None)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages.values())

    def __contains__(self, name: str) -> bool:
        return name in self._stages

    def __getitem__(self, name: str) -> Stage:
        return self._stages[name]

    @property
    def names(self) -> list[str]:
        return list(self._stages)

    def add(self, stage: Stage) -> Stage:
        """Put the stage at the end; the one that writes the same, where it is there already.

        Raises SipoError for one that cannot stand beside the others, which is a plug-in's fault.
        """
        place = f"stage `{stage.name}`"
        for part in stage.name.split("/"):
            if not re.match(NAME, part):
                raise SipoError(f"{place}: its folder needs a name of letters, digits, _ and -; mend what brings it")
        for key in stage.reads:
            if not is_key(self.config, key):
                raise SipoError(f"{place}: reads the key {key}, which this configuration has not; mend what brings it")
        for other in self:
            if other.name == stage.name and other.is_like(stage):
                return other
            if other.name == stage.name or stage.name in _above(other) or other.name in _above(stage):
                what = "there is another of that name" if other.name == stage.name else f"`{other.name}` stands there"
                raise SipoError(f"{place}: {what}; mend what brings it")
        self._stages[stage.name] = stage
        return stage

    def on_backbone(
        self, name: str, make: Callable[..., Any], reads: tuple[str, ...], inputs: Inputs, **more: Any
    ) -> Stage:
        """Add a stage that asks or trains the model."""
        return self.add(Stage(name, make, reads, inputs, backbone=self.backbone, **more))

    def within(self, name: str) -> list[str]:
        """The stage, or where `name` is a folder of several (`judged`, `round-2`) all that are in it."""
        return [each for each in self.names if each == name or each.startswith(f"{name}/")]

    def after(self, *names: str) -> list[str]:
        """The stages and all that is made from them, in order."""
        found = set(names)
        for stage in self:
            if any(each.name in found for each in stage.needs()):
                found.add(stage.name)
        return [name for name in self.names if name in found]

    def before(self, stage: Stage) -> list[Stage]:
        """All that the stage is made from, in order."""
        found = {each.name for each in stage.needs()}
        for each in reversed(list(self)):
            if each.name in found:
                found |= {further.name for further in each.needs()}
        return [each for each in self if each.name in found]

    @property
    def apart(self) -> list[Stage]:
        """Those that train a policy for each objective, which processes may make one by one."""
        trains = (each for each in self if {POLICIES, TRIAL_POLICIES} & {*each.writes})
        return [each for each in trains if STRENGTH not in each.writes]  # that takes what others trained

    def jobs(self) -> Iterator[tuple[str, str]]:
        """A run as jobs, in order: ("each", a stage of `apart`), which waits for what it is made from alone, ("until",
        the last stage to make), which waits for all before it, and in the end ("rest", the last stage of all).
        """
        made: set[str] = set()
        for stage in self.apart:
            lacking = [each.name for each in self.before(stage) if each.name not in made]
            if lacking:
                made |= {*self.names[: self.names.index(lacking[-1]) + 1]}
                yield "until", lacking[-1]
            yield "each", stage.name
        yield "rest", self.names[-1]

    def _needs(self, spec: MethodSpec) -> Inputs:
        with as_one_line(f"the method `{spec.name}`"):
            needed = spec.needs(self)
            _check(needed)
        return needed

    def _fine_tuned(self) -> Output:
        make = later("sipo.stages.sft:sft")
        tuned = Stage("sft", make, (*ROWS, "sft"), {}, (MODEL, TRAINING), work=work.sft, peak=_peak("fine_tuning"))
        return self.add(tuned)[MODEL]

    def _trained(self) -> Stage:
        stage = Stage(
            "align",
            later("sipo.stages.align:align"),
            (*ROWS, "lora", "align"),
            {},
            writes=(POLICIES, LOGPROBS, TRAINING),
            backbone=self.backbone,
            work=work.align,
            peak=lambda peaks: max(peaks.trained(peaks.both, peaks.n, peaks.config.align), peaks.scoring(peaks.both)),
        )
        return best_aligned(self, stage) if self.config.align.lr == "auto" else self.add(stage)

    @property
    def rates(self) -> Inputs:
        """Where `align` chose its rates, what knows them, for whatever trains by them."""
        return {"aligned": self.align[STRENGTH]} if self.config.align.lr == "auto" else {}

    @property
    def aligned_by(self) -> tuple[str, ...]:
        """The keys that whatever trains as alignment did reads, beside `rates`."""
        return trained_by(Align) if self.rates else ("align",)

    @cached_property
    def realigned(self) -> Output:
        """The policies after all rounds of self-improvement."""
        rule = find_rule(self.config.filter.rule)
        with as_one_line(f"the filter rule `{rule.name}`"):
            needed = rule.needs(self)
            _check(needed)
        policies = self.policies
        for number in range(1, self.config.rounds + 1):
            policies = self._improved(policies, number, needed)
        return policies

    def held_out(self, folds: int) -> Output:
        """The training rows' responses under policies that have not seen them, for a filter rule that needs them."""
        return self.on_backbone(
            "calibrate",
            later("sipo.stages.calibrate:calibrate"),
            (*ROWS, "lora", *self.aligned_by),
            {"known": self.align[LOGPROBS], **self.rates},
            writes=(LOGPROBS,),
            given={"folds": folds},
            work=partial(work.calibrate, folds=folds),
            peak=lambda peaks: peaks.trained(peaks.both, folds * peaks.n, peaks.config.align),
        )[LOGPROBS]

    def _improved(self, policies: Output, number: int, needed: Inputs) -> Output:
        """One round (SIPO, section 3): sample, refine, score, filter, and realign the policies that it began with."""
        at, given = ("", {}) if number == 1 else (f"round-{number}/", {"round": number})
        rule = find_rule(self.config.filter.rule)
        soups = rule.judging_soups(self.config)
        samples = self.on_backbone(
            f"{at}sample",
            later("sipo.stages.sample:sample"),
            (*ROWS, "decoding", "sample"),
            {"policies": policies},
            writes=(SAMPLES,),
            given=given,
            work=work.sample,
            peak=lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest, points=2),
        )[SAMPLES]
        refined = self._refined(at, policies, samples, given) if self.config.refine.enabled else None
        rewrites = {"refinements": refined[REFINEMENTS]} if refined else {}
        known = (self.align[LOGPROBS], *([refined[LOGPROBS]] if refined else []))
        scores = self.on_backbone(
            f"{at}score",
            later("sipo.stages.score:score"),
            (*ROWS, *WORKED),
            {"policies": policies, "samples": samples, **rewrites, "known": known},
            writes=(LOGPROBS,),
            given={"soups": soups},
            work=partial(work.score, soups=len(soups)),
            peak=lambda peaks: peaks.scoring(peaks.lengths.prompt + 2 * peaks.longest),
        )[LOGPROBS]
        chosen = self.on_backbone(
            f"{at}filter",
            later("sipo.stages.filter:filter"),
            (*ROWS, *WORKED, "filter", *rule.reads),
            {"samples": samples, **rewrites, "known": scores, **needed},
            writes=(CANDIDATES, CHOICE),
            version=rule.version,
            brought=(rule.decide, *rule.asks(self.config.filter)),
            work=rule.work,
            peak=rule.peak(self.config.filter),
        )
        realigned = Stage(
            f"{at}realign",
            later("sipo.stages.realign:realign"),
            (*ROWS, "lora", "realign"),
            {"policies": policies, "candidates": chosen[CANDIDATES], "known": scores},
            writes=(POLICIES, TRAINING),
            given=given,
            backbone=self.backbone,
            work=work.realign,
            peak=lambda peaks: peaks.trained(peaks.both + peaks.longest, peaks.n, peaks.config.realign),
        )
        tries = self.config.realign.lr == "auto"
        return (best_realigned(self, realigned, at) if tries else self.add(realigned))[POLICIES]

    def _refined(self, at: str, policies: Output, samples: Output, given: Mapping[str, Any]) -> Stage:
        return self.on_backbone(
            f"{at}refine",
            later("sipo.stages.refine:refine"),
            REFINED,
            {"policies": policies, "samples": samples},
            writes=(REFINEMENTS, LOGPROBS),
            given=given,
            work=work.refine,
            peak=_peak("refining"),
        )

    def _answered(self, spec: MethodSpec, inputs: Inputs) -> Stage:
        def cost(plan: work.Plan) -> work.Work:
            places = plan.weights if spec.steered or plan.config.decoding.temperature > 0 else plan.weights[:1]
            return work.answers(plan, [spec.answering(plan, weight) for weight in places])

        return self.on_backbone(
            f"answers/{spec.name}",
            later("sipo.stages.answer:answer_by"),
            (*DRAWN, "evaluate.prompts", "evaluate.per_prompt", *spec.reads),
            inputs,
            writes=(RESPONSES,),
            given={"method": spec.name},
            version=spec.version,
            brought=(spec.build,),
            work=cost,
            peak=spec.peak or (lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest)),
        )

    def _judged(self, name: str, answers: Output, every: Mapping[str, Output]) -> Stage:
        reads = (*ROWS, "objectives.reward")
        make = later("sipo.stages.judge:judge")
        inputs = {"answers": answers}
        if any(each.compares for each in self.config.objectives):
            inputs["against"] = every["base"]

        def cost(plan: work.Plan) -> work.Work:
            return work.judging(answers.stage.work(plan), base=name == "base")

        return self.add(Stage(f"judged/{name}", make, reads, inputs, (RESPONSES,), work=cost, peak=_peak("judging")))

    def _ranked(self, spec: MethodSpec, inputs: Inputs) -> Stage:
        reads = (*ROWS, "evaluate.prompts")
        known = self.on_backbone(
            "held-out",
            later("sipo.stages.rank:score_held_out"),
            reads,
            {},
            writes=(LOGPROBS,),
            work=work.held_out,
            peak=lambda peaks: peaks.scoring(peaks.both),
        )[LOGPROBS]
        return self.on_backbone(
            f"ranked/{spec.name}",
            later("sipo.stages.rank:rank"),
            (*reads, "weights", *spec.reads),
            {**inputs, "known": known},
            writes=(RANKINGS,),
            given={"method": spec.name},
            version=spec.version,
            brought=(spec.build,),
            work=lambda plan: work.rankings(
                plan, [spec.models(weight) for weight in (plan.weights if spec.steered else plan.weights[:1])]
            ),
            peak=lambda peaks: peaks.scoring(peaks.both),
        )

    def _compared(self, judged: Mapping[str, Output], ranked: Mapping[str, Output]) -> Stage:
        reads = ("seed", "weights", "objectives.direction", "evaluate.reference_point", "evaluate.bootstrap")
        make = later("sipo.stages.compare:compare")
        inputs: dict[str, Any] = {"judged": tuple(judged.values())}
        if any(each.judged for each in self.config.objectives):
            inputs["agreement"] = self._agreement()[AGREEMENT]
        if ranked:
            inputs["ranked"] = tuple(ranked.values())
        if tried := {stage.name: stage[STRENGTH] for stage in self if STRENGTH in stage.writes}:
            inputs["strengths"] = tried
        given = {"measured": self.measured} if self.config.by_labels else {}
        return self.add(Stage("compare", make, reads, inputs, (FRONTS,), given, version=3))

    def _agreement(self) -> Stage:
        make = later("sipo.stages.agreement:agreement")
        return self.add(
            Stage(
                "agreement",
                make,
                (*ROWS, "objectives.reward"),
                writes=(AGREEMENT,),
                given={"pairs": PAIRS},
                work=partial(work.agreement, pairs=PAIRS),
                peak=_peak("judging"),
            )
        )

    def _reported(self, judged: Mapping[str, Output], ranked: Mapping[str, Output]) -> Stage:
        trained = {stage.name: stage[TRAINING] for stage in self if TRAINING in stage.writes}
        inputs: dict[str, Any] = {
            "fronts": self.compare[FRONTS],
            "responses": tuple(judged.values()),
            "training": trained,
            **({"proposal": self.proposal} if self.proposal else {}),
        }
        if self.config.by_labels:
            inputs["ranked"] = tuple(ranked.values())
        chosen = [stage for stage in self if CHOICE in stage.writes]
        if chosen:  # of the last round
            last = chosen[-1]
            inputs |= {"candidates": last[CANDIDATES], "choice": last[CHOICE]}
            inputs |= {name: each for name, each in last.inputs.items() if name in ("samples", "refinements")}
        return self.add(Stage("report", later("sipo.stages.report:report"), SHOWN, inputs, version=4))


def _check(needed: Any) -> None:
    """Raise TypeError for what are no inputs of a stage."""
    for name, given in needed.items():
        each = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple) else (given,)
        if not all(isinstance(output, Output) for output in each):
            raise TypeError(f"{name} is no Output of a stage, nor several; an Output is stage[PART]")


def _above(stage: Stage) -> list[str]:
    """The folders that the stage's lies in."""
    parts = stage.name.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _peak(name: str) -> Callable[[Any], float]:
    formula = later(f"sipo.declare.memory:{name}")
    return lambda peaks: float(formula(peaks))


def mermaid(graph: Graph) -> str:
    """The graph as a picture in text, Mermaid, which code hosts and documentation sites draw: a box for each stage, and
    an arrow from each stage to those that are given what it wrote, with what that is.
    """
    at = {stage.name: f"s{number}" for number, stage in enumerate(graph)}
    lines = ["flowchart LR", *(f'    {at[name]}["{name}"]' for name in at)]
    for stage in graph:
        given: dict[str, list[str]] = {}
        for _, output in stage.outputs():
            files = given.setdefault(output.stage.name, [])
            if output.part.files not in files:
                files.append(output.part.files)
        lines += [f'    {at[name]} -- "{", ".join(files)}" --> {at[stage.name]}' for name, files in given.items()]
    return "\n".join(lines)
