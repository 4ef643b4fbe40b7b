"""The plan of a run as `sipo check` prints it."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from sipo.config import Config
from sipo.declare.memory import GIB, Peaks, refined
from sipo.declare.work import CHARACTERS, Lengths, Plan, Work
from sipo.estimate.absent import NOTHING, Absent, judge_of
from sipo.estimate.pace import Pace
from sipo.estimate.sizes import counted, planned
from sipo.graph.build import Graph
from sipo.message import Message
from sipo.models.footprint import SPARE, shape
from sipo.models.load import context_of, find_device, pick_dtype
from sipo.models.shapes import outline, shape_of
from sipo.prompts.template import PromptTemplate, load_template
from sipo.ranks import joined, share_of
from sipo.stages.refine import encode
from sipo.task import Task
from sipo.words import listed, quantity


def say_plan(task: Task, absent: Absent, gpu: float | None = None, pace: Pace | None = None) -> list[dict[str, Any]]:
    """`gpu` in GiB; with a `pace` the hours of every stage. Returns the numbers by stage."""
    config, say = task.config, task.progress.say
    dtype = _dtype(config, gpu)
    outlined = absent.model or config.model.quantise is not None
    model: Any = outline(_known(config), dtype) if outlined else task.backbone.model
    plan, longest = plan_of(task, absent)
    sizes = plan.sizes
    judges = [size for objective in config.objectives if (size := _judge_bytes(objective.reward))]
    of = shape(model, dtype, config.model.quantise)
    device = find_device(config.execution.device)
    memory, kind = (share_of(device), device.type) if gpu is None else (gpu * GIB, "cuda")
    mean = None if absent.rows or absent.model else task.row_tokens
    peaks = Peaks(config, longest, model, of, context_of(model.config), judges, memory, kind, mean)
    say(
        f"plan       {of.parameters / 1e6:,.6g} M parameters in {_kept(config, dtype)}, "
        f"{peaks.policy / 1e6:.3g} M {'a policy' if peaks.whole else 'an adapter'}, "
        f"{of.token_cache / 1024:.4g} KiB of keys and values a token"
    )
    say(
        f"rows       {sizes.train} train, {sizes.validation} validation, {sizes.test} test prompts, "
        f"{sizes.worked} for sipo: {sizes.said}"
    )
    if chosen := _at_once(peaks):
        say(f"at once    {chosen}")
    say()
    columns = ["stage", "steps", "texts", "scores", "M tokens", "peak GiB"]
    columns += [f"fits {gpu:g} GiB"] if gpu is not None else []
    columns += ["hours"] if pace else []
    rows, hours, told = [], 0.0, list[dict[str, Any]]()
    for stage in Graph(config):
        if stage.peak is None:
            continue
        each, peak = stage.work(plan), stage.peak(peaks) / GIB
        counts: list[Any] = [each.steps, each.written, each.scored]
        cells = [stage.name, *counts, f"{each.tokens / 1e6:.4g}", f"{peak:.3g}"]
        amounts = {"optimizer_steps": each.steps, "responses_written": each.written, "responses_scored": each.scored}
        told.append({"stage": stage.name, **amounts, "tokens": round(each.tokens), "peak_gib": peak})
        if gpu is not None:
            cells.append("yes" if peak <= (1 - SPARE) * gpu else "no")
            told[-1]["fits"] = cells[-1] == "yes"
        if pace:
            told[-1]["hours"] = pace.seconds(each) / 3600
            hours += told[-1]["hours"]
            cells.append(f"{told[-1]['hours']:.3g}")
        rows.append(cells)
    task.progress.table("work, at most: optimizer steps, texts written, scores of responses", columns, rows)
    if pace:
        say(f"{hours:.3g} hours {pace}, without the judges' own")
    for judge, count in requests(config, plan).items():
        say(f"{judge}: at most {count:,} requests, less what it was asked before")
    if gpu is not None:
        say(f"fits: at most {1 - SPARE:.0%} of {gpu:g} GiB, by the formulas of docs/paper.md")
        if large := dict.fromkeys(each["stage"].partition("/")[0] for each in told if not each["fits"]):
            say(f"does not fit: {listed(list(large))}; docs/gpu.md tells which keys lower a peak")
    return told


def _at_once(peaks: Peaks) -> str:
    """What `auto` of `execution` chose, for texts as long as they may be; empty where nothing is auto."""
    config, execution, asked, chosen = peaks.config, peaks.config.execution, list[str](), list[str]()
    if execution.decode_rows == "auto":
        shapes = [(peaks.lengths.prompt, peaks.longest), *(refined(peaks) if "refine" in Graph(config) else ())]
        rows = sorted({peaks.decode_rows(*each) for each in shapes})
        several = f"{rows[0]} to {rows[-1]} rows" if len(rows) > 1 else quantity(rows[0], "row")
        by_vllm = "vllm" in execution.engines
        asked.append("as many rows decoded as vLLM takes" if by_vllm else f"{several} decoded")
    if execution.score_tokens == "auto":
        asked.append(f"{peaks.score_tokens(peaks.lengths.prompt + peaks.longest):,} tokens scored")
    if asked:
        where = ""
        if execution.engine == "pool":
            where = f" in each of {quantity(execution.workers, 'worker')}"
        if execution.engine == "ray":
            fewer = "taken to be on this machine; one with less memory free decodes fewer rows"
            where = f" in each of {quantity(execution.ray.actors, 'actor')} of Ray ({fewer})"
        chosen.append(f"{listed(asked)}{where}")
    if "auto" in (execution.train_tokens, execution.train_together):
        together = peaks.together(peaks.n, config.align)
        tokens = f"{peaks.train_tokens(together):,} tokens trained"
        chosen.append(f"{tokens} by {quantity(together, 'policy', 'policies')} in the same steps")
    ranks = joined()
    each = f" for each of {ranks.count} processes" if ranks else ""
    return f"{'; '.join(chosen)}; chosen by {peaks.memory / GIB:.3g} GiB ({peaks.device}){each}" if chosen else ""


def requests(config: Config, plan: Plan) -> dict[str, int]:
    """How often each judge is asked, at most, by its name: for one number of each response, or of both orders of each
    pair, for all objectives that share it.
    """
    amounts = sum((stage.work(plan) for stage in Graph(config)), Work())
    return {
        str(each.reward): 2 * amounts.compared if each.compares else amounts.judged
        for each in config.objectives
        if each.judged
    }


def plan_of(task: Task, absent: Absent = NOTHING) -> tuple[Plan, Lengths]:
    """What the work is reckoned with, and the longest lengths."""
    sizes = planned(task.config) if absent.rows else counted(task)
    means, longest = _lengths(task, absent)
    shares = absent.model or task.bank.routes.mixes
    return Plan(task.config, means, sizes, task.weights, shares), longest


def _lengths(task: Task, absent: Absent) -> tuple[Lengths, Lengths]:
    """The mean lengths that tokens are counted with, and the longest, which memory is."""
    config = task.config
    frames: list[float] = []
    if "refine" in Graph(config):
        paths = {"review": config.refine.review_template, "rewrite": config.refine.rewrite_template}
        frames = [_frame(task, load_template(path, name), absent) for name, path in paths.items()]
    limit = Lengths(config.data.max_prompt_tokens, config.data.max_response_tokens, *frames)
    if absent.rows or absent.model:
        return limit, limit
    lengths = task.lengths(row for part in vars(task.splits).values() for row in part)
    prompts, responses = lengths[:, 0], lengths[:, 1:3]
    means = Lengths(float(prompts.mean()), float(responses.mean()), *frames)
    return means, Lengths(int(prompts.max()), int(responses.max()), *frames)


def _frame(task: Task, template: PromptTemplate, absent: Absent) -> float:
    empty = {"response": "", "review": ""}
    chat = (Message("user", ""),)
    if absent.model:
        text = template.render(chat=chat, objectives=task.config.objectives, **empty)
        return sum(len(message.content) for message in text) / CHARACTERS
    return len(encode(task, template, 0, chat=chat, **empty))


def _dtype(config: Config, gpu: float | None) -> torch.dtype:
    if config.model.dtype != "auto":
        return getattr(torch, config.model.dtype)
    return torch.bfloat16 if gpu is not None else pick_dtype(find_device(config.execution.device))


def _kept(config: Config, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"{config.model.quantise}, the rest in {name}" if config.model.quantise else name


def _known(config: Config) -> Any:
    return shape_of(config.model.path, config.model.revision)


def _judge_bytes(reward: object) -> int:
    """Of a reward model's weights, where its shape is known."""
    judge = judge_of(reward)
    found = shape_of(judge.model, judge.revision) if judge else None
    if judge is None or found is None:
        return 0
    dtype = torch.bfloat16 if judge.dtype == "auto" else getattr(torch, judge.dtype)
    return shape(outline(found, dtype, AutoModelForSequenceClassification), dtype).weights
