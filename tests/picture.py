"""The picture of docs/play.md: the page of a `sipo play` without a run, as a browser shows a link to it."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from browser import browsing

PROMPT = "Why do people keep cats as pets? Answer in one sentence."
SHARES = (1, 0.6, 0)
SIZE = (1280, 870)
WHOLE = f"document.querySelectorAll('.worth table').length === {len(SHARES)}"


def take(address: str, to: Path, dark: bool = False) -> None:
    """The link asks by itself; the picture is taken once every answer and its worth are there."""
    link = urlencode([("prompt", PROMPT), *(("at", f"mod@{share},{1 - share}") for share in SHARES), ("asked", "1")])
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile, browsing(Path(profile)) as tab:
        tab.open(f"{address}#{link}", *SIZE, dark=dark)
        tab.until(WHOLE, patience=300)
        tab.picture(to, whole=False)


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
