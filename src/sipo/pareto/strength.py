"""How strong a training should be: of several strengths, which one to take.

A stronger realignment gains more and steers less, until the policies have merged. So the gain decides, among those that
keep enough of the range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sipo.pareto.bootstrap import Array, Resamples, percentile_interval, resampled_means
from sipo.pareto.control import kept, ranges
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import ENOUGH, Difference, decide, holm, mean_difference
from sipo.words import listed, quantity

TIMES = 1000
"""Resamples of the prompts."""
BEGUN = "the policies that it begins from"


@dataclass(frozen=True)
class Trial:
    """What one strength attained on the validation prompts."""

    utility_P: Array
    """Mean over the run's weights of w . r, of each prompt; larger is better."""
    ranges: dict[str, float]
    ranges_interval: dict[str, tuple[float, float]]
    kept: dict[str, float | None]
    """Share of the start's range; None where there is no start, or it moves the objective no further than noise."""

    @property
    def utility(self) -> Difference:
        """With its standard error over the prompts."""
        return mean_difference(self.utility_P)

    @property
    def least_kept(self) -> float | None:
        return min((share for share in self.kept.values() if share is not None), default=None)

    def keeps(self, floor: float) -> bool:
        return self.least_kept is None or self.least_kept >= floor


@dataclass(frozen=True)
class Choice:
    chosen: float
    """The strength to take."""
    trials: dict[float, Trial]
    start: Trial | None


def quadrature(weights_K_N: Array) -> Array:
    """[N + 1]: how much the N corners and the middle count, so that they tell the mean utility over these K weights.

    Utility is taken to be linear in the weight w, but for a multiple of 1 - sum_i w_i^2: it bends alike in all
    directions. Simpson's rule, where the weights are all there are and N is 2.
    """
    n = weights_K_N.shape[1]
    middle = float((1 - (weights_K_N**2).sum(axis=1)).mean()) / (1 - 1 / n)
    return np.array([*(weights_K_N.mean(axis=0) - middle / n), middle])


def choose_strength(
    trials: Mapping[float, Array],
    start: Array | None,
    weights_M_N: Array,
    shares_M: Array,
    maximise: Mapping[str, bool],
    keep: float,
    seed: int = 0,
) -> Choice:
    """The strength of the largest mean utility among those that keep at least `keep` of the start's range in every
    objective, of equal ones the weakest; where none keeps that, the one that keeps most.

    `trials` holds the rewards [M, P, N] of each strength at the M weights on the same P prompts, `start` those of the
    policies that all of them began from; `shares_M` says how much each weight counts in the utility. Ranges are
    `sipo.pareto.control`'s.
    """
    names, larger = list(maximise), list(maximise.values())
    prompts = next(iter(trials.values())).shape[1]
    draws = Resamples(prompts, TIMES, seed)

    def moved(rewards_M_P_N: Array) -> tuple[Array, Array]:
        versions = rewards_M_P_N.mean(axis=1), resampled_means(rewards_M_P_N, draws)
        first, second = (ranges(each, weights_M_N, larger) for each in versions)
        return first, second

    before = None if start is None else moved(start)

    def trial(rewards_M_P_N: Array) -> Trial:
        mine_N, sampled_T_N = moved(rewards_M_P_N)
        return Trial(
            shares_M @ (rewards_M_P_N * signs(larger) * weights_M_N[:, None]).sum(axis=-1),
            dict(zip(names, mine_N.tolist(), strict=True)),
            {name: percentile_interval(sampled_T_N[:, n]) for n, name in enumerate(names)},
            kept(mine_N, before[0], sampled_T_N, before[1], names)["kept"] if before else dict.fromkeys(names),
        )

    made = {strength: trial(trials[strength]) for strength in sorted(trials)}
    begun = None if start is None else trial(start)
    standing = {strength: each for strength, each in made.items() if each.keeps(keep)}
    if standing:
        chosen = max(standing, key=lambda strength: float(standing[strength].utility_P.mean()))
    else:
        chosen = max(made, key=lambda strength: made[strength].least_kept or 0.0)
    return Choice(chosen, made, begun)


def as_plain(choice: Choice, keep: float) -> dict[str, Any]:
    """As `strength.json` has it: every strength with its utility, its gain over the start, and the range it keeps."""

    def plain(each: Trial) -> dict[str, Any]:
        found = {
            "utility": each.utility.value,
            "utility_interval": each.utility.interval(),
            "ranges": each.ranges,
            "ranges_interval": each.ranges_interval,
            "kept": each.kept,
        }
        if choice.start is not None and each is not choice.start:
            gain = mean_difference(each.utility_P - choice.start.utility_P)
            found |= {"gain": gain.value, "gain_interval": gain.interval(), "keeps": each.keeps(keep)}
        return found

    return {
        "chosen": choice.chosen,
        "keep_range": keep if choice.start is not None else None,
        "prompts": len(choice.trials[choice.chosen].utility_P),
        "start": None if choice.start is None else plain(choice.start),
        "trials": [{"strength": strength, **plain(each)} for strength, each in choice.trials.items()],
    }


def doubts(choice: Choice, keep: float, key: str, diverged: Sequence[float] = ()) -> list[str]:
    """What is to be known of the choice; `key` is where the strengths are written, `diverged` has those that were tried
    and brought no finite numbers.
    """
    said, tried = [], list(choice.trials)
    prompts = len(choice.trials[choice.chosen].utility_P)
    if prompts < ENOUGH:
        counted = quantity(prompts, "validation prompt")
        said.append(f"the strength was chosen on {counted}: few; give more rows to data.validation")
    for edge, inner, which in ((-1, -2, "larg"), (0, 1, "small")):
        ahead = len(tried) > 1 and _ahead(choice.trials[tried[edge]], choice.trials[tried[inner]])
        beyond = any((strength > tried[edge]) == (edge < 0) for strength in diverged)
        if ahead and choice.chosen == tried[edge] and not beyond:
            end = f"the strength that is taken, x{choice.chosen:g}, is the {which}est of {key}"
            said.append(f"{end}: one that is {which}er may be better")
    shrunk = {strength: each for strength, each in choice.trials.items() if not each.keeps(keep)}
    if shrunk:
        parts = [_shrunk(strength, each) for strength, each in shrunk.items()]
        none = f"; none keeps {keep:.0%}, so the one that keeps most is taken" if len(shrunk) == len(tried) else ""
        said.append(f"the range of the front shrinks at {', '.join(parts)}{none}")
    if alike := not_below(choice, keep):
        names = [BEGUN if strength is None else f"x{strength:g}" for strength in alike]
        said.append(f"x{choice.chosen:g} is not shown to be above {listed(names)}")
    return said


def not_below(choice: Choice, keep: float) -> list[float | None]:
    """Those that the chosen strength is not shown to be above by mean utility: other strengths that it was chosen
    from, and None for the policies that all of them began from. Holm's correction is over all pairs of these, since
    the largest of several is above the others by chance alone.
    """
    standing = {strength: each for strength, each in choice.trials.items() if each.keeps(keep)}
    rivals = standing or {choice.chosen: choice.trials[choice.chosen]}
    among: dict[float | None, Trial] = {} if choice.start is None else {None: choice.start}
    among.update(rivals.items())
    pairs = [sorted(pair, key=lambda each: each != choice.chosen) for pair in combinations(among, 2)]
    differences = [mean_difference(among[one].utility_P - among[other].utility_P) for one, other in pairs]
    prompts, adjusted = len(among[choice.chosen].utility_P), holm([each.p for each in differences])
    words = [
        decide(each, p, prompts=prompts, family=len(pairs))[0] for each, p in zip(differences, adjusted, strict=True)
    ]
    return [other for (one, other), word in zip(pairs, words, strict=True) if one == choice.chosen and word != "above"]


def _shrunk(strength: float, trial: Trial) -> str:
    known = {name: share for name, share in trial.kept.items() if share is not None}
    least = min(known, key=lambda name: known[name])
    return f"x{strength:g} ({known[least]:.0%} of {least} kept)"


def _ahead(one: Trial, other: Trial) -> bool:
    """By more than a standard error."""
    difference = mean_difference(one.utility_P - other.utility_P)
    return difference.value > difference.error
