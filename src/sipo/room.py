"""How much memory there is."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTAINER = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")
FILES = {
    "": (".", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups of both versions, by what the second field of their line in GROUPS names: their folder; the limit,
what is used, and in memory.stat the files that would be let go of.
"""


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, or less where a container or a batch system says so."""
    return min([_installed(), *(limit for limit, _ in _limits())])


def free_memory(device: "torch.device") -> int:
    """Bytes that are free now on a device, with what this process keeps without using it."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = _installed()
    with suppress(OSError, ValueError, LookupError):  # elsewhere than on Linux
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = min(free, 1024 * int(told["MemAvailable"].split()[0]))
    return min([free, *(left for _, left in _limits())])


def memory_of(device: "torch.device") -> int:
    """All of a device's, in bytes, used or not: the same number at any time."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_memory()


def _installed() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, what of it is free), in bytes, of each control group around this process that has one. A group's path is
    as the machine sees it, of which a container may have no more than the root.
    """
    for folder, kind in _groups():
        _, limit, used, files = FILES[kind]
        with suppress(OSError, ValueError):  # not there, or "max"
            most = free = int((folder / limit).read_text(encoding="utf-8"))
            with suppress(OSError, ValueError, LookupError):
                told = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
                free = most - int((folder / used).read_text(encoding="utf-8")) + int(told[files])
            yield most, free


def _groups() -> set[tuple[Path, str]]:
    """(folder, kind in FILES) of those around this process, up to the root."""
    found = {(CONTAINER / root, kind) for kind, (root, *_) in FILES.items()}
    with suppress(OSError, ValueError):  # elsewhere than on Linux
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            inner = Path(path.lstrip("/"))
            for kind in FILES.keys() & set(controllers.split(",")):
                if ".." not in inner.parts:
                    found |= {(CONTAINER / FILES[kind][0] / each, kind) for each in (inner, *inner.parents)}
    return found
