"""`sipo data label`: what the command line gives, checked before any work, and handed to `sipo.labelling`."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from sipo.config.file import parse_yaml
from sipo.data._files import SUFFIXES
from sipo.errors import SipoError
from sipo.labelling import Drawing, label
from sipo.rewards.objective import Objective
from sipo.settings import Execution, Model
from sipo.settings.explain import explain


def make_rows(
    prompts: Path,
    model: str,
    rewards: Mapping[str, str],
    directions: Mapping[str, str],
    to: Path,
    drawing: Drawing,
    device: str,
) -> int:
    """The number of rows written."""
    for name, direction in directions.items():
        if name not in rewards:
            raise SipoError(f"--direction: `{name}` is no objective; they are {', '.join(rewards)}")
        if direction not in ("maximize", "minimize"):
            raise SipoError(f"--direction: {name}={direction}; write maximize or minimize")
    if to.suffix.lower() not in SUFFIXES:
        raise SipoError(f"{to}: is no name for a file of rows; end it in {' or '.join(SUFFIXES)}")
    return len(
        label(
            prompts,
            Model(path=model),
            [_objective(name, reward, directions.get(name, "maximize")) for name, reward in rewards.items()],
            to,
            drawing,
            execution=Execution(device=device),
        )
    )


def _objective(name: str, reward: str, direction: str) -> Objective:
    """`reward` as a configuration has it: module:function, or a mapping such as {preset: beaver-7b-cost}."""
    place = f"--objective {name}"  # without the reward, which may hold what is secret
    values = {"name": name, "better": name, "reward": parse_yaml(reward, place), "direction": direction}
    try:
        return Objective.model_validate(values)
    except ValidationError as error:
        raise SipoError(f"{place}: {explain(error, values, Objective)}") from None
