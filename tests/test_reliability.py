"""The page on reliability says what the tests of faults do, no more and no less."""

import importlib.util
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Of the table below a heading."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")] for line in lines[2:]
    ]


def faults() -> Iterator[tuple[str, Any, list[Any]]]:
    """Tests that are marked so, with their marks."""
    for file in sorted(TESTS.rglob("test_*.py")):
        if "pytest.mark.faults" not in file.read_text(encoding="utf-8") or file == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"faults_of_{file.stem}", file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, test in inspect.getmembers(module, inspect.isfunction):
            marks = getattr(test, "pytestmark", [])
            if any(mark.name == "faults" for mark in marks):
                yield f"{file.name}: {name}", test, marks


def test_the_table_is_what_make_test_faults_does() -> None:
    expected = []
    for name, test, marks in faults():
        (least,) = (mark.args[0] for mark in marks if mark.name == "faults")
        cases = [len(mark.args[1]) for mark in marks if mark.name == "parametrize"]
        about = " ".join((test.__doc__ or "").split()).split(" | ")
        assert len(about) == 3 and all(about), f"{name} says what it injects into what, and what is held"
        source = inspect.getsource(test)
        assert "chance.trials(" in source or "chance.least" in source, f"{name} goes on until enough has struck"
        injected, into, held = about
        quick = "" if any(mark.name == "slow" for mark in marks) else "yes"
        expected.append([injected, into, str(least * math.prod(cases)), quick, held])
    assert sorted(rows("By chance")) == sorted(expected)
    total, short = (sum(int(row[2]) for row in expected if row[3] in which) for which in (("", "yes"), ("yes",)))
    assert f"{len(expected)} kinds, at least {total} faults" in " ".join(PAGE.split())
    assert f"at least {short} with `QUICK=1`" in " ".join(PAGE.split())


def test_what_every_change_is_held_to_is_there() -> None:
    listed = rows("At every change")
    assert len(listed) >= 8
    for row in listed:
        ((path, name),) = re.findall(r"`(tests/\S+)::(test_\w+)`", row[-1])
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (path, name)


def test_seed_and_rounds_are_the_makefile_s() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^test-faults: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert (
        "FAULTS_SEED=$(SEED) FAULTS_ROUNDS=$(ROUNDS)" in command
        and '-m "faults$(if $(QUICK), and not slow)"' in command
    )
    assert re.search(r"make test-faults SEED=\d+ ROUNDS=\d+", PAGE)
