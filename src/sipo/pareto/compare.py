"""Methods compared by their fronts: indicators with intervals, and the difference of every two methods.

Mean utility decides what is called better, by paired t tests over the prompts with Holm's correction over all pairs.
Hypervolume comes second: noise lifts maxima, so a front whose points are equal in truth seems to cover more than one
point, and no number of prompts cures it. It is given with that lift taken off. All else has percentile bootstrap
intervals over the prompts, from the same resamples, so what two methods share of the prompts' luck cancels in their
difference. Ranges and the distances to the best known front are lifted too, and in resamples more so.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from sipo.pareto import control, indicators
from sipo.pareto.bootstrap import (
    Array,
    Resamples,
    corrected,
    filled,
    known_prompts,
    percentile_interval,
    resampled_means,
)
from sipo.pareto.hypervolume import hypervolumes, standard_error
from sipo.pareto.verdicts import decide, holm, mean_difference, moving, undecided

Fronts = Mapping[str, Array]
"""[T, M, N] by method: T versions of its front."""
MEASURES = ("utility", "hypervolume")
"""Compared pair by pair, and the first decides; for both, larger is better."""


def compare(
    rewards: Mapping[str, Array],
    weights_M_N: Array,
    maximise: Mapping[str, bool],
    reference: Mapping[str, float] | None = None,
    *,
    unsteered: Collection[str] = (),
    times: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """What `fronts.json` says of the methods.

    `rewards` holds each method's rewards, [M, P, N] at the M weights on the same P prompts; `unsteered` names the
    methods whose M points are draws of one model. Such a method may also have one point, [P, N], which serves every
    weight. NaN is what is not known, of the same prompts for all methods; `prompts` then are those that are known of
    the objective that lacks most. `maximise` names the N objectives in order and says whether larger is better. Without
    a stored `reference` point, hypervolume is measured from one just below the worst point.

    `hypervolume` is that of the points; `hypervolume_corrected` lacks what noise adds, and `hypervolume_interval` is
    around it. Beyond five objectives it is an estimate, whose standard error `hypervolume_error` counts in the interval
    (`sipo.pareto.hypervolume`). `additive_epsilon`, `igd_plus` and `spacing` are in units of `scale`, each objective's
    range over all points, and the first two are against the union of all fronts. `ranges`, the share of those of
    `start` that is `kept`, and `control` (Kendall's tau) say how the weights steer (`sipo.pareto.control`); None where
    none does.
    `differences` is "a - b" for every two methods, with what may be said of it (`sipo.pareto.verdicts`). `beyond` lists
    the points that are not better than a stored reference in some objective.
    """
    names, larger = list(maximise), list(maximise.values())
    stacked = {method: each if each.ndim == 3 else each[None] for method, each in rewards.items()}
    prompts = min(min(known_prompts(each)) for each in stacked.values())
    stacked = {method: filled(each) for method, each in stacked.items()}
    labels = [dict(zip(names, weight, strict=True)) for weight in weights_M_N.tolist()]
    weights_of = {
        method: labels if rewards[method].ndim == 3 and method not in unsteered else [None] * len(each)
        for method, each in stacked.items()
    }

    fronts = {method: each.mean(axis=1)[None] for method, each in stacked.items()}
    every = np.concatenate([front[0] for front in fronts.values()])
    corner = indicators.reference_below(every, larger) if reference is None else np.array([reference[n] for n in names])
    scale = indicators.unit_ranges(every)

    draws = Resamples(next(iter(stacked.values())).shape[1], times, seed)
    sampled_fronts = {method: resampled_means(each, draws) for method, each in stacked.items()}
    values, sampled = (front_indicators(each, weights_M_N, larger, corner, scale) for each in (fronts, sampled_fronts))
    covered = {method: hypervolumes(front, corner, larger)[0] for method, front in fronts.items()}
    dominated = dominated_shares({method: front[0] for method, front in fronts.items()}, larger)

    moved = {method: sampled_fronts[method] for method in stacked if weights_of[method][0] is not None}
    steered = _steered({method: (fronts[method][0], each) for method, each in moved.items()}, weights_M_N, maximise)

    methods: dict[str, Any] = {}
    for method, front in fronts.items():
        spacing = indicators.spacing(front[0] / scale)
        methods[method] = {
            "points": [
                {"weights": weight, **_by_objective("rewards", "interval", names, point, sampled_fronts[method][:, i])}
                for i, (weight, point) in enumerate(zip(weights_of[method], front[0], strict=True))
            ],
            **_with_intervals({name: (values[method][name], sampled[method][name]) for name in values[method]}),
            **_hypervolume(covered[method], sampled[method]["hypervolume"], least=0.0),
            "dominated_share": dominated[method],
            "spacing": None if np.isnan(spacing) else spacing,
            **steered.get(method, _unsteered(names)),
        }
    outside = [
        {"method": method, "weights": weight, "objectives": [n for n, out in zip(names, where, strict=True) if out]}
        for method, front in fronts.items()
        for weight, where in zip(weights_of[method], indicators.beyond(front[0], corner, larger), strict=True)
        if reference is not None and where.any()
    ]
    drawn = {name: mine["hypervolume"] for name, mine in sampled.items()}
    further = {
        f"{a} - {b}": _hypervolume(covered[a] - covered[b], drawn[a] - drawn[b]) for a, b in pairs(list(methods))
    }
    return {
        "reference_point": dict(zip(names, corner.tolist(), strict=True)),
        "reference_stored": reference is not None,
        "scale": dict(zip(names, scale.tolist(), strict=True)),
        "prompts": prompts,
        "start": control.start_of(steered),
        "methods": methods,
        "differences": _differences(stacked, weights_M_N, maximise, further, prompts),
        "beyond": outside,
    }


def _steered(
    fronts: Mapping[str, tuple[Array, Array]], weights_M_N: Array, maximise: Mapping[str, bool]
) -> dict[str, dict[str, Any]]:
    """How far and how surely the weights move each objective, of every method's front [M, N] and its resamples
    [T, M, N].
    """
    names, larger = list(maximise), list(maximise.values())
    ranges = {
        method: [control.ranges(each, weights_M_N, larger) for each in versions] for method, versions in fronts.items()
    }
    start = control.start_of(fronts)
    family = max(1, (len(fronts) - 1) * len(names))
    found = {}
    for method, (front, _) in fronts.items():
        mine, against = ranges[method], ranges[start] if start else None
        agreement = control.rank_agreement(front, weights_M_N, larger).tolist()
        found[method] = {
            **_unsteered(names),
            **_by_objective("ranges", "ranges_interval", names, *mine),
            **(control.kept(mine[0], against[0], mine[1], against[1], names, family) if against else {}),
            "control": {name: None if np.isnan(tau) else tau for name, tau in zip(names, agreement, strict=True)},
        }
    return found


def _unsteered(names: Sequence[str]) -> dict[str, Any]:
    """What is said of a method that no weight steers."""
    keys = ("ranges", "ranges_interval", "kept", "kept_interval", "control")
    return {**{key: dict.fromkeys(names) for key in keys}, "narrow": []}


def _differences(
    rewards: Mapping[str, Array],
    weights_M_N: Array,
    maximise: Mapping[str, bool],
    covered: Mapping[str, dict[str, Any]],
    prompts: int,
) -> dict[str, Any]:
    """ "a - b" for every two methods: utility, its p-value among all pairs, hypervolume, and what may be said."""
    larger = list(maximise.values())
    by_prompt = {  # [P]
        method: indicators.mean_utility(each.swapaxes(0, 1), weights_M_N, larger) for method, each in rewards.items()
    }
    largest = max(float(np.abs(each).max()) for each in by_prompt.values())
    paired = {f"{a} - {b}": (a, b) for a, b in pairs(list(rewards))}
    utilities = {name: mean_difference(by_prompt[a] - by_prompt[b], largest) for name, (a, b) in paired.items()}
    adjusted = dict(zip(paired, holm([each.p for each in utilities.values()]), strict=True))
    differences = {}
    for name, (a, b) in paired.items():
        found = utilities[name]
        moved = moving(rewards[a], rewards[b], weights_M_N)
        still = [each for each, moves in zip(maximise, moved, strict=True) if not moves]
        few = undecided(rewards[a], rewards[b], weights_M_N, found.value)
        rare = [each for each, open_ in zip(maximise, few, strict=True) if open_]
        said, because = decide(
            found,
            adjusted[name],
            covered[name]["hypervolume_interval"],
            still,
            rare,
            prompts=prompts,
            family=len(paired),
        )
        differences[name] = {
            "utility": found.value,
            "utility_interval": found.interval(),
            "p": adjusted[name],
            "detectable": found.detectable(len(paired)),
            **covered[name],
            "still": still,
            "rare": rare,
            "is": said,
            "because": because,
        }
    return differences


def pairs(methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every two methods, as minuend and subtrahend: sipo less the other, else the later listed less the earlier."""
    for earlier, later in combinations(methods, 2):
        yield (earlier, later) if earlier == "sipo" else (later, earlier)


def dominated_shares(fronts: Mapping[str, Array], maximise: Sequence[bool]) -> dict[str, float]:
    """Of each front [M, N], the share of points that a point of another front dominates; smaller is better."""
    shares = {}
    for method, front in fronts.items():
        others = [each for other, each in fronts.items() if other != method]
        shares[method] = indicators.dominated_share(front, np.concatenate([front[:0], *others]), maximise)
    return shares


def front_indicators(
    fronts: Fronts, weights_M_N: Array, maximise: Sequence[bool], reference_N: Array, scale_N: Array
) -> dict[str, dict[str, Array]]:
    """[T] of the indicators that have intervals, by method; distances are in units of `scale`, against the union of
    all fronts.
    """
    scaled = {method: front / scale_N for method, front in fronts.items()}
    best = [indicators.union_front(every, maximise) for every in np.concatenate(list(scaled.values()), axis=1)]
    measured = {}
    for method, front in fronts.items():
        against = list(zip(scaled[method], best, strict=True))
        measured[method] = {
            "hypervolume": hypervolumes(front, reference_N, maximise).mean(axis=1),
            "utility": indicators.mean_utility(front, weights_M_N, maximise),
            "additive_epsilon": np.array([indicators.additive_epsilon(*each, maximise) for each in against]),
            "igd_plus": np.array([indicators.igd_plus(*each, maximise) for each in against]),
        }
    return measured


def _with_intervals(numbers: Mapping[str, tuple[Array, Array]]) -> dict[str, Any]:
    """Each [1] number under its name, and the interval of its [T] resampled values beside it."""
    result: dict[str, Any] = {}
    for name, (value_1, sampled_T) in numbers.items():
        result |= {name: float(value_1[0]), f"{name}_interval": percentile_interval(sampled_T)}
    return result


def _hypervolume(estimates: Array, sampled_T: Array, least: float = -np.inf) -> dict[str, Any]:
    """As it is, without what noise adds, and with an interval; `least` is the smallest that it can be."""
    value, error = float(estimates.mean()), standard_error(estimates)
    estimate, *interval = corrected(value, sampled_T, error)
    return {
        "hypervolume": value,
        **({"hypervolume_error": error} if len(estimates) > 1 else {}),
        "hypervolume_corrected": max(estimate, least),
        "hypervolume_interval": tuple(max(end, least) for end in interval),
    }


def _by_objective(key: str, interval: str, names: Sequence[str], value_N: Array, sampled_T_N: Array) -> dict[str, Any]:
    return {
        key: dict(zip(names, value_N.tolist(), strict=True)),
        interval: {name: percentile_interval(sampled_T_N[:, i]) for i, name in enumerate(names)},
    }
