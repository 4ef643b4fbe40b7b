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
    own = {Path("api.md"): OF_THE_SITE / "api.md"}
    notebooks = {path.relative_to(ROOT).with_suffix(".md"): path for path in NOTEBOOKS.glob("*.ipynb")}
    return {Path("index.md"): ROOT / "README.md", **as_they_lie, **own, **notebooks}


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
        if path.suffix in (".md", ".ipynb"):
            text = as_page(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
            (to / place).write_text(text.replace(".ipynb)", ".md)"), encoding="utf-8")
        else:
            shutil.copyfile(path, to / place)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
