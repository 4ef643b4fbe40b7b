"""The working copy of a run in an object store: stages and commands work on it as on any folder.

The manifest says what the run has (`sipo.disk.manifest`); files are objects that are never written twice. Of a stage
the small files are fetched at once, its large ones when it is read. Who reads trusts the manifest alone.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from sipo.disk.content import sha256_of
from sipo.disk.damage import STAGE
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.journal import PLAN
from sipo.disk.locking import LOCK, alone, worked_on
from sipo.disk.manifest import File, Manifest, read_manifest
from sipo.disk.objects import GoneError, Objects
from sipo.disk.publishing import remove
from sipo.disk.tables import read_json, write_json
from sipo.errors import SipoError
from sipo.places import copies, shown

SMALL = 1 << 16
"""Bytes of what is fetched with the manifest."""
KNOWN = ".copy.json"
"""In the copy: the tokens of the writers whose work is all here."""
OURS = (LOCK, KNOWN, ".tmp", ".new")
"""Ends of the names of what is of this machine alone."""


def copy_of(run: Path) -> "Copy | None":
    """Of the run's store; None where the run lies in an ordinary folder."""
    return _copy(run) if run.is_relative_to(copies()) else None


@cache
def _copy(run: Path) -> "Copy":
    return Copy(run)


def refreshed(run: Path) -> Path:
    """The run's folder; of a working copy, after it has become what its store has. Raises SipoError."""
    if copy := copy_of(run):
        copy.refresh()
    return run


class Copy:
    """One working copy, in this process."""

    def __init__(self, path: Path) -> None:
        self.path, self.objects = path, Objects(path)
        self.manifest: Manifest | None = None
        """As it was read or written last."""
        self._beside = path.with_name(f".{path.name}")

    # Reading

    def refresh(self) -> None:
        """Read the manifest, remove what is not the run's any more, fetch what is small."""
        self.manifest = read_manifest(self.objects)
        if self.manifest and self.manifest.last in self.tokens():
            return  # nobody else wrote since: what is here is as new, or newer
        with alone(self._beside, wait=True):
            self.become(self.manifest.files if self.manifest else {}, reading=True)

    def become(self, files: Mapping[str, File], *, reading: bool) -> None:
        """Make the copy what the manifest says, but for large files of stages and, to read, work in progress."""
        if worked_on(self.path) and reading:
            raise SipoError(f"{shown(self.path)}: a process on this machine still works on what another has taken over")
        stages = [path.removesuffix(STAGE) for path in files if path.endswith(f"/{STAGE}")]
        for stage in {
            *stages,
            *(f"{each.relative_to(self.path).parent.as_posix()}/" for each in self.path.rglob(STAGE)),
        }:
            record = f"{stage}{STAGE}"
            if not self._same(record, files.get(record)):
                remove(self.path / stage)
        for each in self.local():
            name = each.relative_to(self.path).as_posix()
            if name not in files:
                each.unlink()
        for folder, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)

        def wanted(name: str) -> bool:
            if any(name.startswith(stage) for stage in stages):
                return files[name]["size"] <= SMALL
            told = f"/{JOURNAL}/" in name or name.endswith(f"/{PLAN}")  # how far work in progress is
            return not reading or not name.startswith(".partial/") or told

        self._fetch({name: file for name, file in files.items() if wanted(name)})

    def held(self) -> bool:
        """Does a process of any machine work on it, as the store knows by now?"""
        self.refresh()
        return self.manifest is not None and self.manifest.held

    def fetch(self, folder: Path) -> None:
        """Have all of a stage here that the store has of it."""
        files = self._of(folder)
        try:
            self._fetch(files)
        except GoneError:
            self.refresh()
            if self._of(folder) == files:
                raise
            raise SipoError(f"{shown(folder)}: was made anew meanwhile; give the same command again") from None

    def vouches(self, folder: Path, seal: Mapping[str, Any]) -> Collection[str]:
        """The files of a stage that the store has as they were sealed: here they may be, or not."""
        at, there = folder.relative_to(self.path).as_posix(), self._of(folder)
        return [name for name, about in seal.items() if _alike(there.get(f"{at}/{name}"), about)]

    def local(self) -> Iterator[Path]:
        """The files that are the run's."""
        for folder, _, names in os.walk(self.path):
            yield from (Path(folder, name) for name in sorted(names) if not name.endswith(OURS))

    def tokens(self) -> list[str]:
        """Of the writers whose work is all here."""
        known = self.path / KNOWN
        return list(read_json(known)) if known.exists() else []

    def keep(self, *tokens: str) -> None:
        write_json(self.path / KNOWN, tokens)

    def _of(self, folder: Path) -> dict[str, File]:
        """What the store has of a stage, where it is the one that is here."""
        files, at = self.manifest.files if self.manifest else {}, folder.relative_to(self.path).as_posix()
        if not self._same(f"{at}/{STAGE}", files.get(f"{at}/{STAGE}")):
            return {}
        return {name: file for name, file in files.items() if name.startswith(f"{at}/")}

    def _same(self, name: str, file: File | None) -> bool:
        here = self.path / name
        return (
            file is not None
            and here.is_file()
            and here.stat().st_size == file["size"]
            and sha256_of(here) == file["sha256"]
        )

    def _fetch(self, files: Mapping[str, File]) -> None:
        lacking = {name: file for name, file in files.items() if not self._same(name, file)}
        if not lacking:
            return
        with alone(self._beside, wait=True):
            places = {name: self.path / name for name in lacking}
            scratch = {name: here.with_name(f".{here.name}.tmp") for name, here in places.items()}
            for here in scratch.values():
                here.parent.mkdir(parents=True, exist_ok=True)
            self.objects.download([(file["object"], scratch[name]) for name, file in lacking.items()])
            for name, file in lacking.items():
                if sha256_of(scratch[name]) != file["sha256"]:
                    scratch[name].unlink()
                    raise SipoError(
                        f"{shown(self.path)}/{name}: {file['object']} in the store is not as it was written"
                    )
                scratch[name].replace(places[name])


def _alike(file: File | None, about: Mapping[str, Any]) -> bool:
    return file is not None and (file["size"], file["sha256"]) == (about["size"], about["sha256"])
