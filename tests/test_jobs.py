"""The jobs of examples/jobs, with stand-ins for a scheduler that run what they are given at once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import ROOT, blocks_of

from sipo.cli.main import main
from sipo.commands import sipo
from sipo.config.file import parse_config
from sipo.graph.build import Graph
from sipo.runs.status import stage_statuses

JOBS = ROOT / "examples" / "jobs"
SBATCH = """#!/usr/bin/env bash
# Runs the job, of an array all at the same time, and prints a number as `sbatch --parsable` does on a cluster of many.
set -euo pipefail
echo "sbatch $*" >>"$TOLD"
while [[ $1 == --* ]]; do
	[[ $1 == --array=* ]] && tasks=$(tr - " " <<<"${1#--array=}" | xargs seq)
	shift
done
number=$(wc -l <"$TOLD")
started=()
for task in ${tasks:-1}; do
	SLURM_ARRAY_TASK_ID=$task bash "$@" >"$TOLD.$number.$task" 2>&1 &
	started+=($!)
done
for each in "${started[@]}"; do wait "$each"; done
echo "$number;cluster"
"""
SRUN = '#!/usr/bin/env bash\nexec "$@"\n'
RECORDS = '#!/usr/bin/env bash\necho "$*" >>"$TOLD.srun"\n'


@pytest.fixture
def around(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls bash where sbatch, srun and sipo are those here; `sipo` told alone, where it is a stand-in."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def call(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        for name, text in {"sbatch": SBATCH, "srun": SRUN, **variables.pop("stand_ins", {})}.items():  # type: ignore[call-overload]
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), os.path.dirname(sys.executable), os.environ["PATH"]])
        told = {"TOLD": str(tmp_path / "told"), "PATH": path}
        return subprocess.run(
            ["bash", *map(str, words)],
            env={**os.environ, **told, **variables},
            capture_output=True, text=True, cwd=tmp_path, timeout=300,
        )  # fmt: skip

    return call


def test_a_run_is_submitted_as_a_chain_of_arrays(
    settings: dict[str, Any], tmp_path: Path, around: Callable[..., Any]
) -> None:
    """Each job waits for the one before, and an array has a job for each objective."""
    (tmp_path / "my run.yaml").write_text(yaml.safe_dump(settings))
    done = around(JOBS / "slurm.sh", "my run.yaml", "--gres=gpu:1", stand_ins={"srun": RECORDS})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"
    lines = (tmp_path / "told").read_text().splitlines()
    common = "sbatch --parsable --requeue --kill-on-invalid-dep=yes"
    assert [line.partition(f" {JOBS}/job.sbatch ")[0] for line in lines] == [
        f"{common} --array=0-1 --job-name=align --gres=gpu:1",
        f"{common} --dependency=afterok:1 --array=0-0 --job-name=filter --gres=gpu:1",
        f"{common} --dependency=afterok:2 --array=0-1 --job-name=realign --gres=gpu:1",
        f"{common} --dependency=afterok:3 --array=0-0 --job-name=report --gres=gpu:1",
    ]
    told = [line.partition("sipo ")[2] for line in (tmp_path / "told.srun").read_text().splitlines()]
    trained = [
        [f"run my run.yaml --only {stage} --objective {name}" for name in ("brevity", "detail")]
        for stage in ("align", "realign")
    ]
    assert sorted(told[:2]) == trained[0] and sorted(told[3:5]) == trained[1]
    assert told[2] == "run my run.yaml --until filter" and told[5:] == ["run my run.yaml"]


def test_a_configuration_that_is_none_is_a_line(tmp_path: Path, around: Callable[..., Any]) -> None:
    done = around(JOBS / "slurm.sh", "nowhere.yaml")
    assert done.returncode and not (tmp_path / "told").exists()
    assert done.stderr.startswith("error: nowhere.yaml") and done.stderr.count("\n") == 1


CHAINS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "fine-tuned": ({"sft": {}}, ["until sft", "each align", "until filter", "each realign"]),
    "rates tried": (
        {"realign": {"lr": "auto", "strengths": [0.5, 1]}},
        ["each align", "until filter", "each trials/realign/x0_5/policies", "each trials/realign/x1/policies"],
    ),
    "rounds": (
        {"rounds": 2},
        ["each align", "until filter", "each realign", "until round-2/filter", "each round-2/realign"],
    ),
    "no sipo": ({"methods": ["base", "mod", "lw"]}, ["each align"]),
    "all tried": (
        {"sft": {}, "methods": ["mod"], "align": {"lr": "auto", "strengths": [1, 2]}},
        ["until trials/align/reference", "each trials/align/x1/policies", "each trials/align/x2/policies"],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CHAINS.values(), ids=CHAINS)
def test_every_configuration_has_its_chain(
    settings: dict[str, Any], changes: dict[str, Any], expected: list[str]
) -> None:
    """What an array's jobs are made from is there before them, whatever the configuration asks for."""
    graph = Graph(parse_config({**settings, **changes}, "run.yaml"))
    jobs = list(graph.jobs())
    assert [" ".join(job) for job in jobs] == [*expected, f"rest {graph.names[-1]}"]
    made: list[str] = []
    for kind, name in jobs:
        if kind == "each":
            assert {each.name for each in graph.before(graph[name])} <= {*made}
        else:
            made = graph.names[: graph.names.index(name) + 1]
            assert made[-1] == name


def test_what_waits_for_one_job_trains_side_by_side(
    settings: dict[str, Any], tmp_path: Path, around: Callable[..., Any]
) -> None:
    """The policies of several strengths are one array; no name of a job has a slash, for its output goes into a file of
    that name.
    """
    settings["realign"] = {"lr": "auto", "strengths": [0.5, 1]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    done = around(JOBS / "slurm.sh", "run.yaml", stand_ins={"srun": RECORDS})
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    asked = [[word for word in line if word.startswith(("--array", "--job-name"))] for line in lines]
    assert asked == [
        ["--array=0-1", "--job-name=align"],
        ["--array=0-0", "--job-name=filter"],
        ["--array=0-3", "--job-name=trials-realign"],
        ["--array=0-0", "--job-name=report"],
    ]


def test_the_page_shows_the_jobs_of_a_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    shown = next(block.text for block in blocks_of(ROOT / "docs/scale.md") if "--until filter" in block.text)
    assert main(["check", "configs/safe-small.yaml", "--set", "methods=[mod,sipo]", "--jobs"]) == 0
    assert capsys.readouterr().out == shown.replace("sipo run", sipo("run")) + "\n"


@pytest.mark.slow
def test_the_chain_makes_the_run(settings: dict[str, Any], tmp_path: Path, around: Callable[..., Any]) -> None:
    settings["methods"] = ["base", "sipo"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    done = around(JOBS / "slurm.sh", "run.yaml")
    assert done.returncode == 0, done.stderr + "".join(each.read_text() for each in tmp_path.glob("told.*"))
    config = parse_config(settings, "run.yaml")
    assert {each.state for each in stage_statuses(config.run_dir, config)} == {"done"}
    last = (tmp_path / "told.4.0").read_text()
    assert "align: holds" in last and "realign" in last and "goes on with what was made of brevity, detail" in last


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("envs", "expected"),
    [
        ({}, "sipo run run.yaml --run-dir /runs/run"),
        ({"OPTIONS": "--until filter"}, "sipo run run.yaml --run-dir /runs/run --until filter"),
        (
            {"OPTIONS": "--only align --objective wit"},
            "sipo run run.yaml --run-dir /runs/run --only align --objective wit",
        ),
    ],
)
def test_a_job_of_skypilot_runs_what_it_is_told(
    tmp_path: Path, around: Callable[..., Any], envs: dict[str, str], expected: str
) -> None:
    job = yaml.safe_load((JOBS / "skypilot.yaml").read_text())
    (tmp_path / "run.sh").write_text(job["run"])
    recorded = {"stand_ins": {"sipo": '#!/usr/bin/env bash\necho "sipo $*"\n'}}
    done = around(tmp_path / "run.sh", **recorded, **{**job["envs"], **envs})
    assert done.stdout == f"{expected}\n", done.stderr


def test_what_the_jobs_say_to_sipo_is_an_option_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--only", "--objective", "--until", "--run-dir"))
