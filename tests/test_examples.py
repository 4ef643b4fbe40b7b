"""The examples run as they stand, with the paths of a tiny model in place of the quickstart's."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.runs.pipeline import run

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES.parent


def test_the_stages_one_by_one(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.pop("run_dir")
    settings["realign"] = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())["realign"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    exec((EXAMPLES / "stages.py").read_text(), {})
    assert "sipo   utility" in capsys.readouterr().out


def test_a_soup(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings |= {"run_dir": "runs/quickstart", "methods": ["base", "soups"]}
    run(parse_config(settings, "quickstart"), only="align", quiet=True)
    exec((EXAMPLES / "soup.py").read_text().replace('"plain"', '"brevity"'), {})
    assert capsys.readouterr().out.strip()
    assert (tmp_path / "soup" / "adapter_config.json").is_file()


def test_the_quickstart_configuration_is_valid_and_its_data_conflict_about_half_the_time() -> None:
    from sipo import conflict_statistics, load_config, read_rows

    config = load_config(ROOT / "configs" / "quickstart.yaml")
    statistics = conflict_statistics(read_rows(config.data.path, config.names))
    assert statistics.prompts >= 250
    assert 0.4 < statistics.conflict_ratio < 0.6


def test_the_quickstart_is_measured_on_prompts_of_their_own_whatever_the_seed() -> None:
    from sipo import load_config, read_rows
    from sipo.data import split_rows
    from sipo.data.prompts import text_of

    config = load_config(ROOT / "configs" / "quickstart.yaml")
    rows = read_rows(config.data.path, config.names)
    named = [row.key for row in rows if row.split == "test"]
    drawn = [split_rows(rows, seed, config.data.validation, config.data.test) for seed in range(6)]
    assert len(named) > 2 * (config.evaluate.prompts or 0) and all(
        [row.key for row in each.test] == named for each in drawn
    )
    assert len({tuple(row.key for row in each.validation) for each in drawn}) == len(drawn)
    for each in drawn:
        assert len(each.train) >= (config.data.train_rows or 0) and len(each.validation) >= config.realign.trial_prompts
    lines = (ROOT / "examples" / "quickstart" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    asked = {each["prompt"]: each.get("split") for each in map(json.loads, lines)}
    assert all(asked[text_of(row.prompt)] == row.split for row in rows)


def made_up_row(i: int) -> dict[str, Any]:
    """In PKU-SafeRLHF's columns; every third row's labels conflict."""
    helpful = i % 2
    return {
        "prompt": f"How do I plant {i} beans?",
        "response_0": f"Put {i} beans in the ground and water them.",
        "response_1": f"I do not know about {i} beans.",
        "is_response_0_safe": i % 4 > 0,
        "is_response_1_safe": True,
        "better_response_id": helpful,
        "safer_response_id": 1 - helpful if i % 3 == 0 else helpful,
    }


def test_safe_small_from_rows_to_report(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What examples/safe-small/README.md says, on made-up rows and a tiny model."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(made_up_row(i)) + "\n" for i in range(60)))
    monkeypatch.setattr(sys, "argv", ["part.py", "rows.jsonl", "build/safe-small"])
    exec((EXAMPLES / "safe-small" / "part.py").read_text(), {})
    prompts = {
        name: {json.loads(line)["prompt"] for line in Path(f"build/safe-small/{name}.jsonl").read_text().splitlines()}
        for name in ("policies", "pairs/train", "pairs/test", "flags/train", "flags/test")
    }
    assert not prompts["policies"] & prompts["pairs/train"] and prompts["pairs/train"] == prompts["flags/train"]
    assert prompts["policies"] == prompts["pairs/test"] == prompts["flags/test"]
    assert len(prompts["policies"] | prompts["pairs/train"]) == 60

    prepare = ["data", "prepare", "build/safe-small/policies.jsonl", "--format", "pku-saferlhf"]
    assert main([*prepare, "--to", "build/safe-small/rows"]) == 0
    for name, data in (("harmless", "flags"), ("helpful", "pairs")):
        options = ["--objectives", name, "--model", str(model_folder), "--format", "pair", "--rank", "0"]
        to = f"build/safe-small/{name}"
        assert main(["reward", "train", "--data", f"build/safe-small/{data}", *options, "--to", to]) == 0

    settings = yaml.safe_load((ROOT / "configs" / "safe-small.yaml").read_text())
    settings["model"]["path"] = str(model_folder)
    settings["data"] |= {"max_response_tokens": 12}
    settings["refine"]["review_tokens"] = 8
    settings["weights"]["divisions"] = 2
    Path("configs").mkdir()
    Path("configs/safe-small.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", "configs/safe-small.yaml"]) == 0
    fronts = json.loads(Path("runs/safe-small/compare/fronts.json").read_text())
    assert set(fronts["methods"]) == {"base", "soups", "mod", "sipo"}
    assert "report.html" in capsys.readouterr().out
