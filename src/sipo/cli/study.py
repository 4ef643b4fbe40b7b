"""`sipo study`: one of the paper's experiments, from its runs to its verdict."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sipo.errors import SipoError
from sipo.progress import Progress, say

FIRST_SEED = {"testbed": 200}
"""The testbed was built on seeds below; a configuration's seeds begin at 0."""


def conduct(name: str, on: str, seeds: str, to: Path, jobs: int, arms: str | None = None) -> dict[str, Any]:
    """Run the study, of these arms where some are named, and say and return where its `results.md` is and what it
    found.
    """
    from sipo.studies.fronts import FrontStudy
    from sipo.studies.ground import find_ground
    from sipo.studies.registry import find_study
    from sipo.studies.study import run_study

    first = FIRST_SEED.get(on.partition(":")[0], 0)
    study = find_study(name)
    if arms is not None:
        if not isinstance(study, FrontStudy):
            raise SipoError(f"--arms: `{name}` compares no fronts, so it has no arms to name")
        study = study.of(_labels(arms))
    folder, found = run_study(study, find_ground(on, to), _seeds(seeds, first), Progress(), jobs)
    results = folder / "results.md"
    say(f"results  {results}")
    measured = {each: asdict(found)[each] for each in ("findings", "tables")}
    return {"study": name, "on": on, "results": results, "verdict": found.verdict, **measured}


def _labels(text: str) -> list[str]:
    labels = [label for part in text.split(",") if (label := part.strip())]
    if not labels:
        raise SipoError(f"--arms {text}: name at least one arm, with commas between them")
    return labels


def _seeds(text: str, first: int) -> list[int]:
    """`5` is five seeds from the first on; `200,203` are those two."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SipoError(f"--seeds {text}: give a number of seeds, or the seeds with commas between them") from None
    if not numbers or min(numbers) < 0:
        raise SipoError(f"--seeds {text}: give a number of seeds, or the seeds with commas between them")
    return list(range(first, first + numbers[0])) if "," not in text else numbers
