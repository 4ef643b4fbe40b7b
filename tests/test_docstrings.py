"""What documentation shows in Python runs: every public name has an example, on a small run in place of the quickstart's."""

import doctest
import json
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sipo
from sipo.config.file import parse_config
from sipo.data.sources.registry import REGISTRY as SOURCES
from sipo.filters.features.registry import REGISTRY as FEATURES
from sipo.filters.registry import REGISTRY as FILTERS
from sipo.methods.registry import REGISTRY as METHODS
from sipo.rewards.kinds.registry import REGISTRY as REWARDS
from sipo.runs.pipeline import run

ROOT = Path(sipo.__file__).parent
PUBLIC = [name for name in dir(sipo) if not name.startswith("__")]
SHOWING = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
NORMAL = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def place(
    model_folder: Path, make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A working directory with what examples name: rows.jsonl, prompts.jsonl, a model and a finished runs/quickstart."""
    folder = tmp_path_factory.mktemp("examples")
    settings = json.loads(json.dumps(make_settings(folder)).replace("brevity", "plain"))
    rows = folder / "rows.jsonl"
    rows.write_text(rows.read_text().replace("brevity", "plain"))
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "What is {i} times 3?"}}\n' for i in range(16)))
    (folder / "model").symlink_to(model_folder)
    settings |= {"run_dir": str(folder / "runs" / "quickstart"), "methods": ["base", "soups", "mod", "sipo"]}
    settings["model"]["path"] = str(folder / "model")
    (folder / "quickstart.yaml").write_text(json.dumps(settings))
    run(parse_config(settings, "quickstart.yaml"), quiet=True)
    return folder


def examples_of(path: Path) -> list[doctest.DocTest]:
    name = ".".join(("sipo", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    found = doctest.DocTestFinder().find(import_module(name), name, extraglobs={"sipo": sipo, "Path": Path})
    return [each for each in found if each.examples]


@pytest.mark.parametrize("path", SHOWING, ids=[path.relative_to(ROOT).as_posix() for path in SHOWING])
def test_examples_show_what_comes(path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found, said = examples_of(path), list[str]()
    assert found
    for each in found:
        doctest.DocTestRunner(optionflags=NORMAL, verbose=False).run(each, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is_and_shows_it(name: str) -> None:
    stated = getattr(sipo, name).__doc__ or ""
    assert ">>> " in stated and "sipo." in stated
    assert len(stated.split(">>>")[0].split()) > 5


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert set(dir(sipo)) == {*sipo.__all__, "__version__"}


def _exists(name: str) -> bool:
    """Is it a module, or in the last of its modules?"""
    module, rest = "sipo", name.split(".")[1:]
    while rest and hasattr(import_module(module), "__path__") and find_spec(f"{module}.{rest[0]}"):
        module = f"{module}.{rest.pop(0)}"
    found: Any = import_module(module)
    for part in rest:
        found = getattr(found, part, None)
    return found is not None


def test_what_texts_name_of_the_code_is_there() -> None:
    """Modules and what is in them, as pages and docstrings name them; groups of entry points have such names, too."""
    groups = {registry.group for registry in (METHODS, FILTERS, FEATURES, SOURCES, REWARDS)}
    top = ROOT.parents[1]
    pages = [*top.glob("*.md"), *(top / "docs").glob("*.md"), *ROOT.rglob("*.py")]
    pages.remove(top / "CHANGELOG.md")  # of what there was, too
    named = {name: page for page in pages for name in re.findall(r"`(sipo(?:\.\w+)+)[`(]", page.read_text("utf-8"))}
    assert len(named) > 30
    gone = {name: str(page) for name, page in named.items() if name not in groups and not _exists(name)}
    assert not gone
