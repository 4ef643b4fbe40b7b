"""The stages that tell on validation which mixture of the same policies to use: MOD or soups, where a run has both.

At a corner both are that objective's policy, so the middle of the weights tells.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from sipo.declare import work
from sipo.declare.parts import PROPOSAL, RESPONSES
from sipo.declare.stage import Inputs, Output, Stage, later
from sipo.methods.registry import usual, usual_soup
from sipo.methods.spec import MethodSpec

if TYPE_CHECKING:
    from sipo.graph.build import Graph

ROWS = ("seed", "data")
LIMIT = "evaluate.validation_prompts"


def proposed(graph: "Graph", needs: Mapping[MethodSpec, Inputs]) -> Output | None:
    """What is proposed for use; None where there is nothing to choose between, or no reward of an answer alone."""
    config = graph.config
    asked = {spec.name: spec for spec in needs}
    improving = [name for name, spec in asked.items() if spec.improves]
    pair = (usual(improving), usual_soup(improving))
    if not set(pair) <= set(asked) or not all(objective.scores_alone for objective in config.objectives):
        return None
    shown = {name: _answered(graph, asked[name], needs[asked[name]]) for name in pair}
    stage = Stage(
        "propose",
        later("sipo.stages.proposal:propose"),
        (*ROWS, "objectives.reward"),
        {"answers": shown},
        writes=(PROPOSAL,),
        peak=lambda peaks: float(later("sipo.declare.memory:judging")(peaks)),
    )
    return graph.add(stage)[PROPOSAL]


def _answered(graph: "Graph", spec: MethodSpec, inputs: Inputs) -> Output:
    n = len(graph.config.objectives)
    return graph.on_backbone(
        f"trials/mixing/{spec.name}",
        later("sipo.stages.proposal:answer_middle"),
        (*ROWS, "decoding", LIMIT, *spec.reads),
        inputs,
        writes=(RESPONSES,),
        given={"method": spec.name},
        version=spec.version,
        brought=(spec.build,),
        work=partial(work.middle_answers, models=spec.models((1 / n,) * n)),
        peak=lambda peaks: peaks.decoding(peaks.lengths.prompt, peaks.longest),
    )[RESPONSES]
