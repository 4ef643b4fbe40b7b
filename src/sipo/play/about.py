"""What the page is told of a run: objectives, methods and how they look, the front, and how answers are drawn."""

from collections.abc import Iterable, Mapping
from typing import Any

from sipo.commands import question
from sipo.errors import SipoError
from sipo.finished.built import ALONE, spec_of
from sipo.play.worth import scored_by
from sipo.report.looks import looks
from sipo.report.measure import measure_of
from sipo.serve.naming import Served
from sipo.serve.service import Limits


def about(served: Served, runs: Iterable[str], limits: Limits, asked: str | None = None) -> dict[str, Any]:
    """`runs` are all that are served. `asked` is a prompt to begin with; None takes one of the run's own."""
    run = served.run
    drawn = looks(served.methods, run.objectives)
    return {
        "run": served.name,
        "runs": list(runs),
        "remarks": list(served.run.remarks),
        "objectives": [
            {"name": each.name, "better": each.better, "direction": each.direction, "scored": scored_by(each)}
            for each in run.config.objectives
        ],
        "methods": [
            {
                "name": name,
                "says": f"the policy of {name.removeprefix(ALONE)} alone"
                if name.startswith(ALONE)
                else spec_of(name).says,
                "steered": spec_of(name).steered,
                "trained": _trained(served, name),
                "color": drawn[name].color,
                "symbol": drawn[name].symbol,
            }
            for name in served.methods
        ],
        "usual": served.usual,
        "front": _front(served.fronts, run.objectives),
        "decoding": run.config.decoding.model_dump(),
        "tokens": {"usual": run.config.data.max_response_tokens, "most": limits.tokens},
        "prompt": _question(served) if asked is None else asked,
    }


def _front(fronts: Mapping[str, Any] | None, objectives: tuple[str, ...]) -> dict[str, Any] | None:
    """Every evaluated point; None where the run measured nothing. A single prompt has no interval."""
    if not fronts:
        return None
    parts = ("weights", "rewards") if fronts.get("prompts") == 1 else ("weights", "rewards", "interval")
    return {
        "heading": measure_of(fronts).heading,
        "prompts": fronts.get("prompts"),
        "directions": {each["name"]: each["direction"] for each in fronts["objectives"]},
        "methods": {
            method: [{part: point[part] for part in parts} for point in front["points"]]
            for method, front in fronts["methods"].items()
        },
    }


def _trained(served: Served, method: str) -> list[list[float]] | None:
    """The weights that it can be asked at, each in the order of the objectives; None is any."""
    weights = served.run.trained(method)
    return None if weights is None else [[each[name] for name in served.run.objectives] for each in weights]


def _question(served: Served) -> str:
    """A held-out prompt; where the rows are no longer there, one that fits any run."""
    try:
        return question(row.text for row in served.run.task.splits.test)
    except (SipoError, OSError):
        return question([])
