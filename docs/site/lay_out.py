"""Lays out the pages of the documentation site: README.md is its start, all others lie as they do in the repository.

python docs/site/lay_out.py build/pages
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OF_THE_SITE = Path(__file__).parent
NOTEBOOKS = ROOT / "examples" / "notebooks"


def sources() -> dict[Path, Path]:
    """Every page and picture by its place on the site."""
    named = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.png"), *(ROOT / "examples").rglob("*.md")]
    as_they_lie = {path.relative_to(ROOT): path for path in [*named, *found] if OF_THE_SITE not in path.parents}
    own = {path.relative_to(OF_THE_SITE): path for path in [OF_THE_SITE / "api.md", OF_THE_SITE / "site.css"]}
    return {Path("index.md"): ROOT / "README.md", **as_they_lie, **own}


def linked(page: Path) -> list[Path]:
    """Files that a page links to and that are no pages: code, configurations, texts."""
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    paths = [(page.parent / link).resolve() for link in links]
    return [path for path in paths if path.is_file() and path.suffix not in (".md", ".ipynb")]


def as_page(notebook: Path) -> str:
    """Its texts and its code, as Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = (("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells)
    return "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts) + "\n"


def lay_out(to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    pages = sources()
    pages |= {path.relative_to(ROOT): path for page in pages.values() if page.suffix == ".md" for path in linked(page)}
    for place, path in pages.items():
        (to / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / place)
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        place = to / notebook.relative_to(ROOT).with_suffix(".md")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(as_page(notebook), encoding="utf-8")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
