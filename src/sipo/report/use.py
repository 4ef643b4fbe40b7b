"""The commands that the page gives to people: ask at a weight, choose another, take the model away."""

from collections.abc import Mapping, Sequence
from typing import Any

from sipo.commands import command, export, generate, question
from sipo.methods.registry import find, usual_soup
from sipo.report.decision import Decision, ratio, steered
from sipo.report.inputs import Inputs
from sipo.task import Task

Command = tuple[str, str]
"""What it does, in a few words, and its words for a shell."""


def commands(task: Task, inputs: Inputs, found: Decision) -> list[Command]:
    """At the recommended weight or, without one, at the middle one; none where no weight steers anything."""
    run, methods = task.config.run_dir, steered(inputs.fronts["methods"])
    at = found.recommended
    method = at.method if at else inputs.proposal.get("method") or found.focus
    if method not in methods:
        return []
    weights = at.weights if at else _middle(inputs.fronts["methods"][method]["points"])
    asked = generate(run, weights, question(each.text for each in inputs.responses), method)
    chosen = ("choose", run, at.by if at else "--knee", "--method", method)
    told = [("ask it" if at else f"ask {method} all the same, at {ratio(weights)}", asked)]
    if len(task.weights) > 1:
        told.append(("choose another weight" if at else "choose a weight", chosen))
    spec = find(method)
    if spec.exported:
        alone = spec.models(tuple(weights.values())) == 1
        what = "take the model away" if alone else "take the soup of its policies away: one model, not this mixture"
        told.append((what, export(run, weights, "chosen", method if alone else usual_soup([method]))))
    return [(what, command("sipo", *words)) for what, words in told]


def _middle(points: Sequence[Any]) -> Mapping[str, float]:
    return min((each["weights"] for each in points), key=lambda weights: max(weights.values()))
