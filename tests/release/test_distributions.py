"""What is uploaded: the wheel and the sdist hold what people need and nothing else, and say what they are."""

import email
import hashlib
import importlib
import re
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from hatch_build import readable_anywhere

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RELATIVE = re.compile(r"""\]\((?!\w+:|#)|(?:src|href|srcset)=["'](?!\w+:|#)""")
"""The beginning of a link to a file beside the page."""
MEGABYTES = 5
"""Most of them the demo's adapters."""


def tracked() -> set[str]:
    """Files of the repository, with those that were added and not yet committed."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of git")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def build(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("dist")
        builder = {"wheel": WheelBuilder, "sdist": SdistBuilder}[kind](str(ROOT))
        return Path(next(builder.build(directory=str(folder), versions=["standard"])))

    return build


@pytest.fixture(scope="module")
def wheel(built: Callable[[str], Path]) -> Path:
    return built("wheel")


@pytest.fixture(scope="module")
def about(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_a_wheel_is_the_package_whole_and_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    assert {"sipo/py.typed", "sipo/init.yaml", "sipo/demo/adapters/plain/adapter_model.safetensors"} <= names
    assert wheel.stat().st_size < MEGABYTES * 2**20


def test_an_sdist_is_the_repository(built: Callable[[str], Path]) -> None:
    path = built("sdist")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == tracked() | {"PKG-INFO"}
    assert path.stat().st_size < 2 * MEGABYTES * 2**20


def test_a_wheel_is_the_same_each_time(wheel: Path, built: Callable[[str], Path]) -> None:
    again = built("wheel")
    assert again != wheel
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_what_an_index_shows(about: Message) -> None:
    text = str(about.get_payload())
    assert "# sipo" in text and "make demo" in text
    assert not RELATIVE.search(text), RELATIVE.search(text)
    assert about["Description-Content-Type"] == "text/markdown"
    labels = about.get_all("Classifier") or []
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux", "Programming Language :: Python :: 3.11"} <= {
        *labels
    }
    assert not [label for label in labels if label.startswith("License ::")], "the expression says it"
    assert (about["License-Expression"], about["License-File"]) == ("Apache-2.0", "LICENSE")
    links = dict(each.split(", ", 1) for each in about.get_all("Project-URL") or [])
    assert links == PROJECT["urls"] and all(address.startswith("https://") for address in links.values())


def test_links_of_the_readme_on_an_index() -> None:
    assert RELATIVE.search(README), "there are such"
    text = readable_anywhere(README, "https://example.org/sipo", "v1")
    assert not RELATIVE.search(text)
    assert "](https://example.org/sipo/blob/v1/docs/install.md)" in text
    assert "](https://example.org/sipo/raw/v1/docs/front.png)" in text
    found = re.findall(r"https://example\.org/sipo/(blob|raw)/v1/([^)#]+)", text)
    assert len(found) == len(RELATIVE.findall(README))
    for kind, path in found:
        assert (ROOT / path).is_file() and (kind == "raw") == path.endswith(".png")


def test_without_a_repository_nothing_leads_nowhere() -> None:
    shown = readable_anywhere(
        "![A](a.png)\n[use](docs/use.md#ask) [paper](https://arxiv.org) [here](#here)", None, "v1"
    )
    assert shown == "\nuse [paper](https://arxiv.org) [here](#here)"


def test_one_version_and_one_address() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == importlib.import_module("sipo").__version__
    assert citation.get("repository-code") == PROJECT["urls"].get("Repository")
    (paper,) = citation["references"]
    assert PROJECT["urls"]["Paper"].endswith(paper["identifiers"][0]["value"].removeprefix("arXiv:"))
