"""The most memory that a piece of work holds: on the GPU where it works there, else in main memory."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

WORTH = 16 * 2**20
"""Bytes for which it is worth a third of a second to search all that Python holds for what nothing leads to."""
_least: dict[torch.device, int] = {}
"""The least that was held since the last such search, by device."""


def reset_peak(device: torch.device) -> int | None:
    """Count the peak anew from the bytes held now, which it returns; up to `WORTH` of them may be garbage.

    None where the kernel does not let us: then the peak stays that of the whole process.
    """
    held, least = _held(device), _least.get(device)
    if held is None or least is None or held > least + WORTH:
        gc.collect()
        held = least = _held(device)
    if held is not None and least is not None:
        _least[device] = min(least, held)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return held
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return held


def _held(device: torch.device) -> int | None:
    """Bytes, without what is free to be given away."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed would else count, or hide what this one takes
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return None


def peak_bytes(device: torch.device) -> int:
    """The most bytes held at once since `reset_peak`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        return _resident("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
