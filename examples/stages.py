"""The stages of SIPO called one by one: every stage is a function of its inputs and a folder."""

from pathlib import Path

from sipo import Task, base_model, load_config, mod, sipo, soups
from sipo.logprobs.table import LogprobTable
from sipo.stages import align, answer_prompts, compare, filter, judge, realign, refine, sample, score

task = Task(load_config("configs/quickstart.yaml"))
out = Path("runs/by-hand")

policies = align(task, out / "align")
samples = sample(task, policies, out / "sample")
refinements = refine(task, policies, samples, out / "refine")
known = LogprobTable().read(out / "align/logprobs.parquet").read(out / "refine/logprobs.parquet")
known = score(task, policies, samples, known, out / "score", refinements=refinements)
candidates = filter(task, samples, known, out / "filter", refinements=refinements)
rates = dict.fromkeys(task.objectives, 8e-4)  # of those that `realign.lr: auto` tries in a run
realigned = realign(task, policies, candidates, known, out / "realign", rates=rates)
methods = [base_model(policies), soups(policies), mod(policies), sipo(realigned)]
answers = answer_prompts(task, methods, out / "answers")
fronts = compare(task, judge(task, answers, out / "judged"), out / "compare")

for name, front in fronts["methods"].items():
    print(f"{name:6} utility {front['utility']:.2f}, 95 % interval {front['utility_interval']}")
