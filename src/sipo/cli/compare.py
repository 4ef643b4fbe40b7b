"""`sipo compare`: methods of runs, or of anybody's JSON lines, compared over prompts and over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sipo.cli.forms import FORMS
from sipo.data._files import read_records
from sipo.data.chats import kind_of
from sipo.disk.copies import refreshed
from sipo.disk.damage import is_run
from sipo.errors import SipoError
from sipo.pareto.across import across
from sipo.records import LARGEST, Measured, Response, points_of, rewards_of
from sipo.report.measure import LABELS, REWARDS, Measure
from sipo.report.parts import shares
from sipo.weights import Weight, as_weight, is_near


@dataclass(frozen=True)
class Compared:
    """What is compared: the answers of every seed, and what their rewards mean."""

    maximise: Mapping[str, bool]
    """By objective, in order: is larger better?"""
    seeds: Mapping[str, Sequence[Measured]]
    reference: Mapping[str, float] | None = None
    measure: Measure = REWARDS
    remarks: Sequence[str] = ()
    """What must be known of the runs, in sentences."""


def compare(places: Sequence[Path], minimise: Sequence[str] = (), form: str = "text") -> None:
    """Print the comparison of runs, or of files; `minimise` names objectives of files of which smaller is better."""
    if form not in FORMS:
        raise SipoError(f"--format {form}: is none; they are {', '.join(FORMS)}")
    runs = [is_run(refreshed(place)) for place in places]
    if any(runs) and not all(runs):
        raise SipoError("give runs or files, not both; a run's answers are files, too: judged/METHOD/responses.jsonl")
    if all(runs) and minimise:
        raise SipoError("--minimise: runs say themselves which objectives are minimised; leave it out")
    found = of_runs(places) if all(runs) else of_files(places, minimise)
    FORMS[form](found.maximise, compared(found))


def of_runs(places: Sequence[Path]) -> Compared:
    """Runs of the same settings are seeds of each other; the methods of others are called by their run, too."""
    from sipo.runs.outputs import Outputs
    from sipo.runs.status import read_run, remarks_of, require

    configs = {place: read_run(place) for place in places}
    first = next(iter(configs.values()))
    settings = {}
    for place, config in configs.items():
        require(place, config, "compare")
        if [(o.name, o.direction) for o in config.objectives] != [(o.name, o.direction) for o in first.objectives]:
            raise SipoError(f"{place}: has other objectives than {places[0]}; compare runs of the same")
        if config.by_labels != first.by_labels:
            raise SipoError(
                f"{place}: one run is measured by rewards, the other by held-out labels; compare runs alike"
            )
        told = config.model_dump(mode="json", exclude={"seed", "run_dir", "execution", "report"})
        settings[place] = sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    several = len(set(settings.values())) > 1
    firsts = {key: next(place for place in places if settings[place] == key) for key in settings.values()}
    alike = len({place.resolve().name for place in firsts.values()}) < len(firsts)
    groups = {key: str(place) if alike else place.resolve().name for key, place in firsts.items()}
    seeds: dict[str, list[Measured]] = {}
    known = set()
    for place, config in configs.items():
        group, name = groups[settings[place]], str(config.seed)
        if (group, name) in known:
            raise SipoError(f"{place}: is another run of seed {name} with the same settings; leave one out")
        known.add((group, name))
        outputs = Outputs(place, config)
        for each in outputs.measured():
            seeds.setdefault(name, []).append(replace(each, method=f"{group}/{each.method}") if several else each)
    measure = LABELS if first.by_labels else REWARDS
    maximise = {o.name: o.maximise or first.by_labels for o in first.objectives}
    remarks = [f"{place}: {remark}" for place, config in configs.items() for remark in remarks_of(place, config)]
    return Compared(maximise, seeds, first.evaluate.reference_point, measure, remarks)


def of_files(places: Sequence[Path], minimise: Sequence[str]) -> Compared:
    """JSON lines or Parquet with `prompt` and `rewards`; `method` is the file's name where it is not there, `weights`
    are of a method that is steered, `seed` tells trainings apart.
    """
    seeds: dict[str, list[Response]] = {}
    names: tuple[str, ...] | None = None
    steered: dict[str, bool] = {}
    asked: dict[Weight, Weight] = {}
    for place in places:
        for at, record in read_records(place):
            try:
                seed, response = _parsed(record, place.stem, names, asked)
                if steered.setdefault(response.method, bool(response.weights)) is not bool(response.weights):
                    raise SipoError(_of_both_kinds(response))
            except SipoError as problem:
                raise SipoError(f"{place} {at}: {problem}") from None
            names = names or tuple(response.rewards)
            seeds.setdefault(seed, []).append(response)
    if names is None:
        raise SipoError(f"{places[0]}: holds no answers; each line needs prompt and rewards")
    unknown = [name for name in minimise if name not in names]
    if unknown:
        raise SipoError(f"--minimise: `{unknown[0]}` is no objective; they are {', '.join(names)}")
    return Compared({name: name not in minimise for name in names}, seeds)


def _of_both_kinds(response: Response) -> str:
    there, earlier = ("has", "none") if response.weights else ("has no", "some")
    return (
        f"{there} `weights`, and earlier lines of {response.method} have {earlier}; a method is either steered by "
        "weights, and every line of it has them, or no line has"
    )


def _parsed(
    record: Any, method: str, names: tuple[str, ...] | None, asked: dict[Weight, Weight]
) -> tuple[str, Response]:
    """The seed and the answer that a line holds. `asked` has the weights so far, as they were given, and of each the
    first that it is but for rounding; another is added.
    """
    if not isinstance(record, dict):
        form = 'write {"prompt": ..., "response": ..., "rewards": {"a": 0.5}}, one a line'
        raise SipoError(f"is {kind_of(record)}; {form}" + (" (`jq -c .[]` does)" * isinstance(record, list)))
    for column in ("prompt", "rewards"):
        if record.get(column) is None:
            raise SipoError(f"has no `{column}`; each line needs prompt and rewards")
    rewards, weights, draw = record["rewards"], record.get("weights"), record.get("draw", 0)
    if not isinstance(rewards, dict) or not rewards:
        raise SipoError(f'rewards is {kind_of(rewards)}; give a number for each objective, as {{"a": 0.5}}')
    names = names or tuple(rewards)
    if set(rewards) != set(names):
        raise SipoError(f"rewards are of {', '.join(rewards) or 'nothing'}, not of {', '.join(names)}")
    for name, value in rewards.items():
        if value is not None and not _is_number(value):
            raise SipoError(f"rewards: {name} is {value!r:.40}; give a finite number, or null where a judge refused")
    if weights is not None:
        if not isinstance(weights, dict):
            raise SipoError(f"weights is {kind_of(weights)}; give a share for each objective, or null")
        given = as_weight(weights, names, "weights")
        if given not in asked:
            asked[given] = next((each for each in dict.fromkeys(asked.values()) if is_near(each, given)), given)
        weight = asked[given]
        weights = dict(zip(names, weight, strict=True))
    if isinstance(draw, bool) or not isinstance(draw, int):
        raise SipoError(f"draw is {kind_of(draw)}; give a whole number, or leave it out")
    prompt = record["prompt"]
    key = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    seed, method = (
        str(default if record.get(column) is None else record[column])
        for column, default in (("seed", 0), ("method", method))
    )
    return seed, Response(method, weights, key, key, 0, str(record.get("response", "")), 0, True, rewards, draw)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def compared(found: Compared) -> dict[str, Any]:
    """In the form of `sipo.pareto.across`, with how many prompts were `left_out`, since not every point has them."""
    names = tuple(found.maximise)
    weights = _weights(found, names)
    seeds, prompts, left_out = [], [], 0
    for seed, responses in found.seeds.items():
        points = points_of(responses, names, weights)
        for method, mine in points.items():
            lacking = [weight for weight, part in zip(weights, mine, strict=False) if not part]
            if lacking:
                at = shares(dict(zip(names, lacking[0], strict=True)))
                raise SipoError(f"{method}: seed {seed} has no answers at {at}, where other methods have")
        common = set.intersection(*({each.prompt for each in part} for mine in points.values() for part in mine))
        refused = {each.prompt for each in responses if None in each.rewards.values() and found.measure is REWARDS}
        kept = common - refused
        left_out += len({each.prompt for each in responses}) - len(kept)
        if not kept:
            raise SipoError(f"seed {seed}: no prompt is answered by {', '.join(points)} at all of their weights")
        prompts.append(sorted(kept))
        seeds.append({
            method: rewards_of([[each for each in part if each.prompt in kept] for part in mine], names)
            for method, mine in points.items()
        })  # fmt: skip
    for seed, each in zip(found.seeds, seeds, strict=True):
        if set(each) != set(seeds[0]):
            first = next(iter(found.seeds))
            method = min(set(seeds[0]) ^ set(each))
            has, lacks = (first, seed) if method in seeds[0] else (seed, first)
            raise SipoError(
                f"{method}: has answers of seed {has}, and none of seed {lacks}; methods are compared over the same "
                "seeds, and a line without `seed` is of seed 0"
            )
    unsteered = {each.method for part in found.seeds.values() for each in part if each.weights is None}
    ordered = [{method: each[method] for method in seeds[0]} for each in seeds]
    result = across(ordered, np.array(weights), found.maximise, found.reference, prompts=prompts, unsteered=unsteered)
    return {
        **found.measure.within_ends(result),
        "left_out": left_out,
        "measure": found.measure.name,
        "remarks": [*found.remarks],
    }


def _weights(found: Compared, names: tuple[str, ...]) -> list[tuple[float, ...]]:
    """Those that steered methods were asked at, or even shares where there is none."""
    known = {
        tuple(each.weights[name] for name in names) for part in found.seeds.values() for each in part if each.weights
    }
    return sorted(known, reverse=True) or [(1 / len(names),) * len(names)]
