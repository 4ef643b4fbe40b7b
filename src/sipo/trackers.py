"""Where a run's numbers go besides metrics.jsonl: TensorBoard, trackio, Weights & Biases, MLflow, by accelerate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.disk.damage import note
from sipo.errors import SipoError
from sipo.plain import plain

PROJECT = "sipo"


class Trackers:
    """The named ones, begun; `settings` are kept there with the run. Raises SipoError where one cannot be begun."""

    def __init__(self, names: Sequence[str], run: Path, settings: Mapping[str, Any]) -> None:
        self._begun = {name: _begin(name, run, settings) for name in dict.fromkeys(names)}

    def log(self, record: Mapping[str, Any], number: int) -> None:
        """A record's numbers, `number` being its place in the run. One that fails is told of once and left: a run of
        days does not end by the failure of a page that shows it.
        """
        words = [str(value) for name, value in record.items() if isinstance(value, str) and value]
        values = {
            "/".join([*words, name]): value
            for name, value in record.items()
            if isinstance(value, int | float) and name not in ("time", "step")
        }
        for name, tracker in list(self._begun.items()):
            try:
                tracker.log(values, step=number)
            except Exception as error:
                note(f"{name} takes no more numbers ({_said(error)}); metrics.jsonl has all of them")
                del self._begun[name]

    def finish(self) -> None:
        while self._begun:
            name, tracker = self._begun.popitem()
            try:
                tracker.finish()
            except Exception as error:
                note(f"{name} could not be brought to its end ({_said(error)})")


def _begin(name: str, run: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(run)},
        "trackio": {"run_name": PROJECT, "name": run.name},
        "wandb": {"run_name": PROJECT, "name": run.name},
        "mlflow": {"experiment_name": PROJECT, "run_name": run.name},
    }
    PartialState()  # its trackers ask which process they are in
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](**known[name])
        tracker.start()
        if name != "tensorboard":  # which would open a run of its own for them
            tracker.store_init_configuration(dict(settings))
    except ModuleNotFoundError as error:
        raise SipoError(f"execution.report_to: no module named `{error.name}`; pip install {name}") from None
    except Exception as error:
        raise SipoError(f"execution.report_to: {name} cannot be begun ({_said(error)}); leave it out") from None
    return tracker


def _said(error: Exception) -> str:
    return plain(" ".join(str(error).split()))[:200] or type(error).__name__
