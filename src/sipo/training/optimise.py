"""The optimisation loop, for policies and for reward models, one of them or several in the same steps.

It can be killed at any step and goes on from its file.
"""

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sipo.disk.damage import note
from sipo.disk.publishing import remove, replacing
from sipo.finite import NotFiniteError
from sipo.ranks import current
from sipo.training.learner import NAMELESS, Bar, Checkpoint, Job, Learner, Recipe, no_bar

DIGEST = hashlib.sha256().digest_size
"""Bytes of a digest, with which a checkpoint's file begins."""


def optimise(
    parameters: Sequence[Tensor],
    examples: int,
    backward: Callable[[list[int]], dict[str, float]],
    recipe: Recipe,
    *,
    validate: Callable[[], float] | None = None,
    job: Job = NAMELESS,
) -> list[dict[str, float]]:
    """Train the parameters in place, all of them together; returns a record for each step.

    `backward` adds the gradients of the mean loss of these examples, given by index, and returns numbers for the
    record, the `loss` among them; it must be the same function of the parameters in every try. `validate` is asked
    before the first step (`start_validation_loss` in its record) and after each epoch, the smaller the better. With a
    checkpoint, a killed training that is called again ends as if nothing had happened, bit by bit.

    Raises NotFiniteError, with the job's name, the step and the way out, for the first loss, gradient norm or parameter
    that is not finite: nothing is learned from it, and nothing kept.
    """
    learner = Learner(parameters, examples, recipe, job, validated=validate is not None)
    optimise_together(
        [learner],
        lambda batches: [backward(batch) for batch in batches.values()],
        lambda places: [validate() for _ in places] if validate else [],
        checkpoint=job.checkpoint,
        bar=job.bar,
    )
    if learner.failure is not None:
        raise NotFiniteError(learner.failure)
    return learner.history


def optimise_together(
    learners: Sequence[Learner],
    backward: Callable[[Mapping[int, list[int]]], Sequence[Mapping[str, float]]],
    validate: Callable[[Sequence[int]], Sequence[float]],
    *,
    checkpoint: Checkpoint | None = None,
    bar: Bar = no_bar,
) -> None:
    """Train several sets of parameters in the same steps, in place: the n-th step of the whole is that of each learner
    that has so many.

    `backward` is given the batch of each that still learns, by its number, and adds to each one's parameters the
    gradients of its batch's mean loss; it returns numbers for each, in the same order. All that is summed, over the
    pieces of a batch or over processes, is summed when it returns: clipping, the check and AdamW are functions of one
    learner's own whole gradient. `validate` returns the losses of these learners, whole ones too.

    One of whose numbers one is not finite is out from there on, with its `failure`; the others go on without it. With a
    checkpoint, of all of them at one step, killed trainings that are called again end as if nothing had happened, bit
    by bit: what they compute together depends on who is there. Where one failed, none is kept at the end.
    """
    states = current().agreed(lambda: _kept(checkpoint.path, learners) if checkpoint else None)
    for each, state in zip(learners, states or (), strict=states is not None):
        each.restore(state)
    fresh = [place for place, each in enumerate(learners) if each.validated and each.start is None and each.step == 0]
    for place, loss in zip(fresh, validate(fresh) if fresh else [], strict=True):
        learners[place].begin(loss)
    _tell_failures(learners, fresh)
    saved = time.monotonic()
    with bar(sum(each.steps for each in learners), sum(each.step for each in learners)) as advance:
        while learning := [place for place, each in enumerate(learners) if each.learns]:
            numbers = backward({place: learners[place].batch for place in learning})
            records = {p: learners[p].update(each) for p, each in zip(learning, numbers, strict=True)}
            stepped = [place for place in learning if learners[place].learns]
            due = [place for place in stepped if learners[place].measured_next]
            losses = dict(zip(due, validate(due) if due else [], strict=True))
            for place in stepped:
                learners[place].close(records[place], losses.get(place))
            _tell_failures(learners, learning)
            advance(len(learning), loss=sum(records[place]["loss"] for place in learning) / len(learning))
            if checkpoint and time.monotonic() - saved >= checkpoint.seconds:
                _save(checkpoint.path, learners)
                saved = time.monotonic()
    for each in learners:
        each.finish()
    forget_failure(checkpoint, learners)


def forget_failure(checkpoint: Checkpoint | None, learners: Sequence[Learner]) -> None:
    """Where a training has failed nothing of it is kept, from which every later try would end the same way."""
    if checkpoint and any(each.failure is not None for each in learners):
        remove(checkpoint.path)


def _tell_failures(learners: Sequence[Learner], places: Sequence[int]) -> None:
    """Of those at these places, to whom is left."""
    for each in (learners[place] for place in places):
        if each.failure is not None and any(other.learns for other in learners):
            each.job.warn(each.failure)


def _save(path: Path, learners: Sequence[Learner]) -> None:
    buffer = io.BytesIO()  # given a file, torch.save hides why the disk refused it
    torch.save({"names": _names(learners), "states": [each.state() for each in learners]}, buffer)
    with replacing(path) as scratch, scratch.open("wb") as stream:
        stream.write(hashlib.sha256(buffer.getbuffer()).digest())
        stream.write(buffer.getbuffer())


def _kept(path: Path, learners: Sequence[Learner]) -> list[dict[str, Any]] | None:
    """The states that were saved, if there are any that are whole and of these."""
    if not path.exists():
        return None
    content = path.read_bytes()
    digest, saved_state = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(saved_state).digest() != digest:
        note(f"{path}: the saved state of a training is damaged; that training begins again")
        return None
    saved: dict[str, Any] = torch.load(io.BytesIO(saved_state), weights_only=True)
    if saved.get("names") != _names(learners):
        note(f"{path}: the saved state is of other trainings; these begin again")
        return None
    return saved["states"]


def _names(learners: Sequence[Learner]) -> list[str]:
    return [each.job.name for each in learners]
