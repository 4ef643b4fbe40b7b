"""`sipo push`: what is sent, where to, and who may see it."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

from huggingface_hub.utils.tqdm import disable_progress_bars

from sipo.finished.pushing import Parcel, parcel_of, send
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
    made = _heeding_signals(send, parcel, public)
    say(f"{told(sum(sizes.values()))} sent to {made['url']}, which is {'private' if made['private'] else 'public'}")
    return {**record, **made}


def _heeding_signals(send: Callable[..., dict[str, Any]], parcel: Parcel, public: bool) -> dict[str, Any]:
    """What `send` returns or raises. It works in a thread of its own, since the library sends large files in compiled
    code, which for minutes lets no signal through to Python; one that ends this process ends the thread with it.
    """
    sent: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            sent.set_result(send(parcel, public=public))
        except BaseException as error:
            sent.set_exception(error)

    Thread(target=work, daemon=True).start()
    return sent.result()


def told(size: int) -> str:
    """Bytes for people."""
    return next((f"{size / unit:.1f} {name}" for unit, name in UNITS if size >= unit), f"{size} B")
