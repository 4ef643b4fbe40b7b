"""The commands that the page gives to people: ask at a weight, choose another, take the model away."""

from collections.abc import Sequence
from typing import Any

from sipo.methods.registry import find
from sipo.plain import command
from sipo.report.decision import Decision, steered
from sipo.report.inputs import Inputs
from sipo.task import Task

Command = tuple[str, str]
"""What it does, in a few words, and its words for a shell."""


def commands(task: Task, inputs: Inputs, found: Decision) -> list[Command]:
    """At the recommended weight or, without one, at the middle one."""
    run, methods = task.config.run_dir, steered(inputs.fronts["methods"])
    if not methods:
        return []
    at = found.recommended
    method = at.method if at else found.focus
    weights = at.weights if at else _middle(inputs.fronts["methods"][method]["points"])
    shares = ",".join(f"{name}={share:.9g}" for name, share in weights.items())
    question = min((each.text for each in inputs.responses), key=len, default="")
    by = at.by if at else "--knee"
    spec = find(method)
    one = spec.exported and spec.models(tuple(weights.values())) == 1
    return [
        ("ask it", command("sipo", "generate", run, "--method", method, "--weights", shares, "--prompt", question)),
        ("choose another weight", command("sipo", "choose", run, by, "--method", method)),
        (
            "take the model away",
            command(
                "sipo", "export", run, *(["--method", method] if one else []), "--weights", shares, "--to", "chosen"
            ),
        ),
    ]


def _middle(points: Sequence[Any]) -> Any:
    return min((each["weights"] for each in points), key=lambda weights: max(weights.values()))
