"""Two processes at one place: one works, the other waits or says who does; and folders that cannot be replaced."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small import write_rows

from sipo.cli.main import main
from sipo.disk.appearing import appearing
from sipo.disk.locking import alone
from sipo.disk.publishing import remove, replacing
from sipo.errors import SipoError


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Calls functions in processes of their own, which are forked, so that nothing is imported again."""
    context = multiprocessing.get_context("fork")
    started = []

    def call(work: Callable[..., None], *values: Any) -> Any:
        process = context.Process(target=work, args=values)
        process.start()
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.join()


def hold(to: Path, entered: Any, leave: Any) -> None:
    with alone(to):
        entered.set()
        leave.wait(60)


@pytest.fixture
def events() -> tuple[Any, Any]:
    context = multiprocessing.get_context("fork")
    return context.Event(), context.Event()


@pytest.mark.parametrize("there", [False, True])
def test_who_comes_second_is_told_who_is_first(
    elsewhere: Callable[..., Any], events: tuple[Any, Any], tmp_path: Path, there: bool
) -> None:
    to = tmp_path / "new" / "out"
    if there:
        to.mkdir(parents=True)
    first = elsewhere(hold, to, *events)
    assert events[0].wait(30)
    with pytest.raises(SipoError, match=rf"out: another process \(process {first.pid} on .*; wait for it"), alone(to):
        pass
    os.kill(first.pid, signal.SIGKILL)  # the lock goes with the process, not with its file
    first.join()
    with alone(to), alone(to):
        pass
    assert not any(each.is_file() for each in tmp_path.rglob("*")), "nothing is left in the way"


def test_a_lock_that_is_not_to_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on NFS without its lock daemon."""

    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert main(["data", "prepare", str(write_rows(tmp_path)), "--to", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no locks available" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_who_waits_comes_next(elsewhere: Callable[..., Any], events: tuple[Any, Any], tmp_path: Path) -> None:
    to = tmp_path / "out"

    def write(name: str) -> None:
        with alone(to, wait=True), (tmp_path / "order").open("a") as stream:
            stream.write(name)

    first = elsewhere(hold, to, *events)
    assert events[0].wait(30)
    others = [elsewhere(write, name) for name in "ab"]
    assert not (tmp_path / "order").exists()
    events[1].set()
    for process in (first, *others):
        process.join(30)
        assert process.exitcode == 0
    assert sorted((tmp_path / "order").read_text()) == ["a", "b"]


def commands(tmp_path: Path, model_folder: Path) -> dict[str, list[str]]:
    """Every command that writes into a place of its own."""
    rows, prompts = write_rows(tmp_path), tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"tell me {i}"}) + "\n" for i in range(3)))
    label = ["data", "label", "--prompts", str(prompts), "--model", str(model_folder), "--max-tokens", "4"]
    pairs = ["--data", str(rows), "--model", str(model_folder), "--rank", "2", "--device", "cpu"]
    return {
        "prepare": ["data", "prepare", str(rows), "--to", str(tmp_path / "out")],
        "convert": ["data", "convert", str(rows), "--to", str(tmp_path / "out")],
        "label": [*label, "--objective", "words=sipo.rewards.text:words", "--to", str(tmp_path / "out")],
        "reward": ["reward", "train", *pairs, "--held-out", "0", "--to", str(tmp_path / "out")],
        "init": ["init", str(tmp_path / "out")],
    }


@pytest.mark.parametrize("name", ["prepare", "convert", "label", "reward", "init"])
def test_every_command_that_writes_says_who_works_there(
    elsewhere: Callable[..., Any],
    events: tuple[Any, Any],
    tmp_path: Path,
    model_folder: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = commands(tmp_path, model_folder)[name]
    to = tmp_path / "out"
    if name == "label":
        command[-1], to = f"{command[-1]}.jsonl", to.with_name("out.jsonl")
    before = sorted(tmp_path.iterdir())
    elsewhere(hold, to, *events)
    assert events[0].wait(30)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{to}: another process" in said
    assert sorted(each for each in tmp_path.iterdir() if each.suffix != ".lock") == before


# A place that nothing can be renamed onto


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that behaves as a mount point does: what would replace it is refused."""
    to = tmp_path / "output"
    to.mkdir()
    for name in ("rename", "replace"):
        original = getattr(os, name)

        def refused(source: Any, target: Any, original: Any = original, **options: Any) -> None:
            if Path(target) == to or Path(source) == to:
                raise OSError(16, "Device or resource busy", str(target))
            original(source, target, **options)

        monkeypatch.setattr(os, name, refused)
    return to


def test_an_empty_mount_point_takes_the_members(mounted: Path) -> None:
    (mounted / "lost+found").mkdir()
    with appearing(mounted) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text("1")
        (folder / "b").write_text("2")
        assert [each.name for each in mounted.iterdir() if not each.name.startswith(".")] == ["lost+found"]
    assert sorted(each.name for each in mounted.iterdir()) == ["b", "deep", "lost+found"]
    with pytest.raises(SipoError, match="exists and is not empty"), appearing(mounted):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting is for root")
def test_a_real_mount_point(tmp_path: Path) -> None:
    to = tmp_path / "output"
    to.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(to)], capture_output=True).returncode:
        pytest.skip("no mounting here")
    try:
        assert main(["data", "prepare", str(write_rows(tmp_path)), "--to", str(to)]) == 0
        assert sorted(each.name for each in to.iterdir()) == ["README.md", "rows.jsonl"]
    finally:
        subprocess.run(["umount", str(to)], check=True)


@pytest.mark.parametrize("name", ["prepare", "convert", "reward"])
def test_every_command_that_makes_a_folder_works_there(
    mounted: Path, tmp_path: Path, model_folder: Path, name: str
) -> None:
    command = commands(tmp_path, model_folder)[name]
    assert main([*command[:-1], str(mounted)]) == 0
    assert not any(each.name.startswith(".") for each in mounted.iterdir()) and any(mounted.iterdir())


class Crash(BaseException):
    pass


@pytest.mark.parametrize("moves", range(4))
def test_a_moving_that_broke_off_is_undone(mounted: Path, monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    """At whatever member: the power goes, so nothing clears up until the next try."""
    rename, left = os.rename, [2 + moves]  # two renames are tried before the work

    def crashing(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        rename(source, target)

    def make() -> None:
        with appearing(mounted) as folder:
            for name in "abc":
                (folder / name).write_text(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crashing)
        patch.setattr("sipo.disk.appearing._take_back", lambda scratch, to: None)
        try:
            make()
        except Crash:
            assert moves < 3
    if moves < 3:
        make()
    assert sorted(each.name for each in mounted.iterdir() if each.name != ".tmp") == ["a", "b", "c"]


def test_renaming_is_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError, match="Invalid"), appearing(tmp_path / "out"):
        pytest.fail("the work had begun")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("making", [appearing, replacing])
def test_what_is_wrong_in_the_making_is_told_of_by_the_name_to_be(
    making: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has heard of the scratch file or folder; a relative name is told of as it was given."""
    monkeypatch.chdir(tmp_path)
    for to in (tmp_path / "out", Path("out")):
        with pytest.raises(OSError, match="No such file") as caught, making(to) as scratch:
            (scratch / "not" / "there").touch()
        assert caught.value.filename == str(to) and os.listdir() == []
        with pytest.raises(OSError, match="No such file") as caught, making(to):
            (tmp_path / "other" / "there").touch()
        assert caught.value.filename == str(tmp_path / "other" / "there")


def test_what_cannot_be_removed_is_named_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out" / "deep" / "file"
    file.parent.mkdir(parents=True)
    file.touch()

    def refused(name: Any, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", os.path.basename(name))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        with pytest.raises(PermissionError) as caught:
            remove(tmp_path / "out")
    assert caught.value.filename == str(file)


# Links


def test_nothing_is_removed_through_a_link(pristine_links: Path, settings: dict) -> None:
    """Of `.partial` and `.superseded` that lead elsewhere, and of links in the work in progress."""
    from sipo.disk.run import RunFolder

    outside = pristine_links / "outside"
    (outside / "report").mkdir(parents=True)
    (outside / "report" / "mine").write_text("mine")
    folder = RunFolder(pristine_links / "run")
    for name in (".partial", ".superseded"):
        folder.path.mkdir(exist_ok=True)
        (folder.path / name).symlink_to(outside)
        with pytest.raises(SipoError, match=rf"{name}: is a symbolic link"), folder.locked():
            folder.begin("report", "other")
        (folder.path / name).unlink()
    work = folder.begin("report", "plan")
    (work / ".journal").symlink_to(outside / "report")
    for plan in ("plan", "other"):
        with pytest.raises(SipoError, match="is a symbolic link"):
            folder.begin("report", plan)
    assert (outside / "report" / "mine").read_text() == "mine"


@pytest.fixture
def pristine_links(tmp_path: Path) -> Path:
    return tmp_path


def test_a_stage_that_was_moved_to_another_disk_and_linked(tmp_path: Path) -> None:
    """It is read, and set aside as a link that still leads there; the new one is an ordinary folder."""
    from sipo.disk.run import RunFolder

    folder, disk = RunFolder(tmp_path / "run"), tmp_path / "disk"
    disk.mkdir()
    (folder.begin("align", "plan") / "made").write_text("one")
    folder.finish("align", "one", {})
    shutil.move(folder.stage("align"), disk / "align")
    folder.stage("align").symlink_to(Path("..") / "disk" / "align")
    assert folder.holds("align", "one", every_byte=True)
    (folder.begin("align", "plan two") / "made").write_text("two")
    folder.finish("align", "two", {})
    assert not folder.stage("align").is_symlink() and (folder.stage("align") / "made").read_text() == "two"
    assert folder.restore("align", "one") and (folder.stage("align") / "made").read_text() == "one"
    folder.set_aside("align")
    (folder.begin("align", "plan") / "made").write_text("anew")
    folder.finish("align", "one", {})
    assert (disk / "align" / "made").read_text() == "one", "of a link, only the link goes"
    shutil.rmtree(folder.stage("align"))
    folder.stage("align").symlink_to("nowhere")
    with pytest.raises(SipoError, match="is a symbolic link to what is not there"):
        folder.begin("align", "plan")


# Signals

STARTS = """
import os, signal, sys, threading, time
def later():
    while sys.argv[1] not in sys.modules:
        time.sleep(0.0001)
    os.kill(os.getpid(), int(sys.argv[2]))
threading.Thread(target=later, daemon=True).start()
from sipo.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_all_is_imported(number: int) -> None:
    for module in ("typer", "sipo.config"):
        command = [sys.executable, "-c", STARTS, module, str(int(number)), "doctor"]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (128 + number, "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_in_the_work(
    number: int, swallowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scratch is removed, and one line says whether the command goes on; also where a library makes another error of it."""

    def work(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), number)
            pytest.fail("it went on")
        except KeyboardInterrupt:
            if swallowed:
                raise RuntimeError("interrupted") from None
            raise

    monkeypatch.setattr("sipo.data.prepare.write_records", work)
    handler = signal.getsignal(number)
    assert main(commands(tmp_path, tmp_path)["prepare"]) == 128 + number
    assert capsys.readouterr().err == "stopped\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["prompts.jsonl", "rows.jsonl"]
    monkeypatch.setattr("sipo.rewards.examples.read_examples", work)
    assert main(commands(tmp_path, tmp_path)["reward"]) == 128 + number
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    assert signal.getsignal(number) == handler


def test_a_file_that_ends_early_is_not_taken_for_a_wish_to_stop(
    monkeypatch: pytest.MonkeyPatch, rows_file: Path
) -> None:
    def work(*_: Any) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr("sipo.cli.inspect.inspect_file", work)
    with pytest.raises(EOFError):
        main(["data", "inspect", str(rows_file)])
