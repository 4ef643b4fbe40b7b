"""Functions of users: what they return is numbers in order or one line, and what they set for all is theirs alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoint import items

from sipo.errors import SipoError
from sipo.rewards import score_responses
from sipo.rewards.objective import Objective

RESULTS = {
    "a text": ("'777'", "gave a str; return a list of numbers"), "bytes": ("b'777'", "gave a bytes"),
    "a mapping": ("{0: 1.0, 1: 2.0, 2: 3.0}", "gave a dict"), "counts": ("__import__('collections').Counter(r)", "gave a Counter"),
    "a set": ("{1.0, 2.0, 3.0}", "gave a set"), "a frozen set": ("frozenset([1.0, 2.0, 3.0])", "gave a frozenset"),
    "keys": ("{1.0: 0, 2.0: 0, 3.0: 0}.keys()", "gave a dict_keys"),
    "no end": ("__import__('itertools').repeat(1.0)", "gave more than 3 numbers for 3 responses"),
    "too few": ("[1.0]", "gave 1 numbers for 3 responses"),
}  # fmt: skip
SETTINGS = """
import os, torch
def disturb():
    torch.set_grad_enabled(False); torch.set_default_dtype(torch.float64); torch.set_default_device("meta"); os.chdir("/")
"""


def scored(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...]) -> Any:
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return score_responses([Objective(name="it", better="b", reward=f"{name}:it")], items(*texts))["it"]


@pytest.mark.parametrize("case", RESULTS)
def test_what_has_no_order_or_no_end_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, words = RESULTS[case]
    source = f"def it(p, r):\n    return {value}\n"
    with pytest.raises(SipoError, match=words):
        scored(tmp_path, f"shapeless_{list(RESULTS).index(case)}", source, monkeypatch, ("a", "b", "c"))


def test_without_responses_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scored(tmp_path, "empty", "def it(p, r):\n    return [max(map(len, r))]\n", monkeypatch, ()) == []


@pytest.fixture
def put_back() -> Iterator[None]:
    folder = Path.cwd()
    yield
    os.chdir(folder)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize(
    "body",
    [
        "disturb()\ndef it(p, r):\n    return [1.0] * len(r)\n",
        "def it(p, r):\n    disturb()\n    return [1.0] * len(r)\n",
        "def it(p, r):\n    disturb()\n    yield from [1.0] * len(r)\n",
        "def it(p, r):\n    disturb()\n    raise ValueError\n",
        "disturb()\nraise ValueError\n",
    ],
)
@pytest.mark.usefixtures("put_back")
def test_what_a_function_sets_for_all_is_put_back(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path.cwd()
    try:
        assert scored(tmp_path, f"disturbing_{abs(hash(body))}", SETTINGS + body, monkeypatch, ("a", "b")) == [1, 1]
    except SipoError:
        assert "raise" in body
    assert Path.cwd() == before and torch.is_grad_enabled()
    assert torch.ones(1).dtype == torch.float32 and torch.ones(1).device.type == "cpu"
