"""How two threads that wait in loops fare beside busy ones: python -m benchmarks.threads [--repeats 3] [--busy 0 1 2].

Steps a second of a small transformer: forward and backward of 8 x 64 tokens, and a decoding step of 16 rows. Every
setting of OpenMP has a process of its own, and they take turns, so that other work on the machine meets all of them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

SETTINGS = (
    {},
    {"GOMP_SPINCOUNT": "10000"},
    {"GOMP_SPINCOUNT": "1000"},
    {"GOMP_SPINCOUNT": "100"},
    {"OMP_WAIT_POLICY": "passive"},
    {"OMP_NUM_THREADS": "1"},
)
LAYERS, WIDTH, WIDER, SECONDS = 6, 576, 1536, 2.0
LIMIT = 120.0
"""Seconds for one process; one that has not ended by then has no steps."""


def steps() -> dict[str, float]:
    """Steps a second in this process."""
    import torch
    from torch.nn import functional

    from sipo.models.load import pick_dtype

    dtype = pick_dtype(torch.device("cpu"))
    shapes = [(WIDTH, WIDTH)] * 4 + [(WIDER, WIDTH), (WIDTH, WIDER)]
    layers = [[torch.randn(shape, dtype=dtype) / WIDTH**0.5 for shape in shapes] for _ in range(LAYERS)]

    def through(x: Any) -> Any:
        for q, k, v, o, up, down in layers:
            heads = [functional.linear(x, each).unflatten(-1, (9, 64)).transpose(1, 2) for each in (q, k, v)]
            mixed = functional.scaled_dot_product_attention(*heads, is_causal=x.shape[1] > 1)
            x = functional.rms_norm(x + functional.linear(mixed.transpose(1, 2).flatten(2), o), (WIDTH,))
            x = x + functional.linear(functional.silu(functional.linear(x, up)), down)
        return x

    many, one = torch.randn(8, 64, WIDTH, dtype=dtype, requires_grad=True), torch.randn(16, 1, WIDTH, dtype=dtype)
    return {
        "training": per_second(lambda: through(many).float().square().mean().backward()),
        "decoding": per_second(lambda: through(one)),
    }


def per_second(step: Callable[[], object]) -> float:
    step()
    began, done = time.monotonic(), 0
    while (spent := time.monotonic() - began) < SECONDS:
        step()
        done += 1
    return done / spent


def beside(busy: int, setting: dict[str, str]) -> dict[str, float]:
    """Of a fresh process with the setting, beside so many that never rest."""
    ours = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, "-m", "benchmarks.threads", "--steps"]
        done = subprocess.run(command, env={**ours, **setting}, stdout=subprocess.PIPE, check=True, timeout=LIMIT)
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"training": 0.0, "decoding": 0.0}
    finally:
        for other in others:
            other.kill()
            other.wait()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.steps:
        print(json.dumps(steps()))
        return
    cells = [(busy, at) for busy in options.busy for at in range(len(SETTINGS))]
    found = {cell: [beside(cell[0], SETTINGS[cell[1]])] for cell in cells}
    for _ in range(options.repeats - 1):
        for cell in cells:
            found[cell].append(beside(cell[0], SETTINGS[cell[1]]))
    print("busy threads beside, setting, training steps a second, decoding steps a second: medians")
    for busy, at in cells:
        training, decoding = (median(each[kind] for each in found[busy, at]) for kind in ("training", "decoding"))
        setting = " ".join("=".join(pair) for pair in SETTINGS[at].items()) or "as torch comes"
        print(f"{busy}  {setting:<24} {training:6.1f} {decoding:6.1f}")


if __name__ == "__main__":
    main()
