"""Methods over several seeds of training: what the seeds leave to chance, and what the prompts that they share do.

Letters name axes: M weights, P prompts, N objectives, S seeds.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sipo.pareto.bootstrap import Array, filled
from sipo.pareto.compare import compare, pairs
from sipo.pareto.indicators import mean_utility, reference_below
from sipo.pareto.seeds import over_seeds_and_prompts, t_interval
from sipo.pareto.verdicts import decide, holm, mean_difference, moving

Rewards = Mapping[str, Array]
"""By method, [M, P, N]; NaN where nothing is known of a prompt."""


def across(
    seeds: Sequence[Rewards],
    weights_M_N: Array,
    maximise: Mapping[str, bool],
    reference: Mapping[str, float] | None = None,
    *,
    prompts: Sequence[Sequence[str]] | None = None,
    unsteered: Collection[str] = (),
    times: int = 2000,
) -> dict[str, Any]:
    """The methods compared over seeds, in the form of `sipo.pareto.compare`, which is what one seed gets.

    `prompts` names those of every seed, in order; without it no seed shares a prompt with another. Of several seeds
    every mean has Student's t interval over them, and differences are paired seed by seed, tested with Holm's
    correction over all pairs. The error of a difference in utility holds what seeds and prompts leave to it
    (`sipo.pareto.seeds.over_seeds_and_prompts`): seeds that share their prompts share the prompts' luck. It also has
    `over_prompts`, the standard error that the prompts leave to it within a seed, and `over_seeds`, its standard
    deviation from seed to seed (None for one seed): where the first is as large as the second, more prompts help, else
    only more seeds do.
    """
    names, larger = list(maximise), list(maximise.values())
    raw, seeds = seeds, [{name: filled(each) for name, each in methods.items()} for methods in seeds]
    if reference is None:
        points = [each.mean(axis=1) for methods in seeds for each in methods.values()]
        reference = dict(zip(names, reference_below(np.concatenate(points), larger).tolist(), strict=True))
    alone = [compare(each, weights_M_N, maximise, reference, unsteered=unsteered, times=times) for each in raw]
    errors = {
        f"{a} - {b}": [_prompt_error(each[a], each[b], weights_M_N, larger) for each in seeds]
        for a, b in pairs(list(seeds[0]))
    }
    found = alone[0] if len(seeds) == 1 else _over_seeds(raw, seeds, prompts, alone, weights_M_N, maximise)
    for name, difference in found["differences"].items():
        difference["over_prompts"] = float(np.sqrt(np.mean(np.square(errors[name]))))
        difference.setdefault("over_seeds", None)
    return {**found, "reference_point": dict(reference), "seeds": len(seeds)}


def _prompt_error(a_M_P_N: Array, b_M_P_N: Array, weights_M_N: Array, maximise: Sequence[bool]) -> float:
    a_P, b_P = (_utilities(each, weights_M_N, maximise) for each in (a_M_P_N, b_M_P_N))
    return mean_difference(a_P - b_P, float(np.abs([a_P, b_P]).max())).error


def _utilities(rewards_M_P_N: Array, weights_M_N: Array, maximise: Sequence[bool]) -> Array:
    """[P]: mean utility of each prompt."""
    return mean_utility(rewards_M_P_N.swapaxes(0, 1), weights_M_N, maximise)


def _over_seeds(
    raw: Sequence[Rewards],
    seeds: Sequence[Rewards],
    prompts: Sequence[Sequence[str]] | None,
    alone: Sequence[dict[str, Any]],
    weights_M_N: Array,
    maximise: Mapping[str, bool],
) -> dict[str, Any]:
    methods = {name: _method([each["methods"][name] for each in alone]) for name in seeds[0]}
    paired = {f"{a} - {b}": (a, b) for a, b in pairs(list(methods))}
    larger = list(maximise.values())
    utilities = {name: [_utilities(each[name], weights_M_N, larger) for each in seeds] for name in methods}
    largest = max(float(np.abs(each).max()) for mine in utilities.values() for each in mine)
    apart = {
        name: [of_a - of_b for of_a, of_b in zip(utilities[a], utilities[b], strict=True)]
        for name, (a, b) in paired.items()
    }
    tests = {name: over_seeds_and_prompts(each, prompts, largest) for name, each in apart.items()}
    number = _known(raw, prompts)
    adjusted = dict(zip(paired, holm([each.p for each in tests.values()]), strict=True))
    fronts_M_S_N = {name: np.stack([each[name].mean(axis=1) for each in seeds], axis=1) for name in methods}
    differences = {}
    for name, (a, b) in paired.items():
        hypervolume, *ends = t_interval([each["differences"][name]["hypervolume_corrected"] for each in alone])
        moved = moving(fronts_M_S_N[a], fronts_M_S_N[b], weights_M_N)
        still = [each for each, moves in zip(maximise, moved, strict=True) if not moves]
        said, because = decide(
            tests[name], adjusted[name], (ends[0], ends[1]), still, prompts=number, family=len(paired)
        )
        differences[name] = {
            "utility": tests[name].value,
            "utility_interval": tests[name].interval(),
            "p": adjusted[name],
            "detectable": tests[name].detectable(len(paired)),
            "hypervolume_corrected": hypervolume,
            "hypervolume_interval": tuple(ends),
            **_sampled([each["differences"][name] for each in alone]),
            "still": still,
            "is": said,
            "because": because,
            "over_seeds": float(np.std([each.mean() for each in apart[name]], ddof=1)),
        }
    return {"methods": methods, "differences": differences, "prompts": min(each["prompts"] for each in alone)}


def _known(seeds: Sequence[Rewards], prompts: Sequence[Sequence[str]] | None) -> int:
    """How many different prompts are known at all points, of the objective that lacks most."""
    by_seed = [np.logical_and.reduce([(~np.isnan(each)).all(axis=0) for each in methods.values()]) for methods in seeds]
    known_K_N = np.concatenate(by_seed)
    keys_K = np.array([key for each in prompts for key in each]) if prompts is not None else np.arange(len(known_K_N))
    return min(len(np.unique(keys_K[known_K])) for known_K in known_K_N.T)


def _method(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one method: means over its seeds, with t intervals."""
    found: dict[str, Any] = {}
    for key, interval in (("utility", "utility_interval"), ("hypervolume_corrected", "hypervolume_interval")):
        found[key], *ends = t_interval([each[key] for each in seeds])
        found[interval] = tuple(ends)
    found |= _sampled(seeds)
    for key in ("control", "ranges"):
        found[key] = {name: _mean([each[key][name] for each in seeds]) for name in seeds[0][key]}
    found["points"] = [_point(points) for points in zip(*(each["points"] for each in seeds), strict=True)]
    return found


def _sampled(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The standard error of a mean of hypervolumes that are estimates: all are sampled by the same points, so it is no
    smaller than theirs. Seeds tell the interval, which holds it.
    """
    key = "hypervolume_error"
    return {key: float(np.mean([each[key] for each in seeds]))} if key in seeds[0] else {}


def _point(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    over = {name: t_interval([each["rewards"][name] for each in seeds]) for name in seeds[0]["rewards"]}
    rewards = {name: mean for name, (mean, *_) in over.items()}
    intervals = {name: ends for name, (_, *ends) in over.items()}
    return {"weights": seeds[0]["weights"], "rewards": rewards, "interval": intervals}


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a seed has none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
