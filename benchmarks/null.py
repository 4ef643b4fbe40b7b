"""What the comparison says where the truth is known: `python -m benchmarks.null --runs 1000`.

Rewards are drawn, not decoded, and `sipo.pareto.compare` judges them as it judges a run's. In the null worlds the
method `sipo` changes texts and not quality, so whatever it is called but "not shown" is false.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from sipo.pareto.compare import compare
from sipo.pareto.hypervolume import hypervolume
from sipo.pareto.indicators import mean_utility
from sipo.weights import simplex_lattice

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]

NOISES: dict[str, Noise] = {
    "normal": lambda g, shape: g.normal(size=shape),
    "heavy": lambda g, shape: g.standard_t(3, size=shape),
    "skewed": lambda g, shape: np.exp(1.2 * g.normal(size=shape)),
    "discrete": lambda g, shape: g.integers(0, 2, size=shape).astype(float),
    "rare": lambda g, shape: (g.random(shape) < 0.03).astype(float),
    "scaled": lambda g, shape: g.normal(size=shape) * 10.0 ** (3 - 5 * np.arange(shape[-1])),
}


@dataclass(frozen=True)
class World:
    """Prompts P, weights M of N objectives, and what base and sipo are in truth."""

    noise: str = "normal"
    prompts: int = 40
    divisions: int = 4
    objectives: int = 2
    steers: float = 0.0
    """How far sipo's weights move each objective."""
    base_steers: float = 0.0
    lift: float = 0.0
    """What sipo adds to every objective."""
    depth: float = 6.0
    """How far the reference point lies below 0 in every objective; in units of the noise."""
    single: bool = False
    """Base answers once, as in greedy decoding; else with as many draws as there are weights."""

    @property
    def corner(self) -> Array:
        """[N], below all points."""
        unit_N = 10.0 ** (3 - 5 * np.arange(self.objectives)) if self.noise == "scaled" else np.ones(self.objectives)
        return -self.depth * unit_N

    @property
    def weights(self) -> Array:
        return np.array(simplex_lattice(self.objectives, self.divisions))

    def truth(self) -> dict[str, Array]:
        """[M, N] mean rewards of base and sipo."""
        return {
            "base": self.base_steers * self.weights,
            "sipo": self.steers * self.weights + self.lift,
        }

    def rewards(self, generator: np.random.Generator) -> dict[str, Array]:
        """[M, P, N]: the truth, a difficulty of each prompt that all share, and noise of every answer."""
        noise, (m, n) = NOISES[self.noise], self.weights.shape
        difficulty = noise(generator, (1, self.prompts, n))
        drawn = {}
        for method, points in self.truth().items():
            drawn[method] = points[:, None] + difficulty + noise(generator, (m, self.prompts, n))
        if self.single:
            drawn["base"] = drawn["base"][0]
        return drawn


@dataclass(frozen=True)
class Labelled(World):
    """Held-out labels in place of rewards: whether the sum of the policies' margins, by weight, has the label's sign.

    The margins are drawn, and so are the labels: nobody agrees with more of them than base, which ranks nothing first.
    """

    single: bool = True
    lacking: float = 0.1
    """Share of the prompts on which an objective has no label."""

    @property
    def corner(self) -> Array:
        return np.zeros(self.objectives)

    def truth(self) -> dict[str, Array]:
        even = np.full(self.weights.shape, 0.5)
        return {"base": even, "sipo": even}

    def rewards(self, generator: np.random.Generator) -> dict[str, Array]:
        shape = (self.prompts, self.objectives)
        margins_M_P = self.weights @ generator.normal(size=shape).T
        labels_P_N = np.where(generator.random(shape) < self.lacking, np.nan, generator.choice([-1.0, 1.0], size=shape))
        agreed_M_P_N = (1 + np.sign(margins_M_P)[..., None] * labels_P_N) / 2
        return {"base": np.where(np.isnan(labels_P_N), np.nan, 0.5)[None], "sipo": agreed_M_P_N}


def equal_in_both(prompts: int) -> World:
    """A steered front against a collapsed one, base, of the same utility, above a corner where both cover as much."""

    def more(depth: float) -> float:
        world = World(steers=2.0, lift=-1.5, depth=depth)
        sipo, base = (hypervolume(world.truth()[name], world.corner, [True] * 2) for name in ("sipo", "base"))
        return sipo - base

    return World(prompts=prompts, steers=2.0, lift=-1.5, depth=brentq(more, 1.5, 6.0))


NULLS = {
    **{f"{prompts} prompts": World(prompts=prompts) for prompts in (40, 64, 500)},
    "11 weights": World(divisions=10),
    "3 objectives": World(objectives=3, divisions=3),
    **{f"{noise} rewards": World(noise) for noise in list(NOISES)[1:]},
    **{f"base of one point, {prompts} prompts": World(prompts=prompts, single=True) for prompts in (40, 500)},
    **{f"base of one point, 11 weights, {noise}": World(noise, divisions=10, single=True) for noise in NOISES},
    **{f"steered against collapsed, {prompts} prompts": equal_in_both(prompts) for prompts in (40, 500)},
    "two fronts of one shape": World(steers=2.0, base_steers=2.0),
    "labels of 40 prompts": Labelled(),
    "labels of 200 prompts, 3 objectives": Labelled(prompts=200, objectives=3, divisions=3),
}
"""Whatever a method is called in these, but "not shown", is false."""


WORLDS = {
    **NULLS,
    "a lift of .3 to a steered front": World(steers=2.0, base_steers=2.0, lift=0.3),
    "a lift of .5 to all": World(lift=0.5),
    "a fall of .5": World(lift=-0.5),
}


def outcomes(world: World, runs: int, times: int) -> Iterator[dict[str, Any]]:
    """The difference "sipo - base" of each run; the seed is the run's number."""
    directions = {f"objective {n}": True for n in range(world.objectives)}
    for seed in range(runs):
        rewards = world.rewards(np.random.default_rng(seed))
        reference = dict(zip(directions, world.corner.tolist(), strict=True))
        found = compare(rewards, world.weights, directions, reference, unsteered=("base",), times=times, seed=seed)
        yield found["differences"]["sipo - base"]


def summary(world: World, runs: int, times: int = 60) -> dict[str, float]:
    """Shares of the runs: what was said, and which intervals hold the truth; and the mean error of hypervolume."""
    truth, maximise = world.truth(), [True] * world.objectives
    corner = world.corner
    mine, theirs = truth["sipo"], truth["base"][:1] if world.single else truth["base"]
    covered = hypervolume(mine, corner, maximise) - hypervolume(theirs, corner, maximise)
    better = float(mean_utility(mine, world.weights, maximise) - mean_utility(theirs, world.weights, maximise))
    said, held, errors = Counter[str](), Counter[str](), {"plain": 0.0, "corrected": 0.0}
    for each in outcomes(world, runs, times):
        said[each["is"]] += 1
        for name, true in (("utility", better), ("hypervolume", covered)):
            low, high = each[f"{name}_interval"]
            held[name] += low <= true <= high
        errors["plain"] += each["hypervolume"] - covered
        errors["corrected"] += each["hypervolume_corrected"] - covered
    return {
        **{name: said[name] / runs for name in ("above", "below")},
        **{f"{name} held": held[name] / runs for name in ("utility", "hypervolume")},
        **{name: error / runs for name, error in errors.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    columns = ["above", "below", "utility held", "hypervolume held", "plain", "corrected"]
    print(f"| world | {' | '.join(columns)} |\n{'| --- ' * (len(columns) + 1)}|")
    for name, world in WORLDS.items():
        found = summary(world, runs)
        print(f"| {name} | {' | '.join(f'{found[column]:.3f}' for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
