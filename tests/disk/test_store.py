"""A run in an object store: whole or absent whatever is killed, one writer at a time, and errors in a line."""

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import BUCKET, WRITES, die_at

from sipo.cli.disk import describe
from sipo.disk import manifest as manifest_module
from sipo.disk import objects as objects_module
from sipo.disk import writer as writer_module
from sipo.disk.copies import Copy, _copy, copy_of, refreshed
from sipo.disk.manifest import Manifest, read_manifest, write_manifest
from sipo.disk.objects import Objects
from sipo.disk.parts import Part, gather, parts_in
from sipo.disk.run import RunFolder
from sipo.disk.writer import Writer, working
from sipo.errors import SipoError
from sipo.places import copies, path_of, shown, told

LARGE = 1 << 17
NAMES = st.text("abcXYZ019 -_.%", min_size=1, max_size=8).filter(lambda name: name.strip(".") != "")


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(NAMES, min_size=1, max_size=4))
def test_the_name_in_the_store_and_the_path_of_the_copy_tell_each_other(one: list[str], other: list[str]) -> None:
    paths = {tuple(names): path_of(f"s3://bucket/{'/'.join(names)}") for names in (one, other)}
    for names, path in paths.items():
        assert shown(path) == f"s3://bucket/{'/'.join(names)}" and path.name == names[-1]
        assert path_of(Path(f"s3://bucket/{'/'.join(names)}/")) == path == path_of(path)
        assert not any(path in each.parents for each in paths.values()), "no copy lies within another"
        assert path_of(f"s3://bucket/{'/'.join(names)}/config.yaml", below=1) == path / "config.yaml"


def test_what_people_read_names_the_store() -> None:
    copy = path_of("s3://bucket/a/run")
    assert told(f"{copy}: damaged; see {copy}/align") == "s3://bucket/a/run: damaged; see s3://bucket/a/run/align"
    assert str(SipoError(f"{copy}: no")) == "s3://bucket/a/run: no"
    assert path_of("runs/run") == Path("runs/run") and path_of("C:/run") == Path("C:/run")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """From here on it is another machine that works, with its own working copies."""
    return lambda machine: monkeypatch.setenv("SIPO_CACHE", str(tmp_path / machine))


@pytest.fixture
def name(s3: Any, on: Callable[[str], None]) -> str:
    on("one")
    return f"s3://{BUCKET}/{uuid4().hex}/run"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of a second; a store out of reach is given up after one, too."""
    monkeypatch.setattr(writer_module, "LEASE", 1.0)
    monkeypatch.setattr(writer_module, "LAST", 0.5)
    monkeypatch.setattr(objects_module, "PATIENCE", 1.0)


def make(run: Path, stage: str, text: str = "done", large: int = LARGE) -> None:
    """A stage with a small and a large file."""
    folder = RunFolder(run)
    partial = folder.begin(stage, text)
    (partial / "small.txt").write_text(text)
    (partial / "large.bin").write_bytes(text[:1].encode() * large)
    folder.finish(stage, text, {})


def begin(run: Path) -> None:
    RunFolder(run).claim({"model": "m"}, "seed: 1\n")


def content(run: Path) -> dict[str, bytes]:
    """What a reader has of a run, all of its stages fetched."""
    refreshed(run)
    for stage in run.glob("*/stage.json"):
        RunFolder(run).verify(stage.parent.name)
    hidden = (".lock", ".copy.json")
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in run.rglob("*")
        if file.is_file() and file.name not in hidden
    }


def test_another_machine_finds_what_one_made(name: str, on: Callable[[str], None], s3: Any) -> None:
    one = path_of(name)
    with working(one, 60) as writer:
        assert writer
        begin(one)
        make(one, "align")
        make(one, "report/inner")
        partial = RunFolder(one).begin("sample", "a plan")
        (partial / "work.jsonl").write_text("a unit\n")
        writer.publish()
    made = content(one)
    on("two")
    two = path_of(name)
    refreshed(two)
    assert (two / "align" / "small.txt").exists() and not (two / "align" / "large.bin").exists(), (
        "large ones are not fetched before they are read"
    )
    assert RunFolder(two).holds("align", "done", every_byte=True), "the store vouches for them"
    assert not (two / ".partial" / "sample" / "work.jsonl").exists(), "readers need no work in progress"
    RunFolder(two).verify("align")
    assert (two / "align" / "large.bin").read_bytes() == (one / "align" / "large.bin").read_bytes()
    on("three")
    three = path_of(name)
    with working(three, 60) as writer:
        assert writer
        assert (three / ".partial" / "sample" / "work.jsonl").read_text() == "a unit\n"
        RunFolder(three).set_aside("align")  # what was never fetched goes along
        make(three, "align", "again")
    on("one")  # whose copy is old by now
    refreshed(one)
    assert (one / "align" / "small.txt").read_text() == "again" and RunFolder(one).holds("align", "again")
    assert (one / ".superseded" / "align-done" / "small.txt").read_text() == "done"
    kept = RunFolder(one).kept("align", "done")
    assert kept and (kept / "large.bin").read_bytes() == made["align/large.bin"]
    there = {each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET, Prefix=shown(one).split("/", 3)[3])["Contents"]}
    known = read_manifest(Objects(one))
    assert known and len(there) == 1 + len({file["object"] for file in known.files.values()}), "no object is left over"


@pytest.mark.parametrize("folder", ["a*", "[ab]", 'l\u00e4uf \u65e5\u672c a?b=c&d+e #%41 it\'s "q"'])
def test_a_name_is_a_name_whatever_is_in_it(folder: str, s3: Any, on: Callable[[str], None]) -> None:
    """Of a run and its neighbours: the one goes with its objects, the others stay."""
    top = f"s3://{BUCKET}/{uuid4().hex}"
    names = [f"{top}/{each}/run {each}" for each in ("ab", "a", folder)]
    on("one")
    for name in names:
        with working(path_of(name), 60):
            begin(path_of(name))
            make(path_of(name), "align")
            make_part(path_of(name))
    on("two")
    run = path_of(names[-1])
    with working(run, 60) as writer:
        assert writer
        make(run, "align", "new")
        take_over(run, writer.publish)
    known = read_manifest(Objects(run))
    assert known and shown(run) == names[-1]
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET, Prefix=top.split("/", 3)[3])["Contents"]]
    mine = [key for key in keys if f"s3://{BUCKET}/{key}".startswith(f"{names[-1]}/")]
    assert len(mine) == 1 + len({file["object"] for file in known.files.values()})
    on("three")
    for name, text in zip(names, ("done", "done", "new"), strict=True):
        run = path_of(name)
        assert content(run)["align/small.txt"] == text.encode()
        assert [each.state() for each in parts_in(RunFolder(run))] == ["begun"] * (text == "done")


def test_a_stage_that_was_not_read_stays_whole_in_the_store(name: str, on: Callable[[str], None]) -> None:
    one = path_of(name)
    with working(one, 60):
        begin(one)
        make(one, "align")
    made = content(one)
    on("two")
    two = path_of(name)
    with working(two, 60):
        make(two, "sample")
        assert not (two / "align" / "large.bin").exists()
    on("three")
    found = content(path_of(name))
    assert {path: text for path, text in found.items() if path.startswith("align")} == {
        path: text for path, text in made.items() if path.startswith("align")
    }
    assert "sample/large.bin" in found


def test_who_comes_second_is_told_who_is_first(name: str, on: Callable[[str], None]) -> None:
    one = path_of(name)
    with working(one, 60) as writer:
        assert writer
        begin(one)
        writer.publish()
        on("two")
        with (
            pytest.raises(
                SipoError,
                match=rf"{name}: another process \(process {os.getpid()} on .*\) is working on this run; wait",
            ),
            working(path_of(name), 60),
        ):
            pass
        copy = copy_of(path_of(name))
        assert copy and copy.held()
        refreshed(path_of(name))  # to read is free
    assert not copy.held()
    with working(path_of(name), 60):
        pass


def in_a_process(work: Callable[[], None]) -> int:
    """How a fork of this process ended: 0, or -9 where it was killed."""

    def child() -> None:
        _copy.cache_clear()
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


def abandoned(run: Path) -> None:
    """A process that dies while it holds the run, and has published a stage."""

    def work() -> None:
        with working(run, 60) as writer:
            assert writer
            begin(run)
            make(run, "align")
            writer.publish()
            make(run, "sample")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_process(work) == -signal.SIGKILL


def test_a_dead_writer_is_followed_when_its_lease_is_over(
    name: str, on: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    abandoned(path_of(name))
    on("two")
    two = path_of(name)

    def refused() -> None:
        time.time = lambda: 4e9  # a clock that jumped: only the store's counts
        with pytest.raises(SipoError, match=r"its lease ends in \d+ s"), working(two, 60):
            pass

    in_a_process(refused)
    known = read_manifest(Objects(two))
    assert known and known.held and write_manifest(Objects(two), replace(known, lease=1.0))
    time.sleep(2.1)  # the store tells time in seconds
    with working(two, 60):
        assert "nothing was heard of process" in capfd.readouterr().err
        assert (two / "align" / "small.txt").exists() and not (two / "sample").exists(), (
            "what was not published is absent"
        )


def test_the_same_machine_goes_on_at_once_with_all_that_it_made(name: str) -> None:
    run = path_of(name)
    abandoned(run)
    with working(run, 60):
        assert (run / "align").exists() and (run / "sample").exists()
    known = read_manifest(Objects(run))
    assert known and "sample/large.bin" in known.files and known.holder is None


@pytest.mark.usefixtures("hasty")
def test_who_lost_the_run_publishes_nothing_more_and_stops(name: str, on: Callable[[str], None]) -> None:
    """A process that slept: on waking it believes that the run is its own."""
    one = path_of(name)
    with pytest.raises(SipoError, match="another process has taken this run over"), working(one, 60) as sleeper:
        assert sleeper
        begin(one)
        sleeper.publish()
        with sleeper._writing:  # renews nothing meanwhile
            time.sleep(2.1)
            on("two")
            with working(path_of(name), 60):
                make(path_of(name), "align", "two")
        on("one")
        make(one, "align", "one")
        sleeper.publish()
    with pytest.raises(SipoError, match="taken this run over"):
        sleeper.go_on()
    on("three")
    assert content(path_of(name))["align/small.txt"] == b"two"


def killed_at(run: Path, touch: int, work: Callable[[Writer], None]) -> bool:
    """Does SIGKILL come, at that writing request to the store?"""

    def child() -> None:
        die_at(touch, WRITES)
        with working(run, 60) as writer:
            assert writer
            work(writer)

    return in_a_process(child) != 0


def test_killed_at_any_request_of_a_publication_a_stage_is_whole_or_absent(
    name: str, on: Callable[[str], None]
) -> None:
    one = path_of(name)
    with working(one, 60):
        begin(one)
        make(one, "align", "old")

    def again(_: Writer) -> None:
        RunFolder(one).set_aside("align")
        make(one, "align", "new")

    seen = set()
    for touch in range(1, 30):
        killed = killed_at(one, touch, again)
        on(f"reader-{touch}")
        found = content(path_of(name))  # compares every byte with the record
        seen.add(text := found["align/small.txt"].decode())
        assert found["align/large.bin"] == text[:1].encode() * LARGE
        on("one")
        if not killed:
            break
        with working(one, 60):  # this machine has all; it begins anew for the next kill
            RunFolder(one).set_aside("align")
            make(one, "align", "old")
    assert not killed and seen == {"old", "new"}


LINE = b'check 1 {"result": 1, "wrote": {}}\n'


def make_part(run: Path) -> Part:
    """One whose unit is finished, with a folder, and numbers of its training."""
    part = Part(RunFolder(run), "round-2/align", "b")
    with part.held() as writer:
        assert writer and part.state() == "working"
        folder = part.folder.begin(part.name, "plan")
        (folder / ".journal").mkdir()
        (folder / ".journal" / "policies.jsonl").write_bytes(LINE)
        (folder / "metrics.jsonl").write_text('{"loss": 1}\n')
        (folder / "adapters" / "b").mkdir(parents=True)
        (folder / "adapters" / "b" / "weights").write_bytes(b"w" * LARGE)
    return part


def take_over(run: Path, publish: Callable[[], None]) -> None:
    into = RunFolder(run).begin("round-2/align", "plan")
    gather(RunFolder(run), "round-2/align", into, "plan", publish)


def test_parts_are_held_each_by_itself_beside_the_run(name: str, on: Callable[[str], None]) -> None:
    one = path_of(name)
    with working(one, 60) as writer:
        assert writer
        begin(one)
        part = make_part(one)
    on("two")
    two = path_of(name)
    refreshed(two)
    (found,) = parts_in(RunFolder(two))
    assert (found.stage, found.unit, found.state()) == ("round-2/align", "b", "begun")
    assert found.state("plan") == "begun" and found.state("another") == "stale", "its line is not as journals write it"
    on("one")
    with part.held():
        on("two")
        said = rf"{name}/parts/round-2/align@b: another process .* is working on `b` of round-2/align; wait"
        with pytest.raises(SipoError, match=said), found.held():
            pass
        with Part(RunFolder(two), "round-2/align", "a").held(), working(two, 60):
            pass  # neither waits for it


def test_who_waits_for_the_run_gets_it(name: str, on: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    with working(path_of(name), 60) as writer:
        assert writer
        threading.Timer(0.5, writer.release).start()
        writer.renew = lambda: None  # type: ignore[method-assign]
        on("two")
        with working(path_of(name), 60, wait=True) as mine:
            assert mine and mine.manifest.last == mine.token
        writer.removed = True
    assert capfd.readouterr().err.count(f"{name}: another process is working on this run; waiting for it") == 1


def freed(objects: Objects) -> None:
    """The lease of a process that was killed is over."""
    known = read_manifest(objects)
    if known and known.holder:
        assert write_manifest(objects, replace(known, lease=-1.0))


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_request_while_a_part_is_taken_over_it_is_whole_in_one_place(
    step: int, name: str, on: Callable[[str], None], s3: Any
) -> None:
    """The machine is lost each time, with all that it had."""
    one = path_of(name)
    with working(one, 60):
        begin(one)
    part, killed, touch = make_part(one), True, 0
    places = [Objects(one), Objects(part.folder.path)]
    while killed:
        touch += step
        on(f"machine-{touch}")
        run = path_of(name)
        killed = killed_at(run, touch, lambda writer: take_over(run, writer.publish))  # noqa: B023
        for place in places:
            freed(place)
        on(f"reader-{touch}")
        run = path_of(name)
        with working(run, 60):
            work = run / ".partial" / "round-2" / "align"
            taken = (work / "adapters" / "b" / "weights").exists()
            left = [each.state() for each in parts_in(RunFolder(run))]
            assert taken or left == ["begun"], f"lost at request {touch}"
            if taken:
                assert (work / ".journal" / "policies.jsonl").read_bytes() == LINE
                assert (work / "adapters" / "b" / "weights").read_bytes() == b"w" * LARGE
                assert (run / "metrics.jsonl").read_text() == '{"loss": 1}\n'
    assert taken and not left and touch > 8
    keys = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{shown(one).split('/', 3)[3]}/parts")
    assert not keys.get("Contents"), "nothing is left of it"


def test_a_lost_answer_is_no_lost_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store did write, and the line broke before it said so."""
    run = path_of(name)
    put, broken = Objects._put, []

    def breaking(self: Objects, key: str, *values: Any, **options: Any) -> Any:
        answer = put(self, key, *values, **options)
        if key == manifest_module.NAME and len(broken) < 3:
            broken.append(key)
            raise ConnectionError
        return answer

    monkeypatch.setattr(Objects, "_put", breaking)
    with working(run, 60) as writer:
        assert writer
        begin(run)
        make(run, "align")
        writer.publish()
        writer.renew()
    assert len(broken) == 3


def test_a_store_that_ignores_conditions_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Objects._put
    monkeypatch.setattr(
        Objects,
        "_put",
        lambda self, key, body, IfMatch="", IfNoneMatch="", **rest: put(self, key, body, **rest),
    )
    with pytest.raises(SipoError, match="cannot keep two writers apart"), working(path_of(name), 60):
        pass


@pytest.mark.usefixtures("hasty")
def test_a_store_that_goes_away_is_one_line_and_the_same_command_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, store_address: str
) -> None:
    run = path_of(name)
    put = Objects._put

    def gone(*values: Any, **options: Any) -> Any:
        raise ConnectionRefusedError

    with (
        pytest.raises(
            SipoError, match=rf"{name}: could not be reached for 1 s \(ConnectionRefusedError\); once it can"
        ),
        working(run, 60) as writer,
    ):
        assert writer
        begin(run)
        make(run, "align")
        monkeypatch.setattr(Objects, "_put", gone)
        began = time.monotonic()
        while time.monotonic() < began + 20:
            time.sleep(0.05)
            writer.go_on()  # the work hears of it without publishing
    monkeypatch.setattr(Objects, "_put", put)
    with working(run, 60):
        assert (run / "align" / "large.bin").exists()


@pytest.fixture
def new_client() -> Iterator[None]:
    """s3fs keeps its clients, with what they found in the environment."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("new_client")
def test_nothing_listens_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "PATIENCE", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SipoError, match=r"could not be reached for 0 s \(EndpointConnectionError\)"):
        refreshed(path_of(name))


@pytest.mark.usefixtures("new_client")
@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [("AWS_ENDPOINT_URL", "127.0.0.1:9", "ValueError"), ("AWS_PROFILE", "none-such", "ProfileNotFound")],
)
def test_what_the_store_never_heard_of_it_did_not_refuse(
    name: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SipoError, match=rf"cannot be asked \({code}\); look at .*{variable}"):
        refreshed(path_of(name))


def test_a_wait_for_the_store_is_said_once_each_time(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objects_module, "TELLING", 0.0)
    objects, left = Objects(path_of(name)), [3, 0, 2, 0]

    def asked() -> None:
        left[0] -= 1
        if left[0] > 0:
            raise ConnectionRefusedError
        left.pop(0)

    for _ in (objects._tried(asked), objects._tried(asked), objects._tried(asked)):
        pass
    assert capsys.readouterr().err.count("cannot be reached (ConnectionRefusedError); tried again for 120 s\n") == 2


def test_a_full_disk_of_the_working_copy_is_not_the_stores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = path_of(name)
    full = OSError(errno.ENOSPC, "No space left on device", str(run / "align"))

    def fails(*_: Any) -> Any:
        raise full

    objects = Objects(run)
    monkeypatch.setattr(objects.files, "get", fails)
    with pytest.raises(OSError, match="No space left") as problem:
        objects.download([("files/x", run / "align")])
    said = told(describe(problem.value))
    assert said.startswith(f"the disk is full: {name}/align (its working copy in {copies()}, which SIPO_CACHE moves)")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://no-such-bucket-of-anybody/run", "there is no such bucket; make it, or name another"),
        (f"s3://{BUCKET}", "name a run as s3://BUCKET/FOLDER"),
        ("s3://", "name a run as s3://BUCKET/FOLDER"),
        ("s3:", "name a run as s3://BUCKET/FOLDER"),  # what a path keeps of it
        ("s3://id:secret@bucket/run", "without keys"),
        (f"s3://{BUCKET}/../run", "without keys or `..`"),
        ("gs://bucket/run", "gs://bucket/run: a run lies in a folder, or in a store that is named s3://BUCKET/FOLDER"),
    ],
)
def test_places_that_are_none(name: str, place: str, told: str) -> None:
    for work in (lambda: refreshed(path_of(place)), lambda: working(path_of(place), 60).__enter__()):
        with pytest.raises(SipoError) as problem:
            work()
        assert told in str(problem.value) and "secret" not in str(problem.value)


@pytest.mark.usefixtures("new_client")
def test_no_credentials_and_no_rights(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SipoError, match="no credentials were found; give them as for the aws command"):
        refreshed(path_of(name))

    def denied(self: Objects, *_: Any, **__: Any) -> Any:
        error = PermissionError("Access Denied for AKIA-an-id")
        error.__cause__ = _refusal("AccessDenied")
        raise error

    monkeypatch.setattr(Objects, "_put", denied)
    monkeypatch.setattr(objects_module.Objects, "read", lambda *_: None)
    with (
        pytest.raises(SipoError, match=r"the store refuses it \(AccessDenied\)") as problem,
        working(path_of(name), 60),
    ):
        pass
    assert "an-id" not in str(problem.value)


def _refusal(code: str) -> Exception:
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")


@pytest.mark.parametrize("damage", ["cut", "flipped", "outside"])
def test_a_manifest_that_is_not_ours(name: str, damage: str, s3: Any, tmp_path: Path) -> None:
    run = path_of(name)
    with working(run, 60):
        begin(run)
    key = {"Bucket": BUCKET, "Key": f"{shown(run).split('/', 3)[3]}/manifest.json"}
    text = s3.get_object(**key)["Body"].read()
    if damage == "outside":
        objects, known = Objects(run), read_manifest(Objects(run))
        assert known
        file = next(iter(known.files.values()))
        written = write_manifest(objects, Manifest({"../../escaped": file}, "x", None, tag=known.tag))
        assert written
    else:
        s3.put_object(**key, Body=text[:-9] if damage == "cut" else text.replace(b'"size": ', b'"size": 1', 1))
    for work in (lambda: refreshed(run), lambda: working(run, 60).__enter__()):
        with pytest.raises(SipoError, match="manifest.json: is not what sipo wrote"):
            work()
    assert not list(tmp_path.rglob("escaped"))


def test_an_object_that_is_damaged_or_gone_is_named(name: str, on: Callable[[str], None], s3: Any) -> None:
    one = path_of(name)
    with working(one, 60):
        begin(one)
        make(one, "align")
    known = read_manifest(Objects(one))
    assert known
    key = {"Bucket": BUCKET, "Key": f"{shown(one).split('/', 3)[3]}/{known.files['align/large.bin']['object']}"}
    on("two")
    refreshed(path_of(name))
    s3.put_object(**key, Body=b"x" * LARGE)
    with pytest.raises(SipoError, match=r"align/large.bin: files/.* in the store is not as it was written"):
        RunFolder(path_of(name)).verify("align")
    s3.delete_object(**key)
    with pytest.raises(SipoError, match="an object that belongs to the run is gone"):
        RunFolder(path_of(name)).verify("align")


def test_a_stage_that_is_made_anew_while_it_is_read(name: str, on: Callable[[str], None]) -> None:
    one = path_of(name)
    with working(one, 60):
        begin(one)
        make(one, "align", "old")
    on("two")
    refreshed(path_of(name))
    on("one")
    with working(one, 60):
        RunFolder(one).set_aside_damaged("align")
        (one / ".superseded").exists()
        for each in (one / ".superseded").rglob("*.bin"):
            each.unlink()
        for each in (one / ".superseded").rglob("stage.json"):
            each.unlink()
        make(one, "align", "new")
    on("two")
    with pytest.raises(SipoError, match="was made anew meanwhile; give the same command again"):
        RunFolder(path_of(name)).verify("align")


@pytest.fixture(autouse=True)
def no_copies_are_known() -> Iterator[None]:
    """As in a new process."""
    yield
    _copy.cache_clear()


def test_no_network_at_import() -> None:
    import subprocess
    import sys

    code = "import sipo, sys, sipo.cli.app, sipo.disk.writer; print([name for name in ('s3fs', 'botocore', 'aiohttp', 'fsspec') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.replace("'", '"')) == []
    assert isinstance(Copy, type)
