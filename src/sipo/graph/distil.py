"""The stages that make one policy of a mixture at a weight: its answers, what learns from them, what that is worth.

They stand beside a run's own, and are made when somebody asks for such a policy.
"""

from typing import TYPE_CHECKING, NamedTuple

from sipo.declare.parts import DISTILLED, RESPONSES, SAMPLES, TRAINING
from sipo.declare.stage import Stage, later
from sipo.declare.work import Plan, Work, steps
from sipo.methods.registry import find
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.graph.build import Graph

ROWS = ("seed", "data")


class Distillation(NamedTuple):
    """Its stages, in order."""

    answers: Stage
    policy: Stage
    judged: Stage | None
    """None where no objective has a reward."""


def place_of(method: str, weight: Weight) -> str:
    """The folder of its stages, in the run's."""
    return f"distilled/{method}-" + "-".join(f"{share:.6g}".replace(".", "_") for share in weight)


def distilled(graph: "Graph", method: str, weight: Weight) -> Distillation:
    """Added to the graph, which has all that the method is built from."""
    spec = find(method)
    inputs, given = spec.needs(graph), {"method": method, "weight": weight}
    place = place_of(method, weight)
    models = spec.models(weight)
    answers = graph.on_backbone(
        f"{place}/answers",
        later("sipo.stages.distil:write_answers"),
        (*ROWS, "decoding", *spec.reads),
        inputs,
        writes=(SAMPLES,),
        given=given,
        version=spec.version,
        brought=(spec.build,),
        work=lambda plan: _written(plan, plan.seen, models + 1),
        peak=lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest),
    )
    policy = graph.on_backbone(
        f"{place}/policy",
        later("sipo.stages.distil:learn"),
        (*ROWS, "lora", *graph.aligned_by, *spec.reads),
        {**inputs, "samples": answers[SAMPLES], **graph.rates},
        writes=(DISTILLED, TRAINING),
        given=given,
        version=spec.version,
        brought=(spec.build,),
        work=_learned,
        peak=lambda peaks: max(peaks.training(peaks.both), peaks.scoring(peaks.both)),
    )
    judged = None
    if graph.measured:
        judged = graph.on_backbone(
            f"{place}/judged",
            later("sipo.stages.distil:judge_beside"),
            (*ROWS, "decoding", "evaluate.prompts", "evaluate.per_prompt", "objectives.reward", *spec.reads),
            {**inputs, "policy": policy[DISTILLED]},
            writes=(RESPONSES,),
            given=given,
            version=spec.version,
            brought=(spec.build,),
            work=lambda plan: _written(plan, plan.sizes.test * plan.config.evaluate.per_prompt, models + 3),
            peak=lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest),
        )
    return Distillation(answers, policy, judged)


def _written(plan: Plan, prompts: int, models: int) -> Work:
    """Answers to so many prompts by methods of so many models together."""
    asked = prompts * models
    return Work(written=asked, reading=asked * plan.lengths.prompt, decoding=asked * plan.longest)


def _learned(plan: Plan) -> Work:
    """Fine-tuning on one answer, then DPO on two, whose references are scored."""
    rows, align = plan.sizes.train, plan.config.align
    one, both = plan.lengths.prompt + plan.longest, plan.lengths.prompt + 2 * plan.longest
    training = plan.step() * align.epochs * rows * (one + both) + align.epochs * plan.sizes.validation * both
    return Work(2 * steps(rows, align), scored=2 * plan.seen, scoring=plan.seen * both, training=training)
