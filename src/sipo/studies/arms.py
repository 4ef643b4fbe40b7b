"""Arms: variants of one run, a method each, brought about by turning keys.

Arms of a seed live in one run folder, so what they have in common is made once: a stage that an arm sets aside comes
back when another asks for it. An arm's finished front is kept, and taken again unless its settings changed.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sipo.config import Config
from sipo.config.file import parse_config
from sipo.declare.parts import RESPONSES
from sipo.disk.damage import reading
from sipo.disk.locking import alone
from sipo.disk.publishing import replacing
from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.records import Response
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.settings.explain import rules_of
from sipo.settings.section import RULE
from sipo.studies.ground import Settings, digest_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    label: str
    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the configuration with dots, and their values."""


@dataclass(frozen=True)
class Front:
    """What an arm attained with one seed: rewards [M, P, N] at M weights, or in M draws of what no weight steers, on P
    prompts.
    """

    rewards_M_P_N: Array
    lengths_M: Array
    """Mean length in tokens."""

    @property
    def points(self) -> Array:
        """[M, N]"""
        return np.asarray(self.rewards_M_P_N.mean(axis=1))


def run_arms(arms: Sequence[Arm], settings: Settings, kept: Path, progress: Progress) -> dict[str, Front]:
    """The front of every arm for the seed in `settings`, in order; `kept` is the folder of finished fronts."""
    fronts: dict[str, Front] = {}
    for number, arm in enumerate(arms, start=1):
        path = kept / f"{digest(settings, arm)}.npz"
        if not path.exists():
            alike = [each for each in arms[number - 1 :] if each.changes == arm.changes]
            alike = [each for each in alike if not (kept / f"{digest(settings, each)}.npz").exists()]
            progress.say(f"seed {settings['seed']}: {', '.join(each.label for each in alike)}")
            _make(alike, settings, kept)
        with reading(path), np.load(path) as found:
            fronts[arm.label] = Front(found["rewards"], found["lengths"])
    return _on_the_same_prompts(fronts)


def _on_the_same_prompts(fronts: Mapping[str, Front]) -> dict[str, Front]:
    """Without the prompts of which a judge refused a response, of whichever arm."""
    scored_P = np.logical_and.reduce([np.isfinite(each.rewards_M_P_N).all(axis=(0, 2)) for each in fronts.values()])
    if not scored_P.any():
        raise SipoError("the arms: a judge refused a response to every held-out prompt; ask another judge")
    return {label: replace(each, rewards_M_P_N=each.rewards_M_P_N[:, scored_P]) for label, each in fronts.items()}


def turned(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """A copy with some keys changed. Where that is a rule, keys that the new one does not read are left out."""
    result = deepcopy(settings)
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = result
        for section in sections:
            if isinstance(short := place.get(section), str):
                place[section] = {RULE: short}
            place = place.setdefault(section, {})
        place[last] = value
        if last == RULE and (read := rules_of(Config.model_fields.get(sections[0])).get(value)):
            for unread in place.keys() - read.model_fields.keys():
                del place[unread]
    return result


def _make(arms: Sequence[Arm], settings: Settings, kept: Path) -> None:
    """One run for arms that differ in their method alone."""
    methods = list(dict.fromkeys(arm.method for arm in arms))
    config = parse_config(turned(settings, {**arms[0].changes, "methods": methods}), "study")
    outputs = Outputs(run(config, until=f"judged/{methods[-1]}", quiet=True), config)
    responses: list[Response] = [each for name in methods for each in outputs.read(f"judged/{name}", RESPONSES)]
    for arm in arms:
        mine = [each for each in responses if each.method == arm.method]
        path = kept / f"{digest(settings, arm)}.npz"
        with alone(path, wait=True), replacing(path) as scratch, scratch.open("wb") as stream:
            np.savez_compressed(stream, rewards=_rewards(mine, config.names), lengths=_lengths(mine))


def _rewards(responses: Sequence[Response], names: Sequence[str]) -> Array:
    """[M, P, N]: weights and prompts in the order that they were answered in, means over a prompt's answers; NaN where
    a judge refused one.
    """
    places: dict[str, dict[str, list[list[float | None]]]] = {}
    for each in responses:
        at = places.setdefault(_place(each), {})
        at.setdefault(each.prompt, []).append([each.rewards[name] for name in names])
    return np.array(
        [[np.mean(np.array(at[prompt], dtype=float), axis=0) for prompt in sorted(at)] for at in places.values()]
    )


def _lengths(responses: Sequence[Response]) -> Array:
    lengths: dict[str, list[int]] = {}
    for each in responses:
        lengths.setdefault(_place(each), []).append(each.length)
    return np.array([np.mean(mine) for mine in lengths.values()])


def _place(each: Response) -> str:
    """Which point of its front a response belongs to."""
    return json.dumps([each.weights, each.draw])


def digest(settings: Settings, arm: Arm) -> str:
    """Names what an arm comes to with these settings, whatever it is called and wherever it runs."""
    return digest_of({**turned(settings, arm.changes), "methods": [arm.method]})
