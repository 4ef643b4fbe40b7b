"""Any damage to any file of a run: each command either does right by it, or says in a line what is wrong."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from chance import ROUNDS, Chance, Process, undisturbed
from damage import DAMAGES, Damage, files_of, results_of
from whole import Other, Whole, whole_of

from sipo.cli.main import main


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.faults(2)
def test_a_finished_run(
    brief: Whole, tmp_path: Path, damage: Damage, chance: Chance, capfd: pytest.CaptureFixture[str]
) -> None:
    """files cut, flipped in a bit, emptied, removed, zeroed, doubled | a finished run: `status`, `generate`, `run
    --only report`, `run` | the answers, or a line that names the file; then tables, texts, adapters
    """
    ask = [*brief.shares, "--prompt", "tell me", "--max-tokens", "2"]
    assert main(["generate", str(brief.run), *ask]) == 0
    answer = capfd.readouterr().out
    names = [file.relative_to(brief.run) for file in files_of(brief.run) if file.name != "metrics.jsonl"]
    for number, name in enumerate(chance.rng.sample(names, len(names) if ROUNDS > 1 else chance.least)):
        run = shutil.copytree(brief.run, tmp_path / str(number))
        damage(run / name, chance.rng)
        chance.drawn, chance.struck = chance.drawn + 1, chance.struck + 1
        without = shutil.copytree(run, tmp_path / f"{number}-report")
        shutil.rmtree(without / "report")
        report = brief.into(without, "--only", "report")
        for command, told in (
            (["status", str(run)], None),
            (["generate", str(run), *ask], answer),
            (report, None),
        ):
            status, said = main(command), capfd.readouterr()
            assert status in (0, 2) and "Traceback" not in said.err
            assert status == 0 or str(name) in said.err
            assert status == 2 or told in (None, said.out), f"{name}: another answer"
        assert main(brief.into(run)) == 0, (name, capfd.readouterr().err)
        assert results_of(run) == results_of(brief.run)
        shutil.rmtree(run)
        shutil.rmtree(without)


@pytest.mark.slow
@pytest.mark.faults(6)
def test_work_in_progress(whole: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL, then damage to a file of what is in progress | `sipo run`, eight methods | tables, texts, adapters"""
    for place in chance.trials(tmp_path):
        run = place / "run"
        for gap in chance.gaps(whole.seconds, 8):
            process = Process(whole.into(run), place / "log")
            chance.drawn += 1
            status = process.stop(chance.rng.uniform(0, whole.start) + gap)
            assert status in (0, -9), process.said()
            if files := files_of(run / ".partial") if run.exists() else []:
                chance.rng.choice(DAMAGES)(chance.rng.choice(files), chance.rng)
                chance.struck += 1
        undisturbed(whole.into(run), place / "log")
        assert results_of(run) == results_of(whole.run)


@pytest.mark.parametrize("name", ["label", "reward"])
@pytest.mark.faults(2)
def test_other_work_in_progress(model_folder: Path, bank: Any, tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGKILL, then damage to what is kept for the next try | `sipo data label`, `reward train` | the file or folder,
    nothing beside it
    """
    other = Other(name, tmp_path, model_folder)
    for place in chance.trials(tmp_path):
        command = other.into(place / "within")
        for gap in chance.gaps(other.seconds, 2):
            process = Process(command, place / "log")
            chance.drawn += 1
            if process.stop(other.seconds / 3 + gap) == 0 or (place / "within" / other.target).exists():
                break
            if files := files_of(place / "within"):
                chance.rng.choice(DAMAGES)(chance.rng.choice(files), chance.rng)
                chance.struck += 1
        else:
            undisturbed(command, place / "log")
        assert whole_of(place / "within" / other.target) == other.whole
