"""The one object that counts of a run in an object store: which files the run has, and who writes them.

It is only ever replaced on the condition that it is still the one that was read. So of two writers one is refused,
whatever their clocks say and however long one of them slept; and what it names is there, since it comes last.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from sipo.disk.content import is_seal
from sipo.disk.objects import Objects
from sipo.disk.tables import CHECK, check_of
from sipo.errors import SipoError

NAME = "manifest.json"
LEASE = 60.0
"""Seconds after which a writer that did not renew its word is taken for dead; it renews it four times as often."""

File = Mapping[str, Any]
"""`size` and `sha256` of its content, and the `object` that it lies in."""


@dataclass(frozen=True)
class Manifest:
    files: Mapping[str, File]
    """By path within the run."""
    last: str
    """The token of the process that wrote it: no two have the same."""
    holder: str | None
    """Who holds the run to write, in words; None where nobody does."""
    lease: float = LEASE
    """Seconds, as the holder has it."""
    tag: str = field(default="", compare=False)
    age: float = field(default=0.0, compare=False)
    """Seconds since it was written last."""

    @property
    def held(self) -> bool:
        return self.holder is not None and self.age <= self.lease


def read_manifest(objects: Objects) -> Manifest | None:
    """None where there is no run. Raises SipoError where it is not one that sipo wrote."""
    found = objects.read(NAME)
    if found is None:
        return None
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        value = json.loads(found.content)
        manifest = Manifest(
            **{name: each for name, each in value.items() if name != CHECK}, tag=found.tag, age=found.age
        )
        if value.pop(CHECK) == check_of(value) and is_seal(manifest.files) and all(map(_within, manifest.files)):
            return manifest
    raise SipoError(
        f"{objects.name}/{NAME}: is not what sipo wrote; restore an earlier version, or name another folder"
    )


def _within(path: str) -> bool:
    """Does it stay in the folder?"""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def write_manifest(objects: Objects, manifest: Manifest) -> Manifest | None:
    """Put it in the place of the one that it was made from; None where somebody else's stands there by now."""
    tag = objects.write(NAME, as_bytes(manifest), manifest.tag or None)
    return None if tag is None else replace(manifest, tag=tag, age=0.0)


def as_bytes(manifest: Manifest) -> bytes:
    value = {name: each for name, each in asdict(manifest).items() if name not in ("tag", "age")}
    return json.dumps({**value, CHECK: check_of(value)}, sort_keys=True).encode()
