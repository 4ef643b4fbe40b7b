"""The stages of SIPO called one by one: every stage is a function of its inputs and a folder."""

from pathlib import Path

from sipo import Task, base_model, load_config, mod, sipo, soups
from sipo.logprobs.table import LogprobTable
from sipo.stages import align, evaluate, filter, realign, refine, sample, score

task = Task(load_config("configs/quickstart.yaml"))
out = Path("runs/by-hand")

policies = align(task, out / "align")
samples = sample(task, policies, out / "sample")
refinements = refine(task, policies, samples, out / "refine")
known = LogprobTable().read(out / "align/logprobs.parquet").read(out / "refine/logprobs.parquet")
known = score(task, policies, samples, refinements, known, out / "score")
candidates = filter(task, samples, refinements, known, out / "filter")
realigned = realign(task, policies, candidates, known, out / "realign")
methods = [base_model(policies), soups(policies), mod(policies), sipo(realigned)]
fronts = evaluate(task, methods, out / "evaluate")

for name, front in fronts["methods"].items():
    print(f"{name:6} utility {front['utility']:.2f}, 95 % interval {front['utility_interval']}")
