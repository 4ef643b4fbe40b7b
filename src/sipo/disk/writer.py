"""One writer at a time of a run in an object store, and what it makes there: whole stages, and work in progress.

A writer takes the run by writing its token into the manifest, and renews that; dead, it is followed when the lease is
over. Every so many seconds, and after each stage, what is new becomes objects, and then the manifest names them. Who
lost the run cannot write the manifest any more, and stops.
"""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import NamedTuple
from uuid import uuid4

from sipo.disk.content import sha256_of
from sipo.disk.copies import KNOWN, OURS, Copy, copy_of
from sipo.disk.damage import STAGE, note
from sipo.disk.locking import alone
from sipo.disk.manifest import LEASE, NAME, File, Manifest, as_bytes, read_manifest, write_manifest
from sipo.disk.publishing import moving, remove
from sipo.errors import SipoError

OPENED = {"report/report.html": "text/html; charset=utf-8", "compare/fronts.json": "application/json"}
"""What people open by its own name in the store, and its media type; sipo reads neither there."""
OBJECTS = "files"
LOOKS = 1.0
"""Seconds between two looks whether a run is free."""
LAST = 10.0
"""Seconds for which a store out of reach is tried again where the work has ended by itself."""


class HeldError(SipoError):
    """Another process holds the run."""


@contextmanager
def working(run: Path, every: float, *, work: str = "this run", wait: bool = False) -> "Iterator[Writer | None]":
    """Hold the run that lies in a store, and publish in it every so many seconds; nothing for an ordinary folder.

    Where another process holds it: wait, or raise SipoError, which names the `work`.
    """
    copy = copy_of(run)
    if copy is None:
        yield None
        return
    run.mkdir(parents=True, exist_ok=True)
    with alone(run, wait=wait, work=work):
        writer = _awaited(copy, work) if wait else Writer(copy, work)
        with _left_whole(writer), writer.renewing(max(every, 1.0)):
            yield writer
            writer.publish()


def _awaited(copy: Copy, work: str) -> "Writer":
    told = False
    while True:
        try:
            return Writer(copy, work)
        except HeldError:
            if not told:
                note(f"{copy.objects.name}: another process is working on {work}; waiting for it")
            told = True
        time.sleep(LOOKS)


@contextmanager
def _left_whole(writer: "Writer") -> Iterator[None]:
    """However the block ends, what is made so far is published, and the run is free again."""
    try:
        yield
    except BaseException as error:
        writer.objects.patience = LAST
        if writer.failed is None:
            with suppress(SipoError, OSError):
                writer.publish()
        if isinstance(error, KeyboardInterrupt) or writer.failed is None:
            raise
        raise writer.failed from None
    finally:
        if writer.failed is None:
            with suppress(SipoError):
                writer.release()


class Found(NamedTuple):
    """A file to be published, as it lies still."""

    path: Path
    about: tuple[int, ...] = ()
    """Of work in progress, what changes when it does."""
    known: File | None = None
    """Its object, where it has not changed since that was made."""


class Writer:
    """This process as the writer of a run."""

    def __init__(self, copy: Copy, work: str = "this run") -> None:
        """Take the run. Raises HeldError where another process holds it."""
        self.copy, self.objects, self.token = copy, copy.objects, uuid4().hex[:12]
        self.failed: SipoError | None = None
        """Why this is no writer any more."""
        self.removed = False
        self._writing, self._publishing = Lock(), Lock()
        self._seen: dict[str, tuple[tuple[int, ...], File]] = {}
        """Files of work in progress as they were sent last."""
        self._opened: dict[str, str] = {}
        before = read_manifest(self.objects)
        as_new = before is not None and before.last in copy.tokens()  # and no process of this machine is at it
        if before and before.held and not as_new:
            raise HeldError(
                f"{self.objects.name}: another process ({before.holder}) is working on {work}; wait for it, then "
                f"give the same command again. Where it is dead, its lease ends in {before.lease - before.age:.0f} s"
            )
        if before and before.holder and not as_new:
            silent = f"nothing was heard of {before.holder} for {before.age:.0f} s"
            note(f"{self.objects.name}: {silent}; its work goes on here")
        copy.keep(*([before.last, self.token] if before and as_new else []))
        holder = f"process {os.getpid()} on {platform.node()}"
        files = before.files if before else {}
        mine = write_manifest(self.objects, Manifest(files, self.token, holder, LEASE, before.tag if before else ""))
        if mine is None:
            raise HeldError(
                f"{self.objects.name}: another process has begun to work on {work} at the same time; wait for it, then "
                "give the same command again"
            )
        copy.manifest = mine
        self.objects.check_conditions(NAME, as_bytes(self.manifest))
        if not as_new:
            copy.become(files, reading=False)
        copy.keep(self.token)
        self._sweep()

    @property
    def manifest(self) -> Manifest:
        assert self.copy.manifest is not None
        return self.copy.manifest

    def go_on(self) -> None:
        """Raise SipoError where this is no writer any more."""
        if self.failed:
            raise self.failed

    @contextmanager
    def renewing(self, every: float) -> Iterator[None]:
        """Renew the lease, and publish every so many seconds, while the block works."""
        over = Event()

        def again(work: Callable[[], None], seconds: float) -> None:
            while not over.wait(seconds) and not self.failed:
                with suppress(
                    SipoError, OSError
                ):  # the work hears of it where it looks next; what was moved is sent next
                    work()

        threads = [
            Thread(target=again, args=each, daemon=True) for each in ((self.renew, LEASE / 4), (self.publish, every))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def renew(self) -> None:
        with self._writing:
            self._write(self.manifest)

    def release(self) -> None:
        with self._writing:
            self._write(replace(self.manifest, holder=None))

    def publish(self) -> None:
        """Have the store hold what the copy holds. Raises SipoError where this is no writer any more."""
        with self._publishing:
            self.go_on()
            if self.removed:
                return
            before = self.manifest.files
            found, scratch = self._found()
            try:
                files = self._sent(found)
            finally:
                remove(scratch)
            if files != before:
                with self._writing:
                    self._write(replace(self.manifest, files=files))
                kept = {file["object"] for file in files.values()}
                self._delete({file["object"] for file in before.values()} - kept)
            self._open(files)

    def remove(self) -> None:
        """Take all of it away, here and in the store, where it is then as if it had never been."""
        for each in self.copy.path.iterdir():
            if not each.name.endswith(OURS):
                remove(each)
        self.publish()  # before objects go, nothing names them
        with self._writing:
            self.objects.delete([NAME])
            self.removed = True
        remove(self.copy.path / KNOWN)

    def _found(self) -> tuple[dict[str, Found], Path]:
        """The copy's files by name, at one moment; of what may change, copies in a scratch folder."""
        scratch = self.copy.path.with_name(f".{self.copy.path.name}.tmp")
        remove(scratch)
        scratch.mkdir()
        found: dict[str, Found] = {}
        with moving:
            here = {file.relative_to(self.copy.path).as_posix(): file for file in self.copy.local()}
            stages = tuple(name.removesuffix(STAGE) for name in here if name.endswith(f"/{STAGE}"))
            for number, (name, file) in enumerate(sorted(here.items())):  # a journal comes before what it is of
                with suppress(FileNotFoundError):  # it was taken away meanwhile
                    about = _about(file)
                    if name.startswith(stages):
                        found[name] = Found(file)
                    elif self._seen.get(name, (None,))[0] == about:
                        found[name] = Found(file, about, self._seen[name][1])
                    else:
                        found[name] = Found(Path(shutil.copyfile(file, scratch / str(number))), about)
        return found, scratch

    def _sent(self, found: Mapping[str, Found]) -> dict[str, File]:
        """Every file with its object, which is made where there is none of this content."""
        before = self.manifest.files
        there = {(file["size"], file["sha256"]): file["object"] for file in before.values()}
        files, lacking = dict[str, File](), dict[str, Path]()
        for name, each in found.items():
            if each.known:
                files[name] = each.known
                continue
            content = (each.path.stat().st_size, sha256_of(each.path))
            if content not in there:
                there[content] = f"{OBJECTS}/{content[1][:16]}-{self.token}"
                lacking[there[content]] = each.path
            files[name] = {"size": content[0], "sha256": content[1], "object": there[content]}
        self.objects.upload([(path, key) for key, path in lacking.items()])
        self._seen = {name: (each.about, files[name]) for name, each in found.items() if each.about}
        same = tuple(
            name.removesuffix(STAGE) for name in files if name.endswith(f"/{STAGE}") and files[name] == before.get(name)
        )
        # Large files of a stage that was not read are in the store alone.
        return {**{name: file for name, file in before.items() if name.startswith(same)}, **files}

    def _open(self, files: Mapping[str, File]) -> None:
        """Put what people open under its own name, too."""
        for name, kind in OPENED.items():
            here = self.copy.path / name
            if name in files and here.exists() and self._opened.get(name) != files[name]["sha256"]:
                self.objects.put(name, here.read_bytes(), kind)
                self._opened[name] = files[name]["sha256"]
            elif name in self._opened and name not in files:
                self._delete([name])
                del self._opened[name]

    def _write(self, manifest: Manifest) -> None:
        self.go_on()
        if self.removed:
            return
        try:
            written = write_manifest(self.objects, manifest)
        except SipoError as error:
            self.failed = error
            raise
        if written is None:
            self.failed = SipoError(
                f"{self.objects.name}: another process has taken this run over; nothing more is written by this one. "
                f"Where that ends, the same command goes on"
            )
            raise self.failed
        self.copy.manifest = written

    def _sweep(self) -> None:
        """Remove objects that a writer left before it could name them."""
        known = {file["object"] for file in self.manifest.files.values()}
        self._delete(name for name in self.objects.names(OBJECTS) if name not in known)

    def _delete(self, names: Iterable[str]) -> None:
        with suppress(SipoError):  # what stays costs room alone, and goes with the next writer
            self.objects.delete(list(names))


def _about(file: Path) -> tuple[int, ...]:
    about = file.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
