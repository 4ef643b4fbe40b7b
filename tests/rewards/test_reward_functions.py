"""Functions of users: what they return is numbers in order or one line, and what they set for all is theirs alone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from endpoint import items

from sipo.config.file import dump_config, load_config, parse_config
from sipo.errors import SipoError
from sipo.graph.key import setting
from sipo.rewards import score_responses
from sipo.rewards.objective import Objective

RESULTS = {
    "a text": ("'777'", "gave a str; return a list of numbers"), "bytes": ("b'777'", "gave a bytes"),
    "a mapping": ("{0: 1.0, 1: 2.0, 2: 3.0}", "gave a dict"), "counts": ("__import__('collections').Counter(r)", "gave a Counter"),
    "a set": ("{1.0, 2.0, 3.0}", "gave a set"), "a frozen set": ("frozenset([1.0, 2.0, 3.0])", "gave a frozenset"),
    "keys": ("{1.0: 0, 2.0: 0, 3.0: 0}.keys()", "gave a dict_keys"),
    "no end": ("__import__('itertools').repeat(1.0)", "gave more than 3 numbers for 3 responses"),
    "too few": ("[1.0]", "gave 1 number for 3 responses"),
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


JUDGE = """
from weighing import WEIGHT
def it(prompts, responses):
    from scales import STEP  # when it is called, too
    return [WEIGHT * STEP * len(each) for each in responses]
"""


def test_files_beside_configurations_are_found_from_anywhere_and_do_not_mix(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two configurations with a module of one name, which import modules of one name, in one process."""
    monkeypatch.chdir(tmp_path)
    before, found = list(sys.path), {}
    for weight, folder in enumerate((tmp_path / "one", tmp_path / "other"), 1):
        (folder / "judges").mkdir(parents=True)
        (folder / "myjudge.py").write_text(JUDGE)
        (folder / "weighing.py").write_text(f"WEIGHT = {weight}")
        (folder / "scales").mkdir()
        (folder / "scales" / "__init__.py").write_text("from scales.steps import STEP")
        (folder / "scales" / "steps.py").write_text(f"STEP = {10 * weight}")
        (folder / "judges" / "inner.py").write_text("def it(p, r): return [1.0] * len(r)")
        rewards = ["myjudge:it", "judges/inner.py:it"]
        changed = [{**each, "reward": reward} for each, reward in zip(settings["objectives"], rewards, strict=True)]
        (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "objectives": changed}))
        config = load_config(folder / "run.yaml")
        assert parse_config(yaml.safe_load(dump_config(config)), "its copy") == config, "so it is found in a run, too"
        found[weight] = config
    for weight in (1, 2, 1):
        scores = score_responses(found[weight].objectives, items("ab", "c"))
        assert scores == {"detail": [20 * weight**2, 10 * weight**2], "brevity": [1, 1]}
    assert sys.path == before and not {"weighing", "scales", "scales.steps", "myjudge"} & set(sys.modules)
    one, other = (setting(found[weight], "objectives.reward") for weight in (1, 2))
    assert one == other, "where it lies is no matter, what it holds is"


def test_a_file_that_is_not_there_and_a_module_of_another_folder_are_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])  # `python -m` has the working folder there
    (tmp_path / "elsewhere" / "herejudge.py").write_text("def it(p, r): return [1.0] * len(r)")
    for reward, message in (
        ("herejudge:it", "no module named `herejudge`; check the spelling, put the file beside the configuration"),
        ("missing.py:it", f"reward `{tmp_path}/missing.py:it`: there is no such file"),
    ):
        settings["objectives"][0]["reward"] = reward
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        with pytest.raises(SipoError, match=message):
            score_responses(load_config(tmp_path / "run.yaml").objectives, items("a"))
