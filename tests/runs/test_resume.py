"""Killed at any moment and started again, a run ends as if nothing had happened; and a change re-does only its own."""

import errno
import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGES, Damage
from driven import Driver, driving
from safetensors.torch import save_file
from small import asking_briefly
from stage_keys import stage_keys

from sipo.config.file import parse_config
from sipo.disk import publishing as publishing_module
from sipo.disk import run as folder_module
from sipo.disk.appearing import appearing
from sipo.disk.damage import DamageError
from sipo.disk.journal import Journal, resumable
from sipo.disk.run import RunFolder
from sipo.disk.tables import read_json, write_text
from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.runs.pipeline import run

pytestmark = pytest.mark.early

METHODS = ["base", "soups", "mod", "sipo"]
STAGES = [
    *("align", "sample", "refine", "score", "filter", "realign"),
    *(f"answers/{name}" for name in METHODS),
    *(f"judged/{name}" for name in METHODS),
    *("compare", "report"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@dataclass
class Undisturbed:
    settings: dict[str, Any]
    path: Path
    touches: int

    def elsewhere(self, folder: Path) -> dict[str, Any]:
        """The same settings for another run folder."""
        return {**self.settings, "run_dir": str(folder / "run")}

    def copy(self, folder: Path) -> dict[str, Any]:
        """The same run, finished, in another folder."""
        shutil.copytree(self.path, folder / "run")
        return self.elsewhere(folder)


@pytest.fixture(scope="module")
def undisturbed(
    make_settings: Callable[[Path], dict], driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("resume")
    settings = asking_briefly(make_settings(folder), folder)
    assert driver.run(settings) == 0
    return Undisturbed(settings, Path(settings["run_dir"]), int(driver.count.read_text()))


def outcome(run_folder: Path) -> dict[str, str]:
    """Every file that the stages made, by content; not what tells of time."""
    files = {
        str(file.relative_to(run_folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for stage in STAGES
        for file in (run_folder / stage).rglob("*")
        if file.is_file() and file.name != "stage.json" and stage != "report"
    }
    assert {"sample/samples.jsonl", "refine/refinements.jsonl", "filter/candidates.jsonl"} <= files.keys()
    assert {f"{s}/adapters/detail/adapter_model.safetensors" for s in ("align", "realign")} <= files.keys()
    assert {"compare/fronts.json", "judged/sipo/responses.jsonl", "score/logprobs.parquet"} <= files.keys()
    return files


def assert_same_outcome(run_folder: Path, undisturbed: Undisturbed) -> None:
    assert outcome(run_folder) == outcome(undisturbed.path)
    assert (run_folder / "report" / "stage.json").exists()
    assert not [each for each in (run_folder / ".partial").rglob("*") if each.is_file()]


def reached(run_folder: Path) -> str | None:
    """The stage in the middle of which a run was killed."""
    partial = run_folder / ".partial"
    found = (plan.parent.relative_to(partial).as_posix() for plan in partial.rglob(".plan"))
    return next(found, None) if partial.exists() else None


def whole(run_folder: Path) -> list[str]:
    """The published stages, each of which must be complete."""
    found = [stage for stage in STAGES if (run_folder / stage).exists()]
    assert found == STAGES[: len(found)]
    for stage in found:
        assert (run_folder / stage / "stage.json").exists() and not (run_folder / stage / ".journal").exists()
    return found


def test_a_chain_of_kills_through_every_stage(undisturbed: Undisturbed, driver: Driver, tmp_path: Path) -> None:
    """Each life ends a score of touches of the disk further on: every stage is hit, at many kinds of moments."""
    settings, path, hit = undisturbed.elsewhere(tmp_path), tmp_path / "run", set()
    published: list[str] = []
    for life in range(undisturbed.touches):
        if driver.run(settings, kill_at=17 + life % 11) == 0:
            break
        hit.add(reached(path))
        assert whole(path)[: len(published)] == published, "what was finished stays"
        published = whole(path)
    assert life > 10
    kinds = {str(each).partition("/")[0] for each in hit}
    assert kinds >= {*STAGES[:6], "answers", "judged"}
    assert_same_outcome(path, undisturbed)


def test_kills_at_any_time(undisturbed: Undisturbed, driver: Driver, tmp_path: Path) -> None:
    settings, path = undisturbed.elsewhere(tmp_path), tmp_path / "run"
    moments, kills = random.Random(7), 0
    for life in range(200):
        process = driver.start(settings)
        time.sleep(moments.uniform(0.1, 1.5 + 0.25 * life))
        with suppress(ProcessLookupError):  # it was done
            os.kill(process, signal.SIGKILL)
        ended = driver.end()
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        kills += 1
        if path.exists():
            whole(path)
    assert kills > 1
    assert_same_outcome(path, undisturbed)


@pytest.mark.parametrize("stage", ["refine", "judged/soups", "compare"])
def test_a_stage_whose_record_stands_is_only_published(
    undisturbed: Undisturbed, driver: Driver, tmp_path: Path, stage: str
) -> None:
    """A crash after the last unit, before the folder is in its place: no work is lost, no journal is left."""
    settings, path = undisturbed.copy(tmp_path), tmp_path / "run"
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(path / later)
    partial = shutil.copytree(undisturbed.path / stage, path / ".partial" / stage)
    (partial / ".journal").mkdir()
    (partial / ".plan").write_text("whatever")
    assert driver.run(settings) == 0
    assert_same_outcome(path, undisturbed)
    assert (path / stage / "stage.json").read_bytes() == (undisturbed.path / stage / "stage.json").read_bytes()


def test_two_processes_at_once(undisturbed: Undisturbed, driver: Driver, tmp_path: Path) -> None:
    settings, path = undisturbed.elsewhere(tmp_path), tmp_path / "run"
    process = driver.start(settings)
    while reached(path) is None:
        time.sleep(0.01)
    with pytest.raises(SipoError, match="another process .* is working on this run"):
        run(parse_config(settings, "settings"), quiet=True)
    os.kill(process, signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    with RunFolder(path).locked():
        pass  # the lock went with the process


# A changed configuration


def inodes(path: Path) -> dict[str, tuple[int, int]]:
    """Stage folders, and when the last of their files was written."""
    return {
        stage: ((path / stage).stat().st_ino, max(f.stat().st_mtime_ns for f in (path / stage).rglob("*")))
        for stage in STAGES
    }


def again(settings: dict[str, Any], **options: Any) -> Path:
    return run(parse_config(settings, "settings"), quiet=True, **options)


def test_a_finished_run_does_nothing(undisturbed: Undisturbed, tmp_path: Path, executed: list[str]) -> None:
    settings = undisturbed.copy(tmp_path)
    before = inodes(tmp_path / "run")
    again(settings)
    assert executed == [] and inodes(tmp_path / "run") == before


def test_a_late_change_re_makes_late_stages_only(undisturbed: Undisturbed, tmp_path: Path, executed: list[str]) -> None:
    settings, path = undisturbed.copy(tmp_path), tmp_path / "run"
    before = inodes(path)
    changed = {**settings, "evaluate": {"bootstrap": 60}}
    again(changed)
    after = inodes(path)
    assert executed == ["compare", "report"]
    assert [stage for stage in STAGES if after[stage] != before[stage]] == ["compare", "report"]
    again(settings)
    assert executed == ["compare", "report"], "the earlier outputs come back"
    assert inodes(path) == before
    assert_same_outcome(path, undisturbed)


def test_an_early_change_re_makes_all_and_back_again_costs_nothing(
    undisturbed: Undisturbed, tmp_path: Path, executed: list[str]
) -> None:
    settings, path = undisturbed.copy(tmp_path), tmp_path / "run"
    before = inodes(path)
    changed = {**settings, "align": {**settings["align"], "lr": 0.011}}
    again(changed)
    between = inodes(path)
    changing = [name for name in STAGES if name != "judged/base"]  # the base model answers what it answered
    assert executed == changing
    assert [stage for stage in STAGES if between[stage][0] != before[stage][0]] == changing
    aside = [f.parent.relative_to(path / ".superseded").as_posix() for f in path.glob(".superseded/**/stage.json")]
    assert sorted(each.rsplit("-", 1)[0] for each in aside) == sorted(changing)
    for these, expected in ((settings, before), (changed, between), (settings, before)):
        again(these)
        assert inodes(path) == expected
    assert executed == changing
    assert_same_outcome(path, undisturbed)


SHOWN = ["report"]
OWN = ["answers/sipo", "judged/sipo", "compare", "report"]


@pytest.mark.parametrize(
    ("place", "value", "changed"),
    [
        ("seed", 5, STAGES),
        ("data.max_response_tokens", 11, STAGES),
        ("lora.r", 3, STAGES),
        ("align.beta", 0.2, STAGES),
        ("weights.divisions", 4, STAGES[6:]),
        ("sample.weights.divisions", 3, [*STAGES[1:6], *OWN]),
        ("filter.weights.divisions", 3, [*STAGES[3:6], *OWN]),
        ("decoding.temperature", 0.5, STAGES[1:]),
        ("sample.per_weight", 9, [*STAGES[1:6], *OWN]),
        ("refine.review_tokens", 9, [*STAGES[2:6], *OWN]),
        ("objectives.0.better", "It is longer.", [*STAGES[2:6], *OWN]),
        ("filter.beta", 0.2, [*STAGES[4:6], *OWN]),
        ("realign.alpha", 0.2, ["realign", *OWN]),
        ("evaluate.prompts", 3, STAGES[6:]),
        ("evaluate.reference_point", {"detail": 0.0, "brevity": 99.0}, STAGES[14:]),
        ("objectives.0.reward", "sipo.rewards.text:distinct_words", STAGES[10:]),
        ("objectives.0.direction", "minimize", STAGES[10:]),
        ("report.cases", 3, SHOWN),
        ("execution.decode_rows", 9, []),
        ("run_dir", "elsewhere", []),
        ("data.path", "elsewhere.jsonl", []),
    ],
)
def test_what_a_key_invalidates(settings: dict, place: str, value: object, changed: list[str]) -> None:
    about = {"model": "m", "rows": "r", "objectives": ["detail", "brevity"]}
    before = stage_keys(parse_config(settings, "settings"), about)
    *sections, key = place.split(".")
    target: Any = settings
    for section in sections:
        target = target[int(section)] if section.isdigit() else target.setdefault(section, {})
    target[key] = value
    after = stage_keys(parse_config(settings, "settings"), about)
    assert [stage for stage in STAGES if before[stage] != after[stage]] == changed


def test_a_template_counts_by_its_content(settings: dict, tmp_path: Path) -> None:
    about = {"model": "m", "rows": "r", "objectives": []}
    prints = []
    for name, text in (("a.yaml", "- one"), ("b.yaml", "- one"), ("b.yaml", "- two")):
        (tmp_path / name).write_text(text)
        settings["refine"]["review_template"] = str(tmp_path / name)
        prints.append(stage_keys(parse_config(settings, "settings"), about)["refine"])
    assert prints[0] == prints[1] != prints[2]


def test_other_data_and_other_models_are_refused(undisturbed: Undisturbed, tmp_path: Path, executed: list[str]) -> None:
    settings, path = undisturbed.copy(tmp_path), tmp_path / "run"
    before = inodes(path)
    rows = Path(settings["data"]["path"]).read_text()
    (tmp_path / "same.jsonl").write_text(rows)
    again({**settings, "data": {**settings["data"], "path": str(tmp_path / "same.jsonl")}})
    (tmp_path / "other.jsonl").write_text(rows.replace("tell me", "tell us", 1))
    with pytest.raises(SipoError, match="holds a run with other rows; choose another folder"):
        again({**settings, "data": {**settings["data"], "path": str(tmp_path / "other.jsonl")}})
    with pytest.raises(SipoError, match="holds a run with other model"):
        again({**settings, "model": {**settings["model"], "dtype": "bfloat16"}})
    with pytest.raises(SipoError, match="holds a run with other objectives"):
        again({**settings, "objectives": settings["objectives"][::-1]})
    assert executed == [] and inodes(path) == before


def test_a_folder_of_something_else_is_left_alone(settings: dict) -> None:
    path = Path(settings["run_dir"])
    path.mkdir()
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(SipoError, match="exists and is not a sipo run"):
        again(settings)
    assert [file.name for file in path.iterdir()] == ["thesis.tex"]


def test_from_a_stage_on_and_only_one(undisturbed: Undisturbed, tmp_path: Path, executed: list[str]) -> None:
    settings, path = undisturbed.copy(tmp_path), tmp_path / "run"
    again(settings, start="realign")
    assert executed == ["realign", *OWN]
    assert_same_outcome(path, undisturbed)
    executed.clear()
    again({**settings, "evaluate": {"bootstrap": 60}}, only="compare")
    assert executed == ["compare"]
    with pytest.raises(SipoError, match="its input `sample` does not hold"):
        again({**settings, "decoding": {"temperature": 0.5}}, only="filter")
    with pytest.raises(SipoError, match="`filtre` is no stage"):
        again(settings, start="filtre")


# The parts


class Crash(BaseException):
    pass


def steps_of(folder: RunFolder, work: list[str]) -> None:
    """The life of a run of one stage, under first one and then another configuration."""
    folder.claim({"rows": "r"}, "seed: 0")
    for fingerprint in ("one", "two", "one"):
        try:
            if folder.holds("stage", fingerprint):
                continue
        except DamageError:  # half removed, where it could not be renamed
            folder.set_aside_damaged("stage")
        if folder.restore("stage", fingerprint):
            continue
        partial = folder.begin("stage", f"plan {fingerprint}")
        if not (partial / "made").exists():
            work.append(fingerprint)
            write_text(partial / "made", fingerprint)
        (partial / ".journal").mkdir(exist_ok=True)
        write_text(partial / ".journal" / "x.jsonl", "1")
        folder.finish("stage", fingerprint, {"seconds": 1})


@pytest.mark.parametrize("across", [False, True])
def test_a_folder_survives_a_crash_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool) -> None:
    """Every call that touches the disk, one after the other, is where the power goes; also where stages cannot be
    renamed: on an overlay that has them from the image of a container, or with `.partial` mounted from another disk.
    """
    left, rename = [0], os.rename

    def refusing(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source), None, str(target))
        rename(source, target)

    if across:
        monkeypatch.setattr(os, "rename", refusing)

    def failing(name: str, owner: Any) -> None:
        original = getattr(owner, name)

        def touched(*values: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return original(*values, **options)

        monkeypatch.setattr(owner, name, touched)

    for name, owner in (
        ("fsync", publishing_module.os), ("replace", publishing_module.os), ("rename", os), ("unlink", os),
        ("mkdir", os), ("rmtree", publishing_module.shutil), ("copy2", publishing_module.shutil),
        ("write_text", folder_module),
    ):  # fmt: skip
        failing(name, owner)
    crashes, attempt, stride = 0, 0, 4 if across else 1  # copying touches the disk far more often
    while crashes * stride == attempt:
        attempt += stride
        folder, work = RunFolder(tmp_path / str(attempt)), []
        left[0] = attempt
        try:
            steps_of(folder, work)
        except Crash:
            crashes += 1
            left[0] = 0
            if folder.stage("stage").exists() and not across:
                record = read_json(folder.stage("stage") / "stage.json")
                assert (folder.stage("stage") / "made").read_text() == record["fingerprint"]
            steps_of(folder, work)
        left[0] = 0
        assert folder.holds("stage", "one")
        assert (folder.stage("stage") / "made").read_text() == "one"
        assert sorted(file.name for file in folder.stage("stage").iterdir()) == ["made", "stage.json"]
        assert len(work) <= 3, "at most the unit in hand is made again"
    assert crashes > 20


def test_units_are_done_once_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    done: list[int] = []

    def compute(unit: int) -> dict[str, Any]:
        done.append(unit)
        return {"unit": unit, "third": unit / 3, "text": "\u2028 \x85 \U0001f600", "pair": (1, 2)}

    def work() -> list[Any]:
        return resumable(Journal(tmp_path, "x", Progress(quiet=True)), range(5), compute)

    first = work()
    assert [each["unit"] for each in first] == done == [0, 1, 2, 3, 4]
    assert first[1]["third"] == 1 / 3 and first[0]["pair"] == [1, 2], "as they are read back"
    journal = tmp_path / ".journal" / "x.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for torn in range(len(lines[3])):
        journal.write_bytes(b"".join(lines[:3]) + lines[3][:torn])
        done.clear()
        assert work() == first
        assert done == [3, 4]
    done.clear()
    assert work() == first and done == []


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_work_of_another_plan_is_not_gone_on_with(
    tmp_path: Path, damage: Damage | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is work whose plan is damaged. Either is said, where there is work to lose."""
    folder = RunFolder(tmp_path)
    partial = folder.begin("sample", "one")
    (partial / "half").write_text("done")
    assert (folder.begin("sample", "one") / "half").exists()
    assert capsys.readouterr().err == ""
    if damage:
        damage(partial / ".plan", random.Random(0))
    assert not (folder.begin("sample", "one" if damage else "two") / "half").exists()
    assert f"{partial}: " in capsys.readouterr().err
    folder.begin("sample", "three")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_is_published_is_as_open_as_its_folder(tmp_path: Path, umask: int) -> None:
    """However a library writes it: safetensors leaves files that only their owner can read."""
    folder, before = RunFolder(tmp_path / "run"), os.umask(umask)
    try:
        (folder.begin("align", "plan") / "deep").mkdir()
        with appearing(tmp_path / "out") as out:
            for place in (folder.path / ".partial" / "align" / "deep", out):
                save_file({"a": torch.zeros(2)}, place / "weights.safetensors")
        folder.finish("align", "one", {})
    finally:
        os.umask(before)
    for file in (folder.stage("align") / "deep", tmp_path / "out"):
        assert (file / "weights.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
