"""`sipo push`: what is sent, where to, and who may see it."""

import sys
from pathlib import Path
from typing import Any

from huggingface_hub.utils.tqdm import disable_progress_bars

from sipo.finished.pushing import parcel_of, send
from sipo.progress import say

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def push(folder: Path, to: str, *, public: bool, dry_run: bool) -> dict[str, Any]:
    """Send the folder, or say what would be sent, and return that as a record."""
    parcel = parcel_of(folder, to)
    sizes = parcel.sizes
    for name, size in sizes.items():
        say(f"{told(size):>10}  {name}")
    seen = "public" if public else "private"
    record = {"repo": to, "files": sizes, "bytes": sum(sizes.values()), "dry_run": dry_run}
    if dry_run:
        say(f"{told(sum(sizes.values()))} would go to {to}, {seen}; nothing was sent")
        return {**record, "private": not public, "url": None, "commit": None}
    if not sys.stderr.isatty():
        disable_progress_bars()
    made = send(parcel, public=public)
    say(f"{told(sum(sizes.values()))} sent to {made['url']}, which is {'private' if made['private'] else 'public'}")
    return {**record, **made}


def told(size: int) -> str:
    """Bytes for people."""
    return next((f"{size / unit:.1f} {name}" for unit, name in UNITS if size >= unit), f"{size} B")
