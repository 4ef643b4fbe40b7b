"""The first screen: what the methods gain and cost, which weight to take and why, and the commands that use it.

Words follow from tests that noise passes rarely (`sipo.pareto.gains`, `sipo.pareto.verdicts`), and from nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sipo.methods.registry import find, specs
from sipo.pareto.bootstrap import Array, filled
from sipo.pareto.choosing import bends, equal_gain, knee, simultaneous_intervals, steadiness
from sipo.pareto.compare import pairs
from sipo.pareto.gains import Gain, gains
from sipo.pareto.verdicts import ENOUGH
from sipo.report.measure import Measure, measure_of
from sipo.report.parts import alike
from sipo.report.verdict import findings
from sipo.words import listed, quantity

RESAMPLES = 500
"""Of the prompts, to see how steady a choice is."""
SPELLED_OUT = 4
"""Objectives that a sentence tells one by one, with their numbers."""
RIVALS = 4
"""Methods that the sentence holds the one in focus against."""
CHOSEN_HERE = (
    "Between methods of different policies the held-out prompts that measure them have chosen; the intervals hold for "
    "all points that could have been recommended."
)
NO_KNEE = (
    "That the front bends anywhere is not shown beyond the noise, so no weight is the knee, where a step costs most"
)
FIRST = ("base", "mod", "soups")
"""They come before others."""


@dataclass(frozen=True)
class Line:
    """A row of the table of gains: a method less another."""

    method: str
    other: str
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Level:
    """An objective at a chosen point; intervals hold for all points that could have been chosen."""

    name: str
    reward: float
    low: float
    high: float
    gain: float | None
    """Over the base model, positive is better; None where that was not measured."""
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class Recommended:
    method: str
    place: int
    """Of the run's weights."""
    weights: Mapping[str, float]
    levels: list[Level]
    why: list[str]
    by: str
    """The option of `sipo choose` that asks the same."""


@dataclass(frozen=True)
class Decision:
    focus: str
    """The method that the sentence is about."""
    sentence: str
    lines: list[Line]
    recommended: Recommended | None
    instead: str
    """Why nothing is recommended; empty where something is."""


def decision(
    fronts: Mapping[str, Any],
    rewards: Mapping[str, Array],
    weights: Sequence[Mapping[str, float]],
    proposal: Mapping[str, Any] | None = None,
) -> Decision:
    """Of what is measured of the methods, [M, P, N] at the run's weights, NaN where nothing is known; `fronts` holds
    the verdicts by utility, `proposal` is what validation says, as in `proposal.json`.
    """
    maximise = {each["name"]: each["direction"] == "maximize" for each in fronts["objectives"]}
    told = gains(rewards, maximise, list(pairs(list(rewards))))
    rewards = {name: filled(each) for name, each in rewards.items()}
    recommended, instead = _recommended(fronts, rewards, weights, maximise, proposal or {})
    focus = "sipo" if "sipo" in rewards else recommended.method if recommended else _foremost(fronts)
    lines = _lines(told, list(rewards), focus)
    return Decision(focus, _sentence(lines, focus, fronts, len(weights)), lines, recommended, instead)


def _foremost(fronts: Mapping[str, Any]) -> str:
    """The method with the largest mean utility; one that weights steer where there is one."""
    methods = fronts["methods"]
    among = steered(methods) or list(methods)
    return max(among, key=lambda name: methods[name]["utility"])


def steered(methods: Mapping[str, Any]) -> list[str]:
    """Those whose points have weights."""
    return [name for name, each in methods.items() if each["points"][0]["weights"] is not None]


def _lines(told: Mapping[tuple[str, str], Mapping[str, Gain]], methods: Sequence[str], focus: str) -> list[Line]:
    """Every method against the base model, then the one in focus against the others."""
    against_base = [(name, "base") for name in methods if name != "base" and "base" in methods]
    among = [(focus, name) for name in methods if name not in (focus, "base")]
    return [Line(a, b, _turned(told, a, b)) for a, b in dict.fromkeys([*against_base, *among])]


def _turned(told: Mapping[tuple[str, str], Mapping[str, Gain]], a: str, b: str) -> Mapping[str, Gain]:
    if (a, b) in told:
        return told[a, b]
    words = {"above": "below", "below": "above", "not shown": "not shown"}
    return {
        name: Gain(-each.value, -each.high, -each.low, words[each.word], each.because)  # type: ignore[arg-type]
        for name, each in told[b, a].items()
    }


def _sentence(lines: Sequence[Line], focus: str, fronts: Mapping[str, Any], weights: int) -> str:
    """What the method in focus gains and costs, in the objectives' own units; averages over so many weights."""
    prompts, measure = fronts["prompts"], measure_of(fronts)
    mine = [each for each in lines if each.method == focus]
    if not mine:
        return f"This run measured {focus} alone, so there is nothing to hold it against."
    if prompts < ENOUGH:
        return (
            f"Nothing can be told from {quantity(prompts, 'held-out prompt')}: what {focus} gains or costs "
            f"is within what chance does. Give {ENOUGH} or more."
        )
    told = sorted(mine, key=lambda each: each.other not in FIRST)[:RIVALS]
    alike_with = [each.other for each in told if not any(gain.shown for gain in each.gains.values())]
    parts = [f"against {_name(each.other)} it {_told(each, measure)}" for each in told if each.other not in alike_with]
    if alike_with:
        parts.append(f"against {listed(list(map(_name, alike_with)))} no difference is shown")
    said = "; ".join(parts).replace(" it ", f" {focus} ", 1)
    more = f" The table has the other {len(mine) - RIVALS}." if len(mine) > RIVALS else ""
    return f"{'On average over the weights' if weights > 1 else 'At the one weight of this run'}, {said}.{more}"


def _name(method: str) -> str:
    return "the base model" if method == "base" else method


def _told(line: Line, measure: Measure) -> str:
    better = {name: each for name, each in line.gains.items() if each.word == "above"}
    worse = {name: each for name, each in line.gains.items() if each.word == "below"}
    even = [name for name, each in line.gains.items() if not each.shown]
    said = [
        f"{verb} {_amounts(part)}" for verb, part in ((measure.more, better), (measure.less, worse)) if part
    ]  # fmt: skip
    if even and len(line.gains) <= SPELLED_OUT:
        said.append(f"{measure.same} {listed(even)}")
    return listed(said)


def _amounts(part: Mapping[str, Gain]) -> str:
    if len(part) > SPELLED_OUT:
        return f"{quantity(len(part), 'objective')} ({listed(list(part))})"
    return listed([f"{name} by {alike(abs(each.value))[0]}" for name, each in part.items()])


def _recommended(
    fronts: Mapping[str, Any],
    rewards: Mapping[str, Array],
    weights: Sequence[Mapping[str, float]],
    maximise: Mapping[str, bool],
    proposal: Mapping[str, Any],
) -> tuple[Recommended | None, str]:
    """The method that nothing is shown to be above, and of those the cheapest; there, the weight of equal gain. Of two
    that validation has chosen between, the other is left out.
    """
    candidates = [name for name in steered(fronts["methods"]) if name in specs()]
    if not candidates:
        return None, "No method of this run is steered by weights: add mod or soups to `methods`."
    if fronts["prompts"] < ENOUGH:
        return None, f"No weight is recommended from fewer than {ENOUGH} held-out prompts."
    above = {(each.method, each.other) for each in findings(fronts) if each.word == "above"}
    above |= {(each.other, each.method) for each in findings(fronts) if each.word == "below"}
    proposed, rival = proposal.get("method"), proposal.get("other")
    open_ = [name for name in candidates if not (proposed in candidates and name == rival)]
    better = [name for name in open_ if "base" not in rewards or (name, "base") in above]
    if not better:
        return None, _none_better(fronts, open_)
    best = [name for name in better if not any((other, name) in above for other in better)] or better
    cost = {name: max(find(name).models(tuple(weight.values())) for weight in weights) for name in best}
    method = min(best, key=lambda name: (cost[name], -fronts["methods"][name]["utility"]))
    why = [_why_method(method, best, [name for name in better if name not in best], cost, "base" in rewards)]
    if method == proposed or (proposal and not proposed):
        why.append(why_proposed(proposal))
    if method == proposed and (rival, method) in above:
        why.append(f"On the held-out prompts {rival} is above it all the same.")
    if len(open_) > 1:
        why.append(CHOSEN_HERE)

    base_P_N = rewards["base"].mean(axis=0) if "base" in rewards else None
    larger, mine = list(maximise.values()), rewards[method]
    means = mine.mean(axis=1)
    place = knee(means, larger) if base_P_N is None else equal_gain(means, base_P_N.mean(axis=0), larger)
    if base_P_N is None and len(weights) > 1 and not bends(place, mine, larger):
        return None, f"{why[0]} {NO_KNEE}: choose by what you want more of."
    share = steadiness(mine, base_P_N, larger, RESAMPLES, 0)
    why.append(_why_weight(place, share, weights, base_P_N is None))
    at = sum(len(rewards[name]) for name in candidates[: candidates.index(method)]) + place
    stacked = np.concatenate([rewards[name] for name in candidates])
    found = levels(list(maximise), larger, stacked, base_P_N, at, measure_of(fronts))
    unsure = [each.name for each in found if each.gain_low is not None and each.gain_low <= 0]
    if len(unsure) == len(found):
        return None, (
            f"{why[0]} Yet at the weight of equal gain, {ratio(weights[place])}, no gain over the base model is shown "
            "in any objective: choose by what you want more of."
        )
    if unsure:
        why.append(f"Even there no gain over the base model is shown in {listed(unsure)}.")
    by = "--knee" if base_P_N is None else "--equal-gain"
    return Recommended(method, place, weights[place], found, why, by), ""


def _none_better(fronts: Mapping[str, Any], candidates: Sequence[str]) -> str:
    """With what keeps a gain of the table from counting, and what may show more."""
    against = [each for each in findings(fronts) if each.other == "base" and each.method in candidates]
    reasons = dict.fromkeys(each.because for each in against if each.word == "not shown")
    because = f" ({'; '.join(reasons).replace('its interval', 'the interval of the difference')})" if reasons else ""
    more = " More held-out prompts (data.test, evaluate.prompts) show smaller differences." if reasons else ""
    return (
        f"No method is shown to be {measure_of(fronts).above} than the base model by mean utility{because}: keep the "
        f"base model for now.{more}"
    )


def levels(
    names: Sequence[str],
    larger: Sequence[bool],
    stacked_K_P_N: Array,
    base_P_N: Array | None,
    at: int,
    measure: Measure,
) -> list[Level]:
    """Every objective at the point `at` of K, beside the base model's rewards where there are any; larger rewards are
    better where `larger` says so.
    """
    low, high = simultaneous_intervals(stacked_K_P_N, RESAMPLES, 0)
    means = stacked_K_P_N.mean(axis=1)
    found = []
    gained: Any = None
    if base_P_N is not None:
        sign = np.where(larger, 1.0, -1.0)
        over = (stacked_K_P_N - base_P_N) * sign
        gained = (over.mean(axis=1)[at], *(ends[at] for ends in simultaneous_intervals(over, RESAMPLES, 0)))
    for n, name in enumerate(names):
        gain = (None, None, None) if gained is None else tuple(float(each[n]) for each in gained)
        ends = measure.clip((low[at, n], high[at, n]))
        found.append(Level(name, float(means[at, n]), *ends, *gain))
    return found


def _why_method(
    method: str, best: Sequence[str], beaten: Sequence[str], cost: Mapping[str, int], over_base: bool
) -> str:
    others = [name for name in best if name != method]
    below = [*beaten, *(["the base model"] if over_base else [])]
    said = f"{method} is above {listed(below)} by mean utility" if below else f"Nothing is shown to be above {method}"
    if not others:
        return f"{said}."
    told = f"{said}, and is not told apart from {listed(others)}"
    dearer = [name for name in others if cost[name] > cost[method]]
    if dearer:
        models = "one model writes its answers" if cost[method] == 1 else f"{cost[method]} models write its answers"
        told += f"; {models}, where {listed(dearer)} {'runs' if len(dearer) == 1 else 'run'} {cost[dearer[0]]} at once"
    return f"{told}."


def why_proposed(proposal: Mapping[str, Any]) -> str:
    """Why MOD or soups of the same policies, in words."""
    mod, soups = proposal["between"]
    count = proposal["prompts"]
    prompts = quantity(count, "validation prompt")
    if not proposal["method"]:
        return f"{prompts[0].upper()}{prompts[1:]} cannot tell {soups} from {mod}: give {ENOUGH} or more."
    difference, low, high = alike(proposal["difference"], *proposal["interval"])
    numbers = f"difference of utility {difference}, 95 % interval {low} to {high}"
    if proposal["shown"]:
        return f"At equal weights {proposal['method']} is above {proposal['other']} on {prompts} ({numbers})."
    return (
        f"At equal weights {soups} and {mod} are not told apart on {prompts} ({soups} less {mod}: {numbers}), and one "
        f"model writes the answers of {soups}."
    )


def _why_weight(place: int, share: Array, weights: Sequence[Mapping[str, float]], is_knee: bool) -> str:
    if len(weights) == 1:
        return "It is the one weight that this run measured."
    rule = (
        "a step either way costs most there (the knee of its front)"
        if is_knee
        else "the objective that gains least over the base model gains most there"
    )
    others = [at for at in np.argsort(-share) if at != place and share[at] >= 0.1]
    steady = f"Of resamples of the prompts {100 * share[place]:.0f} % choose it"
    if others:
        steady += f", {100 * share[others[0]]:.0f} % choose {ratio(weights[others[0]])}"
    return f"Of its weights, {rule}. {steady}."


def ratio(weights: Mapping[str, float]) -> str:
    """A weight in short, in the order of the objectives: `60 : 40`."""
    return " : ".join(f"{100 * share:.3g}" for share in weights.values())
