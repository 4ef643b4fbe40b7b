"""Stages that train several policies in the same steps: results of one after the other, kills, one that diverges."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sipo.bank import Adapter, load_adapter
from sipo.config.file import parse_config
from sipo.disk.tables import read_lines
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
from sipo.logprobs.table import LogprobTable
from sipo.methods.lw import train_lw
from sipo.methods.modpo import train_modpo
from sipo.methods.raco import train_raco
from sipo.progress import Progress
from sipo.runs.pipeline import run
from sipo.stages import align
from sipo.task import Task
from sipo.training.loop import Trainee
from sipo.training.policies import _even

Make = Callable[..., Task]


@pytest.fixture
def make(make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path) -> Make:
    def made(together: int | str, seconds: float = 1e6, **align: Any) -> Task:
        settings = make_settings(tmp_path)
        settings["methods"] = ["base", "mod", "lw", "modpo", "raco"]
        settings["execution"] |= {"train_together": together, "checkpoint_seconds": seconds}
        settings["align"] |= align
        settings["weights"] = {"divisions": 4}
        return Task(parse_config(settings, "settings"), Progress(quiet=True))

    return made


def adapters(folder: Path) -> dict[str, Adapter]:
    return {each.name: load_adapter(each) for each in sorted((folder / "adapters").iterdir())}


def close(one: dict[str, Adapter], other: dict[str, Adapter]) -> None:
    assert one.keys() == other.keys() and len(one) > 1
    for name, adapter in one.items():
        for mine, theirs in zip(adapter.parameters, other[name].parameters, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=5e-4)


def identities(folder: Path) -> list[str]:
    return [each.identity for each in adapters(folder).values()]


def test_every_method_s_models_are_those_of_one_after_the_other(make: Make, tmp_path: Path) -> None:
    found = []
    for number in (1, "auto"):
        task, folder = make(number), tmp_path / f"together-{number}"
        policies = align(task, folder / "align")
        known = LogprobTable().read(folder / "align" / "logprobs.parquet")
        train_lw(task, known, folder / "lw")
        train_raco(task, known, folder / "raco")
        train_modpo(task, policies, known, folder / "modpo")
        found.append(folder)
    for stage in ("align", "lw", "raco", "modpo"):
        close(*(adapters(folder / stage) for folder in found))
        one, other = (read_lines(folder / stage / "training.jsonl") for folder in found)
        assert [(each["objective"], each["step"]) for each in one] == [
            (each["objective"], each["step"]) for each in other
        ]


@pytest.mark.parametrize("seconds", [0.0, 1e6])
@pytest.mark.parametrize("at", ["a step", "a policy's folder"])
def test_a_killed_stage_ends_as_an_undisturbed_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, seconds: float
) -> None:
    """Bit by bit, whether states were kept before or not, and also where one of two policies was written."""
    task, calls = make(2, seconds), 0
    align(task, tmp_path / "undisturbed")
    owner, name = (Progress, "metric") if at == "a step" else (Adapter, "save")
    real = getattr(owner, name)

    def killing(self: Any, *given: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == (5 if at == "a step" else 2):
            raise KeyboardInterrupt
        real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        with pytest.raises(KeyboardInterrupt):
            align(task, tmp_path / "killed")
    align(task, tmp_path / "killed")
    assert identities(tmp_path / "killed") == identities(tmp_path / "undisturbed")
    assert read_lines(tmp_path / "killed" / "training.jsonl") == read_lines(tmp_path / "undisturbed" / "training.jsonl")


def test_one_that_diverges_ends_the_stage_and_nothing_of_those_beside_it_is_kept(make: Make, tmp_path: Path) -> None:
    """Theirs are the bits of a training without it."""
    first, second = make(2).objectives
    task, said = make(2, lr={first: 1e36, second: 1e-3}), list[str]()
    task.progress.say = said.append  # type: ignore[method-assign,assignment]
    with pytest.raises(NotFiniteError, match=f"training objective {first}, step .* lower align.lr"):
        align(task, tmp_path / "align")
    assert len([line for line in said if first in line and "goes on" in line]) == 1
    assert not [each for each in (tmp_path / "align").rglob("*") if each.suffix in (".safetensors", ".pt")]


def test_another_number_trains_nothing_anew(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, executed: list[str]
) -> None:
    settings = make_settings(tmp_path)
    settings["methods"] = ["base", "mod"]
    for together in (1, 2, "auto"):
        settings["execution"]["train_together"] = together
        run(parse_config(settings, "settings"), quiet=True, until="align")
    assert executed == ["align"]


def test_none_is_no_number_of_policies(make: Make) -> None:
    for wrong in (0, -1, "all", 1.5):
        with pytest.raises(SipoError, match="train_together"):
            make(wrong)


def test_groups_are_as_few_and_as_even_as_they_can_be() -> None:
    for count in range(12):
        for most in range(1, 14):
            groups = _even(count, most)
            assert [number for group in groups for number in group] == list(range(count))
            assert len(groups) == -(-count // most)
            sizes = [len(group) for group in groups]
            assert not sizes or max(sizes) <= min(most, min(sizes) + 1)


def test_auto_takes_as_many_as_fill_a_step_and_fit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("auto")
    settings = task.config.align
    some = task.together(9, settings)
    assert 1 < some <= 9
    assert task.together(1, settings) == task.together(0, settings) == 1
    assert task.together(9, settings.model_copy(update={"batch_size": 1000})) == 1
    assert make(5).together(3, settings) == 3
    assert make(5).together(9, settings) == 5
    monkeypatch.setattr("sipo.task.share_of", lambda _: 1)
    assert task.together(9, settings) == 1, "one is trained whatever there is"
    assert make(5).together(9, settings) == 5, "whoever asks for five has them"


def test_a_forward_has_the_tokens_that_its_policies_leave(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def seen(bank: Any, trainees: Sequence[Trainee], **_: Any) -> Any:
        raise Seen(*(each.loss.token_budget for each in trainees))

    monkeypatch.setattr("sipo.training.policies.train_together", seen)
    for together in (1, 2):
        task = make(together)
        execution = task.config.execution.model_copy(update={"train_tokens": "auto"})
        task = Task(task.config.model_copy(update={"execution": execution}), Progress(quiet=True))
        peaks = task._peaks
        memory = (peaks.training(0) + peaks.gradients()) / 0.9 / 3  # a third of what the most tokens take
        monkeypatch.setattr("sipo.task.share_of", lambda _, memory=memory: memory)
        with pytest.raises(Seen) as found:
            align(task, tmp_path / str(together))
        assert found.value.args == (task.train_tokens(together),) * together
        assert task.train_tokens(2) < task.train_tokens() < 4096
        monkeypatch.undo()
        monkeypatch.setattr("sipo.training.policies.train_together", seen)
