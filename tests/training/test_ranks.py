"""Two processes that train as one: by gloo on this machine's processor, with the whole model in each or in pieces."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ranked
import torch
import yaml
from chance import Chance, Process

from sipo import ranks
from sipo.bank.pieces import check_divisible, check_shardable
from sipo.cli.main import _launched, main
from sipo.engines.vllm import check_alone
from sipo.errors import SipoError
from sipo.models.load import Backbone
from sipo.room import machine_memory
from sipo.stages.sft import Shares
from sipo.testing.tiny import tiny_settings

pytestmark = pytest.mark.early

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def about_ranks(count: int) -> list[dict[str, str]]:
    """What torchrun has each know, in its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = [map(str, (rank, rank, count, "127.0.0.1", port)) for rank in range(count)]
    more = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return [{**dict(zip(LAUNCHED, each, strict=True)), **more} for each in about]


def launch(command: list[str], folder: Path, count: int = 2) -> list[subprocess.Popen[str]]:
    """As torchrun does, without what it takes to start; what a rank says is in `folder`."""
    processes = []
    for rank, about in enumerate(about_ranks(count)):
        environment = {**os.environ, **about}
        with (folder / f"out{rank}").open("w") as out, (folder / f"err{rank}").open("w") as err:
            processes.append(
                subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=err, text=True)
            )
    return processes


def ended(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[int]:
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ranked.Result]:
    return ranked.everything(tmp_path_factory.mktemp("one"))


def several(folder: Path, *how: str, count: int = 2) -> dict[str, Any]:
    statuses = ended(launch([ranked.__file__, str(folder / "results.pt"), str(folder / "tiny"), *how], folder, count))
    assert statuses == [0] * count, "".join((folder / f"err{rank}").read_text() for rank in range(count))
    return torch.load(folder / "results.pt")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return several(tmp_path_factory.mktemp("two"))


def same(result: ranked.Result, other: ranked.Result) -> None:
    """Up to the order of sums."""
    (curve, learned), (expected, wanted) = result, other
    assert len(curve) == len(expected) > 2
    for record, told in zip(curve, expected, strict=True):
        assert record == pytest.approx(told, abs=2e-4)
    for tensor, as_wanted in zip(learned, wanted, strict=True):
        torch.testing.assert_close(tensor, as_wanted, rtol=0, atol=2e-4)


KINDS = ("dpo", "lw", "modpo", "realign", "merged", "upper layers", "recomputed")
WAYS = ("raco", "three at once")
"""With several ways back over one graph."""


@pytest.mark.parametrize("name", [*KINDS, *WAYS, "whole", "reward model", "sft"])
def test_two_learn_what_one_learns(name: str, one: Any, two: Any) -> None:
    """Losses, accuracies, validation, and what comes of it; batches of five, and pieces of few examples."""
    same(two[name], one[name])
    before, after = one[name][0][0]["loss"], one[name][0][-1]["loss"]
    assert abs(before - after) > 0.01  # something is learned, so that equality says something


@pytest.mark.parametrize("name", [*KINDS, *WAYS])
def test_two_with_pieces_of_the_layers_learn_what_one_learns(name: str, one: Any, two: Any) -> None:
    same(two[f"{name} in pieces"], one[name])


def test_layers_in_pieces_are_half_as_much(two: Any) -> None:
    assert two["held"] == pytest.approx(0.5, abs=0.02)


def test_two_on_a_machine_share_its_memory(two: Any) -> None:
    assert two["memory"] == machine_memory() // 2


@pytest.mark.parametrize("when", ["answers", "answers in between"])
def test_two_write_and_score_what_one_does(when: str, one: Any, two: Any) -> None:
    """Also after trainings in pieces; an error is the one of one process, and nobody is left behind by it."""
    mine, theirs = one["answers"], two[when]
    assert theirs["texts"] == mine["texts"]
    assert len(set(mine["texts"][0])) > 4
    for scores, expected in zip(theirs["scores"], mine["scores"], strict=True):
        assert scores == pytest.approx(expected, abs=1e-4)
    assert theirs["error"] == mine["error"]
    assert mine["share"] == 1 and 0.3 < theirs["share"] < 0.7  # rank 0's part of the tokens


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_two_with_zero3_learn_and_write_what_one_does(one: Any, tmp_path: Path) -> None:
    found = several(tmp_path, "zero3")
    for name in (*KINDS, "two at once"):
        same(found[f"{name} in pieces"], one[name])
    assert found["held"] == pytest.approx(0.5, abs=0.02)
    assert found["answers in between"]["texts"] == one["answers"]["texts"]
    assert (tmp_path / "out0").read_text() == ""  # it would tell of itself on stdout


@pytest.mark.slow
def test_three_learn_and_write_what_one_does(one: Any, tmp_path: Path) -> None:
    """No share is like another."""
    found = several(tmp_path, count=3)
    for name in (*KINDS, *WAYS):
        same(found[name], one[name])
        same(found[f"{name} in pieces"], one[name])
    for name in ("whole", "reward model", "sft"):
        same(found[name], one[name])
    assert found["answers"]["texts"] == one["answers"]["texts"]


def killed(file: Path, asked: list[str], there: Callable[[], bool]) -> None:
    """A run of two processes, of which one is killed when that is there: the other ends with one line."""
    folder = file.parent
    processes = launch(["-m", "sipo", "run", str(file), *asked], folder)
    until = time.monotonic() + 200
    while not there():
        assert time.monotonic() < until
        assert processes[0].poll() is None, (folder / "err0").read_text()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    assert ended(processes, 60) == [2, -signal.SIGKILL]
    said = [(folder / f"err{rank}").read_text() for rank in (0, 1)]  # libraries may have said something, too
    assert re.findall("^(?:error|stopped|Traceback|.*Error).*", "".join(said), re.M) == [f"error: {ranks.GONE}"]


@pytest.mark.slow
def test_what_two_have_written_stays_written(tmp_path: Path) -> None:
    """SIGKILL among batches of texts; then one process writes the rest, and all of it is what one would write."""
    settings = tiny_settings(tmp_path)
    settings |= {"methods": ["sipo"], "execution": {**settings["execution"], "decode_rows": 2}}
    settings["sample"] |= {"prompts": 16, "per_weight": 12}
    file, asked, run = tmp_path / "run.yaml", ["--until", "sample"], Path(settings["run_dir"])
    file.write_text(yaml.safe_dump(settings))

    def written() -> list[str]:
        return [line for path in run.glob(".partial/sample/*.jsonl") for line in path.read_text().splitlines()]

    killed(file, asked, lambda: len(written()) > 20)
    kept = written()
    assert main(["run", str(file), *asked]) == 0
    assert main(["run", str(file), *asked, "--run-dir", str(tmp_path / "undisturbed")]) == 0
    mine, whole = ((folder / "sample/samples.jsonl").read_text() for folder in (run, tmp_path / "undisturbed"))
    assert mine == whole and len(kept) < len(whole.splitlines())


@pytest.mark.slow  # twenty seconds, most of them imports
def test_the_end_of_one_ends_the_job_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of a training; then one process goes on from the checkpoint to what it learns undisturbed."""
    settings = tiny_settings(tmp_path)
    settings |= {"methods": ["base"], "align": {**settings["align"], "epochs": 30}}
    settings["execution"] |= {"checkpoint_seconds": 0}
    file, asked = tmp_path / "run.yaml", ["--only", "align"]
    file.write_text(yaml.safe_dump(settings))
    metrics = Path(settings["run_dir"]) / "metrics.jsonl"
    killed(file, asked, lambda: metrics.exists() and '"step": 20,' in metrics.read_text())
    assert main(["run", str(file), *asked]) == 0
    assert json.loads((Path(settings["run_dir"]) / "align/stage.json").read_text())["resumed"]
    aside = [*asked, "--run-dir", str(tmp_path / "undisturbed")]
    assert main(["run", str(file), *aside]) == 0

    def losses(run: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (run / "align/training.jsonl").read_text().splitlines()]

    assert losses(Path(settings["run_dir"])) == pytest.approx(losses(tmp_path / "undisturbed"), abs=1e-3)


def test_what_a_rank_starts_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.setenv(name, "2")
    assert _launched()
    ranks.leave_job()
    assert not _launched()


@pytest.mark.slow
@pytest.mark.faults(1)
def test_a_rank_that_is_killed(tmp_path: Path, chance: Chance) -> None:
    """SIGKILL of one of two ranks | `sipo run` on two, in a training | one line, the job ends; then what two learn"""
    settings = tiny_settings(tmp_path)
    settings |= {"methods": ["base"], "align": {**settings["align"], "epochs": 10}}
    settings["execution"] |= {"checkpoint_seconds": 0}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))

    def begun(run: Path) -> list[Process]:
        run.parent.mkdir(exist_ok=True)
        command, ranks = ["run", str(file), "--only", "align", "--run-dir", str(run)], about_ranks(2)
        return [
            Process(command, run.parent / f"out{rank}", partial(os.environ.update, about))
            for rank, about in enumerate(ranks)
        ]

    def statuses(processes: list[Process]) -> list[int]:
        return [process.end() for process in processes]

    def learned(run: Path) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in sorted((run / "align").rglob("*.safetensors"))}

    assert statuses(begun(tmp_path / "undisturbed" / "run")) == [0, 0]
    whole = tmp_path / "undisturbed" / "run"
    steps = len((whole / "align/training.jsonl").read_text().splitlines())
    for place in chance.trials(tmp_path):
        processes, step = begun(place / "run"), chance.rng.randrange(1, steps - 2)
        metrics, until = place / "run" / "metrics.jsonl", time.monotonic() + 200
        while not (metrics.exists() and metrics.read_text().count('"step"') > step):
            assert time.monotonic() < until
            time.sleep(0.01)
        victim = chance.rng.choice((0, 1))
        chance.drawn += 1
        os.kill(processes[victim].pid, signal.SIGKILL)
        if (found := statuses(processes)) != [0, 0]:
            assert found[victim] == -signal.SIGKILL and found[1 - victim] == 2, processes[1 - victim].said()
            chance.struck += 1
        processes = begun(place / "run")
        assert statuses(processes) == [0, 0], processes[0].said()
        assert learned(place / "run") == learned(whole)


def test_pieces_are_of_all_items_once_and_none_waits_for_ever() -> None:
    """What every rank works out by itself fits what the others do: each item is one rank's, and where layers are
    fetched from each other all ranks compute as many pieces.
    """

    def cut(items: Any) -> list[list[int]]:
        return [list(range(len(items)))[start : start + 2] for start in range(0, len(items), 2)]

    for count in (2, 3, 5):
        for items in (range(1), range(4), range(11)):
            plans = []
            for rank in range(count):
                one = object.__new__(ranks.Ranks)
                one.rank, one.count, one.in_step = rank, count, True  # type: ignore[misc]
                plans.append(one.pieces(items, cut))
            assert sorted(item for plan in plans for piece, counts in plan if counts for item in piece) == list(items)
            assert len({len(plan) for plan in plans}) == 1
            assert all(piece for plan in plans for piece, _ in plan)


def test_demonstrations_are_shared_out_without_losing_one() -> None:
    """Rounds of a batch, filled up with what counts for nothing; in the order of one process."""
    alone, shared = Shares(17, 5, 5, seed=3), Shares(17, 5, 6, seed=3)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        shared.set_epoch(epoch)
        taken = list(shared)
        assert len(taken) == len(shared) == 24
        assert [each for each in taken if each < 17] == [each for each in alone if each < 17]
        rounds = [taken[start : start + 6] for start in range(0, 24, 6)]
        assert [sum(each < 17 for each in some) for some in rounds] == [5, 5, 5, 2]
    assert sorted(each for each in alone if each < 17) == list(range(17))


def test_what_cannot_be_shared_out_is_refused(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_shardable(backbone.model)
    monkeypatch.setattr("sipo.bank.pieces.decoder_of", lambda model: None)
    with pytest.raises(SipoError, match="no list of decoder layers.*gpus.yaml"):
        check_shardable(backbone.model)
    check_divisible("zero3", full=False, ways=False)
    check_divisible("fsdp2", full=False, ways=True)
    with pytest.raises(SipoError, match="raco.*fsdp2.yaml"):
        check_divisible("zero3", full=False, ways=True)
    with pytest.raises(SipoError, match="policies: full.*gpus.yaml"):
        check_divisible("fsdp2", full=True, ways=False)
    monkeypatch.setattr(ranks, "_joined", object())
    with pytest.raises(SipoError, match="without accelerate or torchrun"):
        check_alone()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(SipoError, match="set it to 2"):
        ranks._sharded()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert ranks._sharded() == "fsdp2"
    assert "ACCELERATE_USE_FSDP" not in os.environ
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("sipo.ranks.find_spec", lambda name: None)
    with pytest.raises(SipoError, match="DeepSpeed, which is not installed"):
        ranks._sharded()
    monkeypatch.setattr("sipo.ranks.find_spec", lambda name: name)
    for stage in ("2", "3"):
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        if stage == "3":
            assert ranks._sharded() == "zero3"
        else:
            with pytest.raises(SipoError, match="zero_stage is 2"):
                ranks._sharded()
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
