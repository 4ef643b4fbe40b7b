"""The stages of `lr: auto`: for each strength its policies and what they attain on validation, then the best is taken.

A strength more trains and answers that one alone, and another floor only chooses again.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sipo.config import Config
from sipo.declare import work
from sipo.declare.parts import LOGPROBS, RESPONSES, STRENGTH, TRIAL, TRIAL_POLICIES
from sipo.declare.stage import Inputs, Output, Stage, later
from sipo.methods.registry import improves
from sipo.settings import Align, Realign, Training
from sipo.settings.training import TRIED

if TYPE_CHECKING:
    from sipo.graph.build import Graph

ROWS = ("seed", "data")


def tried(config: Config) -> dict[str, Training]:
    """The sections of a run whose strength is chosen, by name."""
    sections: dict[str, Training] = {
        "align": config.align,
        **({"realign": config.realign} if improves(config.methods) else {}),
    }
    return {name: section for name, section in sections.items() if section.lr == "auto"}


def label(strength: float) -> str:
    """The name of its folder."""
    return f"x{strength:g}".replace(".", "_").replace("+", "")


def trained_by(section: type[Align] | type[Realign]) -> tuple[str, ...]:
    """The keys of a section that a training at a given strength reads."""
    name = section.__name__.lower()
    return tuple(f"{name}.{key}" for key in section.model_fields if key != "lr" and key not in TRIED)


def best_aligned(graph: "Graph", stage: Stage) -> Stage:
    """Stage `align` at the best strength; `stage` is the one that stands there where the rate is written."""
    reference = graph.on_backbone(
        "trials/align/reference",
        later("sipo.stages.align:score_references"),
        ROWS,
        {},
        writes=(LOGPROBS,),
        work=work.references,
        peak=stage.peak,
    )[LOGPROBS]
    trials = {}
    for strength in graph.config.align.strengths:
        trials[label(strength)] = graph.on_backbone(
            f"trials/align/{label(strength)}/policies",
            later("sipo.stages.trials:align_at"),
            (*ROWS, "lora", *trained_by(Align)),
            {"known": reference},
            writes=(TRIAL_POLICIES, TRIAL),
            given={"strength": strength},
            work=work.aligning,
            peak=stage.peak,
        )
    shown = {
        name: _shown(graph, "align", f"trials/align/{name}", each[TRIAL_POLICIES], reference)
        for name, each in trials.items()
    }
    return _taken(graph, stage, "align", trials, shown, {"known": reference})


def best_realigned(graph: "Graph", stage: Stage, at: str) -> Stage:
    """Stage `realign` of a round at the best strength. Every round is held against what alignment made."""
    known = graph.align[LOGPROBS]
    trials, shown = {}, {"x0": _shown(graph, "realign", "trials/realign/x0", graph.policies, known)}
    for strength in graph.config.realign.strengths:
        name = label(strength)
        trials[name] = graph.on_backbone(
            f"{at}trials/realign/{name}/policies",
            later("sipo.stages.trials:realign_at"),
            (*ROWS, "lora", *(() if graph.rates else ("align.lr",)), *trained_by(Realign)),
            {**stage.inputs, **graph.rates},
            writes=(TRIAL_POLICIES, TRIAL),
            given={**stage.given, "strength": strength},
            work=stage.work,
            peak=stage.peak,
        )
        shown[name] = _shown(graph, "realign", f"{at}trials/realign/{name}", trials[name][TRIAL_POLICIES], known)
    return _taken(graph, stage, "realign", trials, shown, {})


def _shown(graph: "Graph", of: str, place: str, policies: Output, known: Output) -> Output:
    """What policies attain on validation: answers where every objective's reward scores them alone, else
    log-probabilities.
    """
    name = place.rpartition("/")[2]
    if all(objective.scores_alone for objective in graph.config.objectives):
        return graph.on_backbone(
            f"{place}/answers",
            later("sipo.stages.trials:answer_trial"),
            (*ROWS, "decoding", f"{of}.trial_prompts"),
            {"policies": policies},
            writes=(RESPONSES,),
            given={"label": name, "of": of},
            work=lambda plan: work.trial_answers(plan, getattr(plan.config, of).trial_prompts),
            peak=lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest),
        )[RESPONSES]
    return graph.on_backbone(
        f"{place}/scores",
        later("sipo.stages.trials:score_trial"),
        ROWS,
        {"policies": policies, "known": known},
        writes=(LOGPROBS,),
        given={"label": name},
        work=work.trial_scores,
        peak=lambda peaks: peaks.scoring(peaks.both),
    )[LOGPROBS]


def _taken(
    graph: "Graph", stage: Stage, of: str, trials: Mapping[str, Stage], shown: Mapping[str, Output], more: Inputs
) -> Stage:
    keys = ("strengths", "keep_range") if "x0" in shown else ("strengths",)
    inputs: dict[str, Any] = {"trained": {name: each[TRIAL] for name, each in trials.items()}, "shown": shown, **more}
    return graph.add(
        Stage(
            stage.name,
            later("sipo.stages.trials:take"),
            (*ROWS, "weights", "objectives.reward", *(f"{of}.{key}" for key in keys)),
            inputs,
            writes=(*stage.writes, STRENGTH),
            given={"of": of},
            work=lambda plan: work.Work(judged=sum(each.stage.work(plan).written for each in shown.values())),
            peak=lambda peaks: float(later("sipo.declare.memory:judging")(peaks)),
            version=2,
        )
    )
