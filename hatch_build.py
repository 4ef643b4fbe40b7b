"""What a package index shows of sipo: README.md, with links that lead to the repository from anywhere."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^]]*)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)")
"""A Markdown link to a file."""


def readable_anywhere(text: str, repository: str | None, revision: str) -> str:
    """Links to files as links to those of `repository` at `revision`, pictures as the pictures themselves.

    Without a repository a link is its words, and pictures are left out: what leads nowhere is not shown.
    """

    def led(found: re.Match[str]) -> str:
        picture, words, path = found["picture"], found["words"], found["path"]
        if repository is None:
            return "" if picture else words
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/{revision}/{path})"

    return LINK.sub(led, text)


class Description(MetadataHookInterface):
    """Reads `Repository` of [project.urls], the one place that names it."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        text = readable_anywhere(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
