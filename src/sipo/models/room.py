"""How much memory there is."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTAINER = Path("/sys/fs/cgroup")


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, or less where a container says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = (CONTAINER / "memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def free_memory(device: "torch.device") -> int:
    """Bytes that are free now on a device, with what this process keeps without using it."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = machine_memory()
    with suppress(OSError, ValueError, LookupError):  # elsewhere than on Linux
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = min(free, 1024 * int(told["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError, LookupError):  # without a limit
        limit = int((CONTAINER / "memory.max").read_text(encoding="utf-8"))
        used = int((CONTAINER / "memory.current").read_text(encoding="utf-8"))
        told = dict(line.split() for line in (CONTAINER / "memory.stat").read_text(encoding="utf-8").splitlines())
        free = min(free, limit - used + int(told["inactive_file"]))  # files that it would let go of
    return free


def memory_of(device: "torch.device") -> int:
    """All of a device's, in bytes, used or not: the same number at any time."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_memory()
