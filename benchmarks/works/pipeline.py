"""All stages of a shrunken quickstart, against the sequential route on the same requests, stage by stage.

The sequential route is given what our stages asked (which texts, which scores, which trainings) and does it in its
own way, so both do equal work at equal settings.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.agreement import close, same_texts
from benchmarks.alternatives.replay import Replay, Replayer
from benchmarks.bench import Bench
from benchmarks.measure import Measured, timed
from benchmarks.recording import Learning, Recorder, Scores, Texts, recording
from benchmarks.records import OURS, Agreement, Record, time_record
from benchmarks.tasks import small_task
from benchmarks.works.dpo import same_curves
from sipo import base_model, mod, sipo, soups
from sipo.filters.contest import CHOSEN
from sipo.logprobs.table import LogprobTable
from sipo.records import Candidate
from sipo.stages import align, answer_prompts, compare, filter, judge, realign, refine, sample, score
from sipo.stages.filter import chosen_responses
from sipo.task import Task

ROWS, PROMPTS = 16, 8
"""Training rows; prompts that are sampled, and held-out ones."""
SMALL = {"evaluate": {"prompts": PROMPTS // 2, "bootstrap": 50}, "sample": {"prompts": PROMPTS}}


def run(bench: Bench) -> list[Record]:
    with recording() as recorder:
        stages = list(_ours(bench, recorder))  # also warms up
    replayer = Replayer(bench.backbone)
    replays = {stage: [replayer.of(asked) for asked in recorder.asked.get(stage, [])] for stage in stages}
    judged = {stage: _agreement(bench, replays[stage]) for stage in stages}
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(bench.settings.repeats):
        ours.append(_ours(bench, Recorder()))
        theirs.append({stage: _seconds(bench, replays[stage]) for stage in stages})
        budget = bench.settings.seconds
        if budget is not None and sum(sum(each.values()) for each in (*ours, *theirs)) > budget:
            break
    written = {stage: _tokens(replays[stage]) for stage in stages}
    records = [
        _record(bench, f"sequential:{stage}", [o[stage] for o in ours], [t[stage] for t in theirs], judged[stage],
                written[stage])
        for stage in stages
        if replays[stage]  # the filter and what follows the answers ask no model
    ]  # fmt: skip
    unequal = [stage for stage in stages if judged[stage].equal is False]
    whole = Agreement(not unequal, {"unequal_stages": unequal})
    totals = [[sum(each.values()) for each in rounds] for rounds in (ours, theirs)]
    breakdown = {
        stage: {OURS: median(each[stage] for each in ours), "alternative": median(each[stage] for each in theirs)}
        for stage in stages
    }
    return [
        *records,
        _record(bench, "sequential", totals[0], totals[1], whole, sum(written.values()), breakdown=breakdown),
    ]


def _ours(bench: Bench, recorder: Recorder) -> dict[str, float]:
    """Seconds of each stage."""
    seconds: dict[str, float] = {}
    with small_task(bench, ROWS, recorder.opened, **SMALL) as (task, folder):
        made: dict[str, Any] = {}
        for name, stage in _stages(task, folder, made):
            recorder.stage = name
            seconds[name] = timed(bench.model.device, lambda: made.update({name: stage()}))  # noqa: B023 runs at once
    return seconds


def _stages(task: Task, folder: Path, made: dict[str, Any]) -> list[tuple[str, Callable[[], Any]]]:
    def known() -> LogprobTable:
        return LogprobTable().read(folder / "align/logprobs.parquet").read(folder / "refine/logprobs.parquet")

    def scored() -> LogprobTable:
        return score(task, made["align"], made["sample"], known(), folder / "score", refinements=made["refine"])

    def chosen() -> list[Candidate]:
        return _at_least_one(filter(task, made["sample"], made["score"], folder / "filter", refinements=made["refine"]))

    def answered() -> Any:
        policies = made["align"]
        methods = [base_model(policies), soups(policies), mod(policies), sipo(made["realign"])]
        return answer_prompts(task, methods, folder / "answers")

    return [
        ("align", lambda: align(task, folder / "align")),
        ("sample", lambda: sample(task, made["align"], folder / "sample")),
        ("refine", lambda: refine(task, made["align"], made["sample"], folder / "refine")),
        ("score", scored),
        ("filter", chosen),
        ("realign", lambda: realign(task, made["align"], made["filter"], made["score"], folder / "realign")),
        ("answers", answered),
        ("judged", lambda: judge(task, made["answers"], folder / "judged")),
        ("compare", lambda: compare(task, made["judged"], folder / "compare")),
    ]


def _at_least_one(candidates: list[Candidate]) -> list[Candidate]:
    """The best of each row where the rule chose none at all (random weights): realigning is to be measured too."""
    if chosen_responses(candidates):
        return candidates
    best = {each.row: each for each in sorted(candidates, key=lambda each: each.mean_reward)}
    return [replace(each, fate=CHOSEN) if each is best[each.row] else each for each in candidates]


def _seconds(bench: Bench, replays: list[Replay]) -> float:
    total = 0.0
    for replay in replays:
        total += timed(bench.model.device, partial(replay.run, replay.prepare())) / replay.share
    return total


def _tokens(replays: list[Replay]) -> int:
    """What the stage writes, or else scores or trains on."""
    total = 0
    for replay in replays:
        match replay.asked:
            case Texts(answers=answers):
                total += sum(len(each.tokens) for each in answers)
            case Scores(requests=requests):
                total += sum(len(each.response) for each in requests)
            case Learning(examples=examples, recipe=recipe):
                total += recipe.settings.epochs * sum(example.group.tokens for example in examples)
    return total


def _agreement(bench: Bench, replays: list[Replay]) -> Agreement:
    """Of all that the stage asked; None where there is nothing that both routes compute alike."""
    judged = [_one_agreement(bench, replay) for replay in replays]
    known = [each.equal for each in judged if each.equal is not None]
    details = {str(at): each.detail for at, each in enumerate(judged)}
    return Agreement(all(known) if known else None, {"agreement": details})


def _one_agreement(bench: Bench, replay: Replay) -> Agreement:
    theirs = replay.run(replay.prepare())
    match replay.asked:
        case Texts(adapters=adapters, requests=requests, answers=answers):
            ours = [answers[place].tokens for place in replay.places]
            with bench.bank.mounted(adapters):
                asked = [requests[place] for place in replay.places]
                return same_texts(bench.bank, asked, ours, theirs, bench.exact)
        case Scores(requests=scored, values=values):
            mine = [values[place] for place in replay.places]
            lengths = [len(scored[place].response) for place in replay.places]
            return close(mine, [value for each in theirs for value in each], lengths, bench.exact)
        case Learning(loss=loss, losses=losses):
            if loss.alpha:  # TRL averages the NLL over a batch's tokens, the paper over each response's
                return Agreement(None, {"losses": "defined differently"})
            return same_curves([losses], theirs, bench.exact)


def _record(
    bench: Bench, name: str, ours: list[float], theirs: list[float], judged: Agreement, tokens: int, **told: Any
) -> Record:
    mine, other = Measured(None, None, ours), Measured(None, None, theirs)
    details = bench.told(rows=ROWS, sampled_prompts=PROMPTS, **told)
    return time_record("pipeline", name, mine, other, judged, tokens, details, bench.hardware.as_json())
