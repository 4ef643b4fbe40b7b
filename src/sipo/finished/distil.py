"""A mixture of a finished run as one policy: its stages are made in the run's folder, and hold there."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sipo.declare.parts import DISTILLED as POLICY
from sipo.declare.parts import RESPONSES, SAMPLES
from sipo.decoding import at_soup
from sipo.disk.writer import working
from sipo.errors import SipoError
from sipo.finished.built import MADE
from sipo.finished.handle import AlignedModel, FinishedRun
from sipo.graph.build import Graph
from sipo.graph.distil import distilled
from sipo.graph.key import subject_of
from sipo.methods.interface import Aligned
from sipo.pareto.bootstrap import Array, Resamples, filled, percentile_interval, resampled_means
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import mean_difference
from sipo.progress import Progress
from sipo.records import Response, comparable, rewards_of
from sipo.runs.pipeline import Work, make_all
from sipo.runs.status import read_subject
from sipo.stages.distil import BASE, DISTILLED, SOUP  # the methods' names
from sipo.task import Task
from sipo.weights import as_weight


@dataclass(frozen=True)
class Distilled:
    """A policy made of a mixture, and what it is worth beside that, on the same prompts with the same noise."""

    method: str
    """That it was made of."""
    answers: int
    """That it learned from."""
    prompts: int = 0
    """Of the points; 0 where no objective has a reward."""
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By method: rewards, their 95 % bootstrap intervals, and the mean length in tokens."""
    differences: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    """Of the distilled policy less each of the others, by objective, larger being better, and in `utility`: paired by
    prompt, with the t test's 95 % interval."""

    @property
    def mine(self) -> Mapping[str, Any] | None:
        """Its own point."""
        return self.points.get(DISTILLED)


def distil(
    run: FinishedRun, weights: Mapping[str, float], method: str, *, quiet: bool = False
) -> tuple[AlignedModel, Distilled]:
    """The policy, as a model of the run, and what was measured of it.

    Killed, the same call goes on with what is left. Raises SipoError where the method is one model at the weight
    already, or no mixture of models.
    """
    model, config = run.at(weights, method), run.config
    if model.aligned.only_asks or len(model.aligned.mixture.points) < 2:
        alike = "a way of asking the model" if model.aligned.only_asks else "one model"
        raise SipoError(f"`{method}` is {alike} at this weight, so there is no mixture to distil; leave --distil out")
    if not os.access(run.path, os.W_OK):
        raise SipoError(f"{run.path}: is read-only, and what is distilled is kept there; work on a copy")
    task = Task(config, Progress(run.path / "metrics.jsonl", quiet=quiet))
    graph = Graph(config.model_copy(update={"methods": (method,)}))
    weight = as_weight(weights, config.names, "weights")
    stages = distilled(graph, method, weight)
    with working(run.path, config.execution.checkpoint_seconds) as writer:
        work, known = Work(task, graph, subject_of(task), writer), read_subject(run.path)
        if other := [name for name in work.subject if work.subject[name] != known.get(name)]:
            raise SipoError(f"{run.path}: was made with other {' and '.join(other)} than are there now; put those back")
        with work.folder.locked():
            make_all(work, [each for each in stages if each], quiet=quiet)
    learned, samples = work.outputs.of(stages.policy[POLICY]), work.outputs.of(stages.answers[SAMPLES])
    found = AlignedModel(run, model.weights, f"{MADE}{method}", Aligned((learned,), at_soup((1.0,))))
    about = Distilled(method, sum(bool(each.weights) for each in samples))
    responses = comparable(work.outputs.of(stages.judged[RESPONSES])) if stages.judged else []
    return found, _measured(run, about, weight, responses) if responses else about


def _measured(run: FinishedRun, about: Distilled, weight: Sequence[float], responses: Sequence[Response]) -> Distilled:
    method = about.method
    names = [each.name for each in run.config.objectives if each.reward is not None]
    mine = {name: [each for each in responses if each.method == name] for name in (method, SOUP, DISTILLED, BASE)}
    rewards = {name: filled(rewards_of([each], names)) for name, each in mine.items()}
    prompts = rewards[method].shape[1]
    draws = Resamples(prompts, run.config.evaluate.bootstrap, run.config.seed)
    points = {
        name: {
            "rewards": dict(zip(names, each[0].mean(axis=0).tolist(), strict=True)),
            "interval": _intervals(names, resampled_means(each, draws)[:, 0]),
            "length": float(np.mean([answer.length for answer in mine[name]])),
        }
        for name, each in rewards.items()
    }
    sign, differences = signs([each.maximise for each in run.config.objectives if each.reward is not None]), {}
    for name in (method, SOUP, BASE):
        gains = (rewards[DISTILLED][0] - rewards[name][0]) * sign
        columns = dict(zip(names, gains.T, strict=True))
        if len(names) == len(weight):
            columns["utility"] = gains @ np.array(weight)
        differences[name] = {what: _interval(column) for what, column in columns.items()}
    return replace(about, prompts=prompts, points=points, differences=differences)


def _intervals(names: Sequence[str], sampled_T_N: Array) -> dict[str, tuple[float, float]]:
    return {name: percentile_interval(sampled_T_N[:, n]) for n, name in enumerate(names)}


def _interval(values_P: Array) -> tuple[float, float, float]:
    found = mean_difference(values_P)
    return (found.value, *found.interval())
