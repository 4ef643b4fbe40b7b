"""The documentation site: every page is in its navigation, and what is built asks nobody else for anything."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from blocks import PAGES, ROOT

import sipo

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages_of(navigation: list[dict[str, Any]]) -> Iterator[str]:
    for entry in navigation:
        for below in entry.values():
            yield from [below] if isinstance(below, str) else pages_of(below)


def test_every_page_is_in_the_navigation_once() -> None:
    own = {"docs/site/api.md": "api.md", "README.md": "index.md"}
    notebooks = [path.relative_to(ROOT).with_suffix(".md") for path in (ROOT / "examples").rglob("*.ipynb")]
    there = [own.get(name, name) for name in (page.relative_to(ROOT).as_posix() for page in PAGES)]
    there += [*(path.as_posix() for path in notebooks), "CHANGELOG.md"]
    named = list(pages_of(SITE["nav"]))
    assert set(there) - set(named) == set(), "give it a place in mkdocs.yml"
    assert set(named) - set(there) == set(), "it is gone; take it out of mkdocs.yml"
    assert len(named) == len(set(named))


def test_the_api_is_every_public_name_once() -> None:
    text = (ROOT / "docs" / "site" / "api.md").read_text(encoding="utf-8")
    named = [line.removeprefix("::: sipo.") for line in text.splitlines() if line.startswith("::: ")]
    assert sorted(named) == sorted(sipo.__all__)


@pytest.fixture(scope="module")
def site() -> Path:
    """As `make docs` builds it."""
    for words in (["docs/site/lay_out.py", SITE["docs_dir"]], ["-m", "zensical", "build", "--strict", "--clean"]):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / str(SITE["site_dir"])


@pytest.mark.docs
def test_every_page_is_built_and_asks_nobody(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    built = {re.sub("(^|/)index.html$", "", name) for name in pages}
    assert built == {re.sub(r"(^|/)(index|README)?\.md$|\.md$", "", name) for name in pages_of(SITE["nav"])} | {
        "404.html"
    }
    for name, text in pages.items():
        loads = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?(https?:[^>\s]*)|<link\b[^>]*>", text)
        asked = [each for each in loads if each] + re.findall(
            r"<link\b(?![^>]*canonical)[^>]*href=.?https?:[^>]*", text
        )
        assert not asked, name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(.?https?:|@import.{0,9}https?:", style.read_text(encoding="utf-8")), style


@pytest.mark.docs
def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    """Also those to files that are no pages, which the builder does not look at."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "404.html"}
    for page, text in pages.items():
        for link in re.findall(r"""\b(?:href|src)=["']?(?!\w+:|//)([^"'\s>]+)""", text):
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (page, link)
            if anchor and target in pages:
                assert re.search(rf"""\bid=["']?{re.escape(anchor)}["'\s>]""", pages[target]), (page, link)


@pytest.mark.docs
def test_the_api_shows_its_examples_as_code(site: Path) -> None:
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<h\d id="?sipo\.(\w+)"?', text)) >= set(sipo.__all__)
    prompts = re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert "&gt;&gt;&gt;" in text and "&gt;&gt;&gt;" not in prompts


@pytest.mark.docs
def test_a_link_that_leads_nowhere_ends_the_build(site: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: x\ndocs_dir: pages\nsite_dir: site\n")
    (tmp_path / "pages" / "index.md").write_text("# A\n\n[there](gone.md)\n")
    words = [sys.executable, "-m", "zensical", "build", "--strict"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode != 0
