"""`sipo doctor`: what this machine has, for oneself and for bug reports. It never fails."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sipo import __version__
from sipo.cli.threads import about_threads
from sipo.progress import say, say_json
from sipo.room import machine_memory

PACKAGES = (
    "torch", "transformers", "peft", "safetensors", "tokenizers", "gguf", "numpy", "pyarrow", "pydantic", "typer",
    "moocore", "matplotlib", "textstat", "vaderSentiment", "datasets", "trl", "httpx2",
)  # fmt: skip
ENGINES = ("vllm", "ray")


def show_doctor(*, as_json: bool = False) -> None:
    """Print versions, device and dtype, cores, memory, disk, caches and engines."""
    facts = {
        "sipo": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{name: _version(name) for name in PACKAGES},
        **{f"engine {name}": _version(name) for name in ENGINES},
        **_compute(),
        "cores": f"{_cores()} of {os.cpu_count()}",
        "memory": f"{machine_memory() / 2**30:.1f} GiB",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in {Path.cwd()}",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "not set"),
    }
    if as_json:
        return say_json(facts)
    for name, fact in facts.items():
        say(f"{name:<15} {fact}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _compute() -> dict[str, str]:
    try:
        import torch

        from sipo.models.load import pick_device, pick_dtype
        from sipo.places import cache_folder

        device = torch.device(pick_device())
        name = f" ({torch.cuda.get_device_name()})" if device.type == "cuda" else ""
        dtype = str(pick_dtype(device)).removeprefix("torch.")
        from sipo.runs.foresight import crowded

        threads = "; ".join(filter(None, (about_threads(count := torch.get_num_threads()), crowded(count))))
        return {"device": f"{device}{name}", "dtype": dtype, "threads": threads, "cache": str(cache_folder())}
    except Exception as error:  # a broken installation is what people call the doctor for
        return {"device": f"torch cannot be used ({type(error).__name__}: {error})"}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
