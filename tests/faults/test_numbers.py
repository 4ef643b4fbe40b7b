"""NaN at any moment: one line says where it came in, nothing is kept of it, and without it the work ends as ever."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from chance import Chance, Process, undisturbed
from damage import results_of
from whole import Whole

NAN = float("nan")


def in_a_parameter(given: Any, result: Any) -> Any:
    with torch.no_grad():
        given[0].param_groups[0]["params"][-1].view(-1)[0] = NAN
    return result


def in_a_tensor(given: Any, result: Any) -> Any:
    return result.index_fill(0, torch.tensor([len(result) // 2], device=result.device), NAN)


def in_a_list(given: Any, result: Any) -> Any:
    return [*result[:-1], NAN]


PLACES: dict[str, tuple[str, str, Callable[[Any, Any], Any]]] = {
    "weights": ("torch.optim", "AdamW.step", in_a_parameter),
    "training": ("sipo.training.loop", "response_logprobs", in_a_tensor),
    "scoring": ("sipo.logprobs.score", "response_logprobs", in_a_tensor),
    "decoding": ("sipo.decoding.batch", "mix_logits", in_a_tensor),
    "rewards": ("sipo.rewards.text", "words", in_a_list),
}
"""Functions, by module and name, and what spoils their result."""


def spoiling(name: str, number: int, count: Path) -> Callable[[], None]:
    """The n-th call of the function is spoilt; how many calls there are is left in `count`."""
    module, path, spoil = PLACES[name]

    def within() -> None:
        *owners, last = path.split(".")
        owner: Any = import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function, calls = getattr(owner, last), 0

        def spoilt(*given: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            count.write_text(str(calls))
            result = function(*given, **options)
            return spoil(given, result) if calls == number else result

        setattr(owner, last, spoilt)

    return within


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.faults(2)
def test_a_run(brief: Whole, tmp_path: Path, name: str, chance: Chance) -> None:
    """NaN in a trained weight, a log-probability in training or in scoring, the logits, a reward | `sipo run` | one line
    that says so; then tables, texts, adapters
    """
    count = tmp_path / "count"
    process = Process(brief.into(tmp_path / "counted"), tmp_path / "log", spoiling(name, 0, count))
    assert process.end() == 0, process.said()
    calls = int(count.read_text())
    for place in chance.trials(tmp_path):
        for _ in range(2):
            chance.drawn += 1
            spoilt = spoiling(name, chance.rng.randint(1, calls), count)
            process = Process(brief.into(place / "run"), place / "log", spoilt)
            status = process.end()
            assert status in (0, 2), process.said()
            if status == 0:
                break
            errors = [line for line in process.said().splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and ("finite" in errors[0] or "nan" in errors[0]), process.said()
            chance.struck += 1
        undisturbed(brief.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(brief.run)
