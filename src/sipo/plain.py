"""Text from elsewhere (files, people, models, servers) made fit to be shown: on terminals, on pages, in Markdown."""

import re
from collections.abc import Iterable, Sequence

from sipo.places import told

# Not among them are tab and line feed, nor the marks that right-to-left text needs and that turn nothing around.
COMMANDING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]")
"""Control characters, line separators, what turns the direction of text, lone surrogates."""


def plain(text: str) -> str:
    """The text with U+FFFD for what would command a terminal or a page, or cannot be encoded; lines stay lines. Of a
    working copy it names what that is a copy of.
    """
    return COMMANDING.sub("\N{REPLACEMENT CHARACTER}", told(text).replace("\r\n", "\n"))


def opening(text: str, length: int = 80) -> str:
    """How a text begins, on one line, in quotes."""
    line = plain(" ".join(text[: 10 * length].split()))
    return f"'{line[:length]}{'...' if len(line) > length or len(text) > 10 * length else ''}'"


class Markdown(str):
    """Text that is Markdown already: what `escape` has been over, or our own."""


def escape(text: object) -> Markdown:
    """One line of Markdown that shows the text as it is: no HTML, link, code, emphasis or table cell of its own."""
    if isinstance(text, Markdown):
        return text
    line = plain(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"[\\`*~]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"\\{found[0]}", line)
    return Markdown(re.sub(r"\](?=[(\[:])", "&#93;", line).replace("|", "&#124;"))


def code(text: str) -> Markdown:
    """As code where that is safe; a text with a mark of Markdown or HTML in it is escaped instead."""
    line = plain(" ".join(text.split()))
    return Markdown(f"`{line}`") if line and not re.search(r"[`<>&|]|\](?=\()", line) else escape(line)


def markdown_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table; every cell is escaped but those that are Markdown already."""
    lines = [columns, [Markdown("---")] * len(columns), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines))
