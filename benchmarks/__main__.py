"""The command: python -m benchmarks [WORK ...]"""

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import transformers

from benchmarks.bench import Bench
from benchmarks.endpoints import leaving_nothing
from benchmarks.hardware import inspect
from benchmarks.model import SHAPES, load
from benchmarks.records import Record, show, write
from benchmarks.settings import QUICK, Settings
from benchmarks.works import NOT_QUICK, WORKS
from sipo.errors import SipoError
from sipo.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything compared came out equal, 1 where something did not, 2 for bad input."""
    parsed = _parser().parse_args(arguments)
    chosen = {key: value for key, value in vars(parsed).items() if value is not None and key not in ("works", "out")}
    progress = Progress()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    try:
        works = _works(parsed.works, parsed.quick)
        records = measure(works, Settings(**{**(QUICK if parsed.quick else {}), **chosen}), progress, parsed.out)
    except SipoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(records, progress)
    progress.say(
        "ratio: ours over `plain` (smaller is better); elsewhere the alternative over ours (larger is better)."
    )
    progress.say(f"Floors: the share reached. growth: exponents. All of it: {parsed.out}")
    unequal = [f"{record.work} {record.alternative}" for record in records if record.equal is False]
    if unequal:
        print(f"NOT EQUAL: {', '.join(unequal)}", file=sys.stderr)
    return 1 if unequal else 0


def measure(works: Sequence[str], settings: Settings, progress: Progress, out: Path) -> list[Record]:
    """The records of these works, written to `out` as they come."""
    backbone = load(settings)
    hardware = inspect(backbone.device, backbone.model.dtype, small=settings.random_weights == "tiny")
    progress.say(f"{backbone.source} on {hardware.device}, {hardware.dtype}, {hardware.threads} threads")
    progress.say(
        f"ceilings: copy {hardware.copy_bytes_per_second / 1e9:.1f} GB/s, "
        f"matmul {hardware.matmul_flops / 1e12:.3f} TFLOP/s"
    )
    bench, records = Bench(settings, backbone, hardware), []
    gc.freeze()  # what imports made is garbage to nobody; else every collection, TRL's own too, walks through it
    for work in works:
        began = time.perf_counter()
        records += WORKS[work](bench)
        write(records, out)
        progress.say(f"{work}: {time.perf_counter() - began:.0f} s")
    return records


def _works(asked: Sequence[str], quick: bool) -> list[str]:
    for name in asked:
        if name not in WORKS:
            raise SipoError(f"no work `{name}`; they are {', '.join(WORKS)}")
    return list(asked) or [name for name in WORKS if not (quick and name in NOT_QUICK)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default all: {', '.join(WORKS)}")
    parser.add_argument("--model", help="as model.path of a configuration")
    parser.add_argument("--random-weights", choices=list(SHAPES), help="a shape in place of a model")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--n", type=_positive, help="objectives")
    parser.add_argument("--rank", type=_positive, help="of each adapter")
    parser.add_argument("--batch", type=_positive, help="prompts")
    parser.add_argument("--prompt-tokens", type=_positive)
    parser.add_argument("--new-tokens", type=_positive)
    parser.add_argument("--repeats", type=_positive, help="timed rounds, behind one that warms up")
    parser.add_argument("--seconds", type=float, help="begin no further round after so many")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, without " + ", ".join(NOT_QUICK))
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(leaving_nothing(main))
