"""A run on disk: one folder a stage, each whole or absent, each knowing what it was made from.

Work in progress lives in `.partial/<stage>` and is renamed when it is complete. A stage that no longer holds is
set aside in `.superseded`, and comes back if the configuration does.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.tables import read_json, write_json, write_text
from sipo.errors import SipoError

SUBJECT = "subject.json"
MOMENT = "moment"
"""Of the run's beginning, in its subject: chat templates with a date are told it for ever."""
STAGE = "stage.json"


def moment_of(run: Path) -> datetime | None:
    """When the run was begun; None where there is none."""
    known = run / SUBJECT
    if not known.is_file():
        return None
    stated = read_json(known).get(MOMENT)
    return datetime.fromisoformat(stated) if stated else datetime.fromtimestamp(int(known.stat().st_mtime))


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, subject: dict[str, Any]) -> None:
        """Raises SipoError where the folder holds another run, or something else."""
        known = self.path / SUBJECT
        if known.exists():
            before = read_json(known)
            other = [name for name in subject if subject[name] != before.get(name)]
            if other:
                raise SipoError(
                    f"{self.path}: holds a run with other {' and '.join(other)}; "
                    "choose another folder with --run-dir, or remove this one"
                )
            return
        # Hidden files are none of the user's: a crash while claiming leaves one.
        if self.path.exists() and (
            not self.path.is_dir() or any(not file.name.startswith(".") for file in self.path.iterdir())
        ):
            raise SipoError(f"{self.path}: exists and is not a sipo run; choose another folder with --run-dir")

    def claim(self, subject: dict[str, Any], moment: datetime | None = None) -> None:
        """Make the folder this run's. Raises SipoError where it holds another run, or something else."""
        self.check(subject)
        if not (self.path / SUBJECT).exists():
            write_json(self.path / SUBJECT, {**subject, MOMENT: (moment or datetime.now()).isoformat()})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes; the lock goes with the process, however it ends."""
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise SipoError(f"{self.path}: another process is working on this run; wait for it") from None
        try:
            yield
        finally:
            lock.release()

    def stage(self, name: str) -> Path:
        return self.path / name

    def holds(self, name: str, fingerprint: str) -> bool:
        """Is the stage complete and made from what the fingerprint says?"""
        record = self.path / name / STAGE
        return record.exists() and read_json(record)["fingerprint"] == fingerprint

    def restore(self, name: str, fingerprint: str) -> bool:
        """Bring back a finished output from `.partial` (a crash came before its last step) or `.superseded`."""
        for kept in (self.path / ".partial" / name, self.path / ".superseded" / f"{name}-{fingerprint}"):
            if (kept / STAGE).exists() and read_json(kept / STAGE)["fingerprint"] == fingerprint:
                self._publish(name, kept)
                return True
        return False

    def begin(self, name: str, plan: str) -> Path:
        """The folder to work in: what an earlier try left there if its plan was the same, else empty."""
        partial = self.path / ".partial" / name
        marker = partial / "plan"
        if partial.exists() and not (marker.exists() and marker.read_text() == plan):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_text(marker, plan)
        return partial

    def finish(self, name: str, fingerprint: str, record: dict[str, Any]) -> None:
        """Publish the work in progress as the stage's output."""
        partial = self.path / ".partial" / name
        write_json(partial / STAGE, {"fingerprint": fingerprint, **record})
        self._publish(name, partial)

    def discard(self, name: str) -> None:
        """Forget a stage's output and its work in progress."""
        for folder in (self.path / name, self.path / ".partial" / name):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.path / ".superseded").glob(f"{name}-*"):
            shutil.rmtree(folder)

    def _publish(self, name: str, folder: Path) -> None:
        # The journals go only now that the stage's record stands: a crash anywhere here costs no work.
        shutil.rmtree(folder / JOURNAL, ignore_errors=True)
        (folder / "plan").unlink(missing_ok=True)
        target = self.path / name
        if target.exists():
            self._set_aside(name, target)
        folder.rename(target)

    def _set_aside(self, name: str, target: Path) -> None:
        record = target / STAGE
        if not record.exists():
            raise SipoError(f"{target}: was not written by sipo; move it away")
        aside = self.path / ".superseded" / f"{name}-{read_json(record)['fingerprint']}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        target.rename(aside)
