"""How much memory there is."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, or less where a container says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def memory_of(device: "torch.device") -> int:
    """All of a device's, in bytes, used or not: the same number at any time."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_memory()
