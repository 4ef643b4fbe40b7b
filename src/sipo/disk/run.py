"""A run on disk: one folder a stage, each whole or absent, each knowing what it was made from and what is in it.

Work in progress lives in `.partial/<stage>` and is renamed when it is complete. A stage that no longer holds is
set aside in `.superseded`, and comes back if the configuration does; so is one that was damaged, which does not.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from sipo.disk.content import Seal, flaw_in, foreign_to, is_seal, seal_of
from sipo.disk.copies import Copy, copy_of
from sipo.disk.damage import CONFIG, STAGE, SUBJECT, DamageError, is_run, note, stages_in
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.journal import PLAN
from sipo.disk.locking import alone
from sipo.disk.publishing import check_name, check_no_links, move, open_as_folder, remove, sync
from sipo.disk.tables import read_checked, write_checked, write_text
from sipo.errors import SipoError

MOMENT = "moment"
"""Of the run's beginning, in its subject: chat templates with a date are told it for ever."""
PARTIAL, SUPERSEDED = ".partial", ".superseded"
NOW = ".now.json"
"""What is under way, for `sipo status`."""
ANEW = ".anew"
"""What `--from` has still to make."""


def moment_of(run: Path) -> datetime | None:
    """When the run was begun; None where there is none."""
    known = run / SUBJECT
    if not is_run(run):
        return None
    try:
        stated = read_checked(known, known_by=CONFIG).get(MOMENT)
    except DamageError:  # the first stage that was made is not much younger
        made = [folder / STAGE for folder in stages_in(run)]
        known, stated = min(made, key=lambda file: file.stat().st_mtime, default=known), None
    return datetime.fromisoformat(stated) if stated else datetime.fromtimestamp(int(known.stat().st_mtime))


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.copy = path, copy_of(path)

    def check(self, subject: Mapping[str, Any]) -> None:
        """Raises SipoError where the folder holds another run, or something else."""
        check_name(self.path)
        if is_run(self.path):
            try:
                before = read_checked(self.path / SUBJECT, known_by=CONFIG)
            except DamageError as damage:  # the stages' fingerprints say as well what they are of
                note(str(damage))
                return
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
        above = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise SipoError(f"{self.path}: nothing can be written in {above}; choose another folder with --run-dir")

    def claim(self, subject: Mapping[str, Any], config: str, moment: datetime | None = None) -> None:
        """Make the folder this run's, with its configuration. Raises SipoError as `check` does."""
        self.check(subject)
        began = moment_of(self.path) or moment or datetime.now()
        write_checked(self.path / SUBJECT, {**subject, CONFIG: digest_of(config), MOMENT: began.isoformat()})
        write_text(self.path / CONFIG, config)

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder against other processes; the lock goes with the process, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with alone(self.path, wait=wait, work="this run"):
            for ours in (PARTIAL, SUPERSEDED):
                if (self.path / ours).is_symlink():
                    check_no_links(self.path / ours)
                if (self.path / ours).exists() and not (self.path / ours).is_dir():
                    raise SipoError(f"{self.path / ours}: is no folder; move it away")
            yield

    def stage(self, name: str) -> Path:
        return self.path / name

    def record(self, name: str) -> dict[str, Any]:
        """What `stage.json` says, or nothing where the stage is absent. Raises DamageError."""
        return _record(self.path / name) if os.path.lexists(self.path / name) else {}

    def holds(self, name: str, fingerprint: str, *, every_byte: bool = False) -> bool:
        """Is the stage complete and made from what the fingerprint says?

        Raises DamageError where a file is not as it was written, told by sizes or by `every_byte`, and SipoError where
        one is there that sipo did not write.
        """
        record = self.record(name)
        if record.get("fingerprint") != fingerprint or "files" not in record:
            return False
        _check_files(self.path / name, record, every_byte, self.copy)
        return True

    def verify(self, name: str) -> Path:
        """The stage's folder, after every byte of it has been compared, once a process, with what was written."""
        folder = self.path / name
        self._fetch(folder)
        if (folder / STAGE).exists():
            _check_files(folder, _record(folder), every_byte=True)
        return folder

    def kept(self, name: str, fingerprint: str) -> Path | None:
        """A finished output in `.partial` (a crash came before its last step) or `.superseded`."""
        for folder in (self.path / PARTIAL / name, self._aside(name, fingerprint)):
            try:
                self._fetch(folder)
                if (folder / STAGE).exists() and (record := _record(folder))["fingerprint"] == fingerprint:
                    _check_files(folder, record, every_byte=True)
                    return folder
            except DamageError as damage:
                note(f"{damage.place}: damaged ({damage.why}), so it is not brought back")
        return None

    def restore(self, name: str, fingerprint: str) -> bool:
        """Bring back a finished output that is kept."""
        folder = self.kept(name, fingerprint)
        if folder:
            self._publish(name, fingerprint, folder)
        return folder is not None

    def begin(self, name: str, plan: str) -> Path:
        """The folder to work in: what an earlier try left there if its plan was the same, else empty."""
        partial, stage = self.path / PARTIAL / name, self.stage(name)
        if stage.is_symlink() and not stage.exists():
            raise SipoError(f"{stage}: is a symbolic link to what is not there; bring that back, or remove the link")
        if partial.exists():
            check_no_links(partial)
        marker = partial / PLAN
        if partial.exists() and not (marker.exists() and marker.read_bytes() == plan.encode()):
            if any(each.is_file() and each != marker for each in partial.rglob("*")):
                note(f"{partial}: was begun with other settings, or its {PLAN} is damaged; {name} is begun again")
            remove(partial)
        write_text(marker, plan)
        return partial

    def finish(self, name: str, fingerprint: str, record: dict[str, Any]) -> None:
        """Publish the work in progress as the stage's output."""
        partial = self.path / PARTIAL / name
        open_as_folder(partial)
        files = seal_of(partial, without=(STAGE,))
        write_checked(partial / STAGE, {"fingerprint": fingerprint, **record, "files": files})
        self._publish(name, fingerprint, partial)

    def left_of(self, command: str, names: Sequence[str]) -> list[str]:
        """Of the stages that a command makes anew, those that an earlier try of the same command has left."""
        left, about = list(names), digest_of(command)
        with suppress(DamageError):
            known = read_checked(self.path / ANEW, known_by="left")
            if known["command"] == about:
                left = [name for name in names if name in known["left"]]
        remove(self.path / ANEW)
        if left:
            write_checked(self.path / ANEW, {"command": about, "left": left})
        return left

    def made_anew(self, name: str) -> None:
        """One of them is made."""
        with suppress(DamageError):
            known = read_checked(self.path / ANEW, known_by="left")
            if left := [each for each in known["left"] if each != name]:
                write_checked(self.path / ANEW, {**known, "left": left})
            else:
                remove(self.path / ANEW)

    def set_aside(self, name: str) -> None:
        """Move the stage to where it comes back from when its settings do."""
        self._fetch(self.stage(name))  # what the store has of it is known there by its name
        try:
            if record := self.record(name):
                self._replace(self._aside(name, record["fingerprint"]), self.stage(name))
        except DamageError:
            self.set_aside_damaged(name)

    def set_aside_damaged(self, name: str) -> Path:
        """Move the stage to where it does not come back from, and nothing takes its place."""
        place = self.path / SUPERSEDED
        aside = next(free for n in count(1) if not (free := place / f"{name}-damaged-{n}").exists())
        move(self.stage(name), aside)
        return aside

    def _fetch(self, folder: Path) -> None:
        if self.copy:
            self.copy.fetch(folder)

    def _aside(self, name: str, fingerprint: str) -> Path:
        return self.path / SUPERSEDED / f"{name}-{fingerprint}"

    def _publish(self, name: str, fingerprint: str, folder: Path) -> None:
        # The journals go only now that the stage's record stands: a crash anywhere here costs no work.
        sync(folder)
        remove(folder / JOURNAL)
        remove(folder / PLAN)
        self.set_aside(name)
        move(folder, self.stage(name))
        remove(self._aside(name, fingerprint))  # its successor stands
        for place in (folder.parent, self._aside(name, fingerprint).parent):  # of a stage such as answers/soups
            if place.name not in (PARTIAL, SUPERSEDED):
                with suppress(OSError):  # others are in it
                    place.rmdir()

    def _replace(self, old: Path, new: Path) -> None:
        """Put a folder in the place of another of the same fingerprint, which goes last."""
        spare = old.with_name(f"{old.name}-spare")
        remove(spare)
        if os.path.lexists(old):
            move(old, spare)
        move(new, old)
        remove(spare)


def digest_of(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()


def _record(folder: Path) -> dict[str, Any]:
    record = read_checked(folder / STAGE, known_by="files")
    if not isinstance(record.get("fingerprint"), str) or not is_seal(record.get("files", {})):
        raise DamageError(folder / STAGE, "it is not what a stage writes")
    return record


def _check_files(folder: Path, record: dict[str, Any], every_byte: bool, copy: Copy | None = None) -> None:
    """What the store of a working `copy` vouches for need not be here."""
    seal: Seal = record.get("files", {})
    there = copy.vouches(folder, seal) if copy else ()
    if flaw := flaw_in(folder, {name: seal[name] for name in seal if name not in there}, every_byte=every_byte):
        raise DamageError(*flaw, sealed=True)
    if foreign := foreign_to(folder, [*seal, STAGE]):
        raise SipoError(f"{foreign}: was not written by sipo; move it away")
