"""`sipo choose`: a weight of a finished run for what people want of it, what it costs, and the commands that use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sipo.commands import export, generate, question, sipo
from sipo.config import Config
from sipo.errors import SipoError
from sipo.methods.registry import find, usual, usual_soup
from sipo.pareto.bootstrap import Array, filled
from sipo.pareto.choosing import bends, equal_gain, knee, shortfall, tilted, within
from sipo.progress import Progress, say_json
from sipo.records import Measured, comparable, points_of, rewards_of
from sipo.report.decision import NO_KNEE, levels
from sipo.report.measure import CAVEAT, LABELS, REWARDS
from sipo.report.parts import alike, together
from sipo.runs.outputs import Outputs
from sipo.runs.status import read_run, require
from sipo.weights import grid

WHY = {"knee": "the knee of the front", "equal gain": "where the least gain is most"}


@dataclass(frozen=True)
class Wish:
    """Bounds by objective, each in the objective's own direction, and what is best beyond them."""

    bounds: Mapping[str, float]
    best: str
    """An objective, `knee` or `equal gain`."""


def wish_of(
    config: Config, least: Mapping[str, str], most: Mapping[str, str], best: Sequence[tuple[str, str | None]]
) -> Wish:
    """From the options as they were written. Raises SipoError for what does not fit an objective's direction."""
    larger = dict(zip(config.names, maximise_of(config), strict=True))
    bounds = {}
    for option, given, up in (("--at-least", least, True), ("--at-most", most, False)):
        for name, text in given.items():
            _check(option, name, larger, up)
            try:
                bounds[name] = float(text)
            except ValueError:
                raise SipoError(f"{option}: {name}={text} is no number") from None
    wanted = [(option, name) for option, name in best if name]
    if len(wanted) != 1:
        raise SipoError("say what is best with one of --maximise NAME, --minimise NAME, --knee and --equal-gain")
    ((option, name),) = wanted
    if option in ("--maximise", "--minimise"):
        _check(option, name, larger, option == "--maximise")
    return Wish(bounds, name)


def maximise_of(config: Config) -> tuple[bool, ...]:
    """Whether more is better, of each objective as it is measured."""
    return (True,) * len(config.names) if config.by_labels else config.maximise


def _check(option: str, name: str, larger: Mapping[str, bool], up: bool) -> None:
    if name not in larger:
        raise SipoError(f"{option}: `{name}` is no objective of the run; they are {', '.join(larger)}")
    if larger[name] != up:
        better, instead = (
            ("larger", ("--at-least", "--maximise")) if larger[name] else ("smaller", ("--at-most", "--minimise"))
        )
        raise SipoError(
            f"{option}: of `{name}` {better} is better; write {instead[option in ('--maximise', '--minimise')]}"
        )


def choose(run: Path, wish: Wish, methods: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Print the point that fits the wish among those that were measured, or the nearest. Raises SipoError where the
    run was not compared, or a method has no weights.
    """
    config = read_run(run)
    require(run, config, "compare")
    measured = _measured(run, config)
    points = points_of(measured, config.names, grid(config.weights, config.names))
    asked = _asked(points, config, methods)
    rewards = {name: filled(rewards_of(mine, config.names)) for name, mine in points.items()}
    chosen = _chosen(config, wish, {name: rewards[name] for name in asked}, rewards.get("base"))
    chosen |= {"weights": points[chosen["method"]][chosen.pop("point")][0].weights}
    if as_json:
        say_json(chosen)
    else:
        _say(run, config, wish, chosen, question(each.text for each in measured))


def _measured(run: Path, config: Config) -> Sequence[Measured]:
    found = Outputs(run, config).measured()
    return found if config.by_labels else comparable(found)


def _asked(points: Mapping[str, Any], config: Config, methods: Sequence[str]) -> list[str]:
    steered = [name for name in points if name in config.methods and find(name).steered]
    if not steered:
        raise SipoError("no method of this run has weights; add mod to `methods`, and run it again")
    if unknown := [name for name in methods if name not in steered]:
        raise SipoError(
            f"--method {unknown[0]}: has no weights that were measured; those that have are {', '.join(steered)}"
        )
    return list(methods) or steered


def _chosen(config: Config, wish: Wish, rewards: Mapping[str, Array], base: Array | None) -> dict[str, Any]:
    stacked = np.concatenate(list(rewards.values()))
    places = [(name, at) for name, each in rewards.items() for at in range(len(each))]
    means = stacked.mean(axis=1)
    bounds = np.array([wish.bounds.get(name, np.nan) for name in config.names])
    fits = within(means, bounds, maximise_of(config))
    if fits.any():
        among = np.flatnonzero(fits)
    else:
        missed = shortfall(means, bounds, maximise_of(config))
        among = np.flatnonzero(missed == missed.min())
    best = _best(config, wish, means[among], base)
    at = int(among[best])
    method, point = places[at]
    base_P_N, measure = None if base is None else base.mean(axis=0), LABELS if config.by_labels else REWARDS
    told = levels(config.names, maximise_of(config), stacked, base_P_N, at, measure)
    worse = np.array([[each.low if up else each.high for each, up in zip(told, maximise_of(config), strict=True)]])
    found: dict[str, Any] = {
        "method": method,
        "point": point,
        "fits": bool(fits.any()),
        "surely": bool(within(worse, bounds, maximise_of(config))[0]),
        "rewards": {each.name: each.reward for each in told},
        "interval": {each.name: [each.low, each.high] for each in told},
        "best_of_all": {
            name: float((means[:, i].max if larger else means[:, i].min)())
            for i, (name, larger) in enumerate(zip(config.names, maximise_of(config), strict=True))
        },
    }
    if wish.best == "knee" and len(grid(config.weights, config.names)) > 1:
        found["bends"] = bends(best, stacked[among], maximise_of(config))
    if base is not None:
        found["base"] = dict(zip(config.names, base.mean(axis=(0, 1)).tolist(), strict=True))
        found["gain"] = {each.name: each.gain for each in told}
        found["gain_interval"] = {each.name: [each.gain_low, each.gain_high] for each in told}
        found["gained"] = [each.name for each in told if each.gain_low is not None and each.gain_low > 0]
        if not fits.any() and not config.by_labels:  # the labels have no draws that could be reweighted
            found["mixture"] = _mixture(base, bounds, config)
    return found


def _mixture(base: Array, bounds: Array, config: Config) -> dict[str, Any]:
    """Whether any mixture of weights could meet the bounds, as far as the base model's `answers` to a prompt tell."""
    tilt = tilted(base, bounds, maximise_of(config)) if len(base) > 1 else None
    weights = dict(zip(config.names, tilt.weights_N.tolist(), strict=True)) if tilt else None
    return {"answers": len(base), "weights": weights, "divergence": tilt.divergence if tilt else None}


def _about_mixture(mixture: dict[str, Any]) -> str:
    if mixture["answers"] < 2:
        return "base gave one answer to each prompt, which cannot tell whether other weights could"
    among = f"the {mixture['answers']} answers that base gave to each prompt"
    if mixture["weights"] is None:
        return f"no reweighting of {among} would reach it on average: ask for less, or train for more"
    at = " ".join(f"{name}={share:.2f}" for name, share in mixture["weights"].items())
    return (
        f"reweighting {among} would reach it on average, {mixture['divergence']:.2g} nats from base, at weights of "
        f"about {at}; so other weights or more training may"
    )


def _best(config: Config, wish: Wish, means: Array, base: Array | None) -> int:
    """Its place among the means."""
    if wish.best == "knee":
        return knee(means, maximise_of(config))
    if wish.best == "equal gain":
        if base is None:
            raise SipoError("--equal-gain: is over the base model, which the run did not measure; add base to methods")
        return equal_gain(means, base.mean(axis=(0, 1)), maximise_of(config))
    i = config.names.index(wish.best)
    return int(np.argmax(means[:, i] * (1 if maximise_of(config)[i] else -1)))


def _say(run: Path, config: Config, wish: Wish, chosen: dict[str, Any], prompt: str) -> None:
    progress, measure = Progress(), LABELS if config.by_labels else REWARDS
    shown = " ".join(f"{name}={share:g}" for name, share in chosen["weights"].items())
    unmoved = chosen["fits"] and wish.best not in config.names and chosen.get("gained") == []
    if unmoved:
        progress.say(
            f"nothing is recommended: even {chosen['method']} at {shown}, {WHY[wish.best]}, shows no gain over base in "
            "any objective beyond the noise; keep base, or say what you want more of"
        )
    elif chosen["fits"]:
        fits = "fits what was asked" if chosen.get("bends", True) else "is the nearest to a knee"
        sure = (
            ", with all intervals held at once" if chosen["surely"] else ", on average; within its interval it may not"
        )
        progress.say(f"{chosen['method']} at {shown}: {fits}{sure if wish.bounds else ''}")
        if not chosen.get("bends", True):
            progress.say(NO_KNEE)
    else:
        progress.say(f"no measured point fits what was asked; the nearest is {chosen['method']} at {shown}")
        if "mixture" in chosen:
            progress.say(_about_mixture(chosen["mixture"]))
    progress.table(f"{measure.heading}, with 95 % intervals that hold for all points at once", *_table(config, chosen))
    if "gain" in chosen:
        progress.say("over base: positive is better, also where a smaller reward is")
    if config.by_labels:
        progress.say(CAVEAT)
    if unmoved:
        name, larger = config.names[0], maximise_of(config)[0]
        progress.say(f"choose   {sipo('choose', run, '--maximise' if larger else '--minimise', name)}")
        return
    weights, method = chosen["weights"], chosen["method"]
    spec, named = find(method), None if method == usual(config.methods) else method
    progress.say(f"ask it   {sipo(*generate(run, weights, prompt, named))}")
    if spec.exported:
        alone = spec.models(tuple(weights.values())) == 1
        soup = usual_soup([method])
        taken = export(run, weights, "chosen", method if alone else soup)
        progress.say(
            f"take it  {sipo(*taken)}{'' if alone else ' # the soup of its policies: one model, not this mixture'}"
        )


def _table(config: Config, chosen: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; a gain has the sign that the report gives it."""
    columns = ["objective", "agrees" if config.by_labels else "reward", "better is"]
    columns += ["over base"] * ("gain" in chosen) + ["best of all"]
    rows = []
    for name, larger in zip(config.names, maximise_of(config), strict=True):
        reward, low, high, best = alike(chosen["rewards"][name], *chosen["interval"][name], chosen["best_of_all"][name])
        row = [name, f"{reward} [{low}, {high}]", "larger" if larger else "smaller"]
        if "gain" in chosen:
            gain, low, high = together([chosen["gain"][name], *chosen["gain_interval"][name]], sign=True)
            row.append(f"{gain} [{low}, {high}]")
        rows.append([*row, best])
    return columns, rows
