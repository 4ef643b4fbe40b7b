"""What pages say beside their commands: links lead somewhere, and tables hold what the code says."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import BLOCKS, PAGES, ROOT, commands_of

from sipo.cli.main import main

TEXTS = {page: re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S) for page in PAGES}


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings: lower case, no punctuation, a hyphen for each space."""
    headings = re.findall(r"^#+ +(.*?) *$", TEXTS[page], re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", TEXTS[ROOT / "README.md"]))
    assert linked == {page.relative_to(ROOT).as_posix() for page in PAGES if page.parent == ROOT / "docs"}


def test_every_extra_is_told_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = re.findall(r"^\| `(\w+)` \|", TEXTS[ROOT / "docs" / "install.md"], re.MULTILINE)
    assert set(told) == set(project["optional-dependencies"])


def test_the_memory_of_a_7b_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage, or every kind of it, as the page's own commands say it."""
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    page = [block.text for block in BLOCKS if block.page == "docs/gpu.md" and "sipo check configs" in block.text]
    (paper,) = commands_of(page[0])
    (light,) = [words for text in page for words in commands_of(text) if "model.quantise=4bit" in words]

    def peaks(words: list[str], gib: int) -> dict[str, tuple[float, bool]]:
        words[words.index("--gpu") + 1] = str(gib)
        assert main([*words[1:], "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)["plan"]
        return {each["stage"]: (each["peak_gib"], each["fits"]) for each in plan}

    columns = [peaks(paper, 24), peaks(paper, 40), peaks(paper, 80), peaks(light, 24)]
    rows = re.findall(
        r"^\| `([\w/]+)` \|" + r" ([\d.]+) \| (\w+) \|" * len(columns) + "$", TEXTS[ROOT / "docs" / "gpu.md"], re.M
    )
    for stage, *cells in rows:
        alike = [name for name in columns[0] if name.partition("/")[0] == stage]
        assert alike, stage
        for name in alike:
            found = [column[name] for column in columns]
            assert cells[::2] == [f"{peak:.3g}" for peak, _ in found], name
            assert cells[1::2] == ["yes" if fit else "no" for _, fit in found], name
    assert {row[0] for row in rows} == {name.partition("/")[0] for name in columns[0]}


def told(root: Path) -> Iterator[tuple[str, re.Pattern[str]]]:
    """What the code can say: a pattern of each text in it, the constant pieces as groups with anything between, and
    the longest piece."""
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            pieces = [each.value if isinstance(each, ast.Constant) else None for each in parts]
            if all(isinstance(piece, str | None) for piece in pieces) and len("".join(filter(None, pieces))) > 7:
                pattern = "".join(".*?" if piece is None else f"({re.escape(piece)})" for piece in pieces)
                yield max(filter(None, pieces), key=len), re.compile(pattern)


NAMED = {
    "error",
    "line",
    "in",
    "it",
    "m",
    "bata",
    "beta",
    "align",
    "detail",
    "prompt",
    "preferred",
    "cuda",
    "loss",
    "nan",
}
NAMED |= {
    "localhost",
    "lower",
    "rows",
    "host",
    "compare",
    "runs",
    "run",
    "row",
    "model",
    "mod",
    "my",
    "detial",
    "pip",
    "install",
    "s",
}
"""Words of the lines that are names, or too short a text of the code; and the s that `quantity` adds."""


def test_every_line_of_trouble_is_one_that_the_code_says() -> None:
    """Names, numbers, and what other libraries say (in brackets or quotes) apart, all of it is texts in the code."""
    known = list(told(ROOT / "src"))
    blocks = [block for block in BLOCKS if (block.page, block.kind) == ("docs/trouble.md", "text")]
    lines = [" ".join(block.text.split()) for block in blocks]
    assert len(lines) > 25
    for line in lines:
        said = [found for piece, pattern in known if piece in line and (found := pattern.search(line))]
        spans = [found.span(group) for found in said for group in range(1, len(found.groups()) + 1)]
        spans += [found.span() for found in re.finditer(r"\([^()]*\)| '.*'", line)]
        covered = {at for start, end in spans for at in range(start, end)}
        rest = "".join(" " if at in covered else letter for at, letter in enumerate(line))
        words = {word.strip("`,;:-") for word in rest.split()}
        assert {word for word in words if word.isalpha()} <= NAMED, rest
