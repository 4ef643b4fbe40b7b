"""The command line, end to end on a tiny model: what a person types in the first ten minutes, in order."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sipo import __version__
from sipo.cli.arguments import parse_weights
from sipo.cli.main import main
from sipo.config.file import load_config
from sipo.data import conflict_statistics, read_rows
from sipo.errors import SipoError
from sipo.runs.pipeline import run as run_stages

METHODS = ["base", "soups", "mod", "sipo"]
STAGES = [
    *("align", "sample", "refine", "score", "filter", "realign"),
    *(f"answers/{name}" for name in METHODS),
    *(f"judged/{name}" for name in METHODS),
    *("compare", "report"),
]
WEIGHTS = "detail=0.25,brevity=0.75"
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Finished:
    config: Path
    run: Path


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run from the command line, once for all tests here."""
    folder = tmp_path_factory.mktemp("cli")
    settings = make_settings(folder)
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert main(["run", str(config), "--run-dir", str(folder / "out")]) == 0
    return Finished(config, folder / "out")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return CONTROL.sub("", captured.out)


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_init_then_check(
    rows_file: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "new" / "run.yaml"
    assert main(["init", str(config), "--data", str(rows_file)]) == 0
    assert "sipo check" in said(capsys)
    assert "# JSON lines or Parquet" in config.read_text()
    assert load_config(config).names == ("detail", "brevity", "tone")
    assert load_config(config).data.path == rows_file
    before = sorted(tmp_path.rglob("*"))
    options = ["--set", f"model.path={model_folder}", "--set", "data.max_response_tokens=3", "--set", "data.test=0.3"]
    assert main(["check", str(config), *options]) == 2
    assert "the `better` of `detail` is still what `sipo init` wrote" in capsys.readouterr().err
    config.write_text(config.read_text().replace("Say here in one sentence", "This is"))
    assert main(["check", str(config), *options]) == 0
    text = said(capsys)
    assert "measured   by held-out labels, for all objectives, since detail, brevity and tone have no reward" in text
    rows = {row[0]: row for row in table(text) if row}
    statistics = conflict_statistics(read_rows(rows_file))
    assert rows["total"][1:5] == [
        "40",
        "40",
        str(round(40 * statistics.conflict_ratio)),
        f"{statistics.conflict_ratio:.1%}",
    ]
    assert rows["prompts"][-2] == "256"
    assert rows["responses"][-3:] != ["0", "of", "80"]
    assert re.search(r"^\[.+<\|im_end\|>\]$", text, re.MULTILINE)  # a whole response, its end trained on
    assert "The answer can be improved by:" in text
    assert int(rows["align"][1]) > 0
    assert int(rows["answers/sipo"][2]) > 0 and int(rows["ranked/sipo"][3]) > 0
    assert sorted(tmp_path.rglob("*")) == before  # no run folder, nothing


def test_the_template_alone_passes_once_it_has_rows_and_a_model(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    records = [
        {"prompt": f"why {i}", "response_0": "so", "response_1": f"so {i}", "preferred": {"detail": 1, "plain": 0}}
        for i in range(100)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["check", "run.yaml", "--set", f"model.path={model_folder}"]) == 0


def test_a_run_says_where_everything_is(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(finished.config), "--run-dir", str(finished.run)]) == 0
    text = said(capsys)
    assert [line for line in text.splitlines() if line.endswith(": holds")] == [f"{stage}: holds" for stage in STAGES]
    for place in ("report.html", "fronts.json", "sipo generate", "sipo export", "cpu in float32", "detail (maximize)"):
        assert place in text


def test_status_tells_stages_and_measures(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished.run)]) == 0
    rows = {row[0]: row for row in table(said(capsys)) if row}
    assert [rows[stage][1] for stage in STAGES] == ["done"] * len(STAGES)
    fronts = json.loads((finished.run / "compare" / "fronts.json").read_text())
    for name, front in fronts["methods"].items():
        assert float(rows[name][1]) == pytest.approx(front["utility"], abs=1e-3)
        assert float(rows[name][4]) == pytest.approx(front["hypervolume_corrected"], abs=1e-3)


def test_status_of_a_run_that_was_stopped_and_changed(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = {**make_settings(tmp_path), "sample": {"prompts": 3}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(sys.modules["sipo.stages.refine"], "refine", stop_after_two_units)
    assert main(["run", str(config)]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    assert main(["status", settings["run_dir"]]) == 0
    rows = {row[0]: row for row in table(said(capsys)) if row}
    assert rows["sample"][1] == "done"
    assert rows["refine"][1:] == ["partial", "-", "review", "2"]
    assert rows["filter"][1] == "absent"
    assert main(["run", str(config), "--set", "align.beta=0.3", "--only", "sample"]) == 2  # its policies do not hold
    assert main(["status", settings["run_dir"]]) == 0
    assert {row[0]: row for row in table(said(capsys)) if row}["sample"][1] == "done", "a refusal changes nothing"
    monkeypatch.setattr(sys.modules["sipo.stages.align"], "align", stop_after_two_units)
    assert main(["run", str(config), "--set", "align.beta=0.3"]) == 130
    capsys.readouterr()
    assert main(["status", settings["run_dir"]]) == 0
    rows = {row[0]: row for row in table(said(capsys)) if row}
    assert [rows[stage][1] for stage in STAGES[:3]] == ["partial", "stale", "partial"]


def stop_after_two_units(folder: Path, **_: Any) -> None:
    (folder / ".journal").mkdir()
    (folder / ".journal" / "review.jsonl").write_text("[]\n[]\n")
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["sipo", "mod", "soups", "base"])
def test_generate_answers(finished: Finished, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights = [] if method == "base" else ["--weights", WEIGHTS]
    asked = ["generate", str(finished.run), *weights, "--prompt", "how do I water", "--method", method]
    assert main([*asked, "--temperature", "0.7", "--max-tokens", "9"]) == 0
    first = capsys.readouterr().out
    assert first.strip()
    assert main([*asked, "--temperature", "0.7", "--max-tokens", "9"]) == 0
    assert capsys.readouterr().out == first


def test_export_writes_an_adapter_and_refuses_to_overwrite(
    finished: Finished, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "soup"
    command = ["export", str(finished.run), "--weights", WEIGHTS, "--to", str(target)]
    assert main(command) == 0
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), target)
    card = (target / "README.md").read_text()
    assert "| sipo | detail 0.5, brevity 0.5 |" in card or "| sipo | detail 0, brevity 1 |" in card
    assert "`sipo-soups`, which the run did not measure itself" in card
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    before = card, (target / "README.md").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert ((target / "README.md").read_text(), (target / "README.md").stat().st_mtime_ns) == before
    assert main([*command[:-1], str(tmp_path / "merged"), "--merged", "--method", "soups"]) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_inspect_gives_the_keys_that_programs_read(rows_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(rows_file), "--json", "--examples", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 40
    assert found["objectives"] == ["detail", "brevity", "tone"]
    assert found["ties"] == {"detail": 0, "brevity": 0, "tone": 8}
    assert 0 < found["conflict_ratio"] < 1
    assert found["pairwise"]["detail"]["brevity"] == 0.5
    assert len(found["examples"]) == 2
    assert main(["data", "inspect", str(rows_file)]) == 0
    assert "conflict ratio" in said(capsys)


def test_doctor_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = said(capsys)
    for fact in ("python", "transformers", "device", "dtype", "cores", "memory", "HF_HUB_OFFLINE", "vllm"):
        assert fact in text


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sipo {__version__}\n"
    for argv in ([], ["--help"], ["data"], ["run", "--help"]):
        assert main(argv) == 0
        assert "Usage: sipo" in capsys.readouterr().out


def test_help_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lists of commands have whole sentences, and no line is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    seen, left = 0, [list[str]()]
    while left:
        words = left.pop()
        assert main([*words, "--help"]) == 0
        text = capsys.readouterr().out.partition("\n")[2]
        listed = text.partition("Commands:\n")[2].splitlines()
        left += [[*words, line.split()[0]] for line in listed]
        assert not [line for line in text.splitlines() if len(line) > 80 or re.match(r"  \w+  .*\.\.\.$", line)], words
        seen += 1
    assert seen > 25


def test_an_interrupt_of_what_cannot_go_on_promises_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sipo.cli.doctor.show_doctor", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_heavy_verbs_say_nothing_but_our_own_lines(finished: Finished, tmp_path: Path) -> None:
    command = ["export", str(finished.run), "--weights", WEIGHTS, "--to", str(tmp_path / "merged"), "--merged"]
    done = subprocess.run([sys.executable, "-m", "sipo", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [f"{tmp_path / 'merged'}:", "serve"]


def test_the_same_in_python(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(finished.run / "config.yaml", [f"run_dir={finished.run}"])
    assert run_stages(config, quiet=True) == finished.run
    assert capsys.readouterr().out == ""


def test_a_method_that_is_steered_wants_weights(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(finished.run), "--prompt", "a", "--method", "soups"]) == 2
    assert "--weights is missing; give a share for each objective, such as --weights" in capsys.readouterr().err


def test_weights_are_parsed() -> None:
    assert parse_weights("a=0.3, b=.7") == {"a": 0.3, "b": 0.7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "`a` is not of the form name=value"),
        ("a=0.3,", "`` is not of the form name=value"),
        ("a=much", "a=much is no number"),
        ("a=0.5,a=0.5", "`a` is given twice"),
    ],
)
def test_weights_that_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(SipoError, match="--weights") as caught:
        parse_weights(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "verb"),
    [
        (["data", "label", "--nonsense"], "data label "),
        (["data", "prepare"], "data prepare "),
        (["data", "nonsense"], "data "),
        (["reward", "train", "--nonsense"], "reward train "),
        (["check"], "check "),
        (["nonsense"], ""),
        (["check", "run.yaml", "--gpu", "large"], "check "),
    ],
)
def test_the_hint_names_the_command_that_was_given(
    argv: list[str], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.endswith(f"; `sipo {verb}--help` shows how\n")


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--temperature=nan", "`temperature` is nan; write a finite number"),
        ("--temperature=1e-9", "`temperature`: 1e-09 is too near 0"),
        ("--top-p=2", "`top_p` is 2.0; write a number of at most 1"),
        ("--top-k=-1", "`top_k` is -1; write a number of at least 0"),
    ],
)
def test_a_way_to_draw_that_there_is_not(
    option: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--prompts", "p", "--model", "m", "--objective", "a=m:f", "--to", str(tmp_path / "rows.jsonl"), option]
    assert main(["data", "label", *given]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("lr", ["inf", "nan", "0", "-1"])
def test_a_learning_rate_of_a_reward_model_is_finite(
    lr: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(tmp_path / "d"), "--model", "m", "--to", str(tmp_path / "x"), f"--lr={lr}"]
    assert main(["reward", "train", *given]) == 2
    assert "--lr" in (line := capsys.readouterr().err) and "above 0" in line


def test_programs_read_status_check_and_doctor(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*argv: str) -> dict[str, Any]:
        assert main([*argv, "--json"]) == 0
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 1 and not captured.err
        return json.loads(captured.out)

    status = told("status", str(finished.run))
    assert (status["done"], status["next"]) == (True, None)
    assert [stage["name"] for stage in status["stages"]] == STAGES
    assert all(stage["state"] == "done" and stage["took"]["seconds"] >= 0 for stage in status["stages"])
    found = told("check", str(finished.config), "--gpu", "1", "--tokens-per-second", "100")
    assert sum(found["rows"].values()) == 40 and found["absent"]["judges"] == []
    assert found["well"] == (not found["remarks"])
    planned = [stage["stage"] for stage in found["plan"]]
    assert {"align", "realign", "answers/sipo"} <= set(planned) and planned == [
        name for name in STAGES if name in planned
    ]
    assert all(stage["fits"] for stage in found["plan"]), found["plan"]
    aligned = found["plan"][0]
    assert aligned["tokens"] > 0 and aligned["optimizer_steps"] > 0 and aligned["hours"] > 0 and aligned["peak_gib"] > 0
    assert shlex.split(found["next"])[1:] == ["run", str(finished.config)]
    assert told("doctor")["sipo"] == __version__
