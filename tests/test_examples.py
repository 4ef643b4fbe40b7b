"""The examples run as they stand, with the paths of a tiny model in place of the quickstart's."""

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES.parent


def test_the_stages_one_by_one_and_then_a_soup(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.pop("run_dir")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    exec((EXAMPLES / "stages.py").read_text(), {})
    assert "sipo   hypervolume" in capsys.readouterr().out

    source = (EXAMPLES / "soup.py").read_text()
    source = source.replace("runs/quickstart", "runs/by-hand").replace('"plain"', '"brevity"')
    exec(source, {})
    assert (tmp_path / "soup" / "adapter_config.json").is_file()


def test_the_quickstart_configuration_is_valid_and_its_data_conflict_about_half_the_time() -> None:
    from sipo import conflict_statistics, load_config, read_rows

    config = load_config(ROOT / "configs" / "quickstart.yaml")
    statistics = conflict_statistics(read_rows(config.data.path, config.names))
    assert statistics.prompts >= 250
    assert 0.4 < statistics.conflict_ratio < 0.6
