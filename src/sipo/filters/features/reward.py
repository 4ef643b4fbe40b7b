"""What a trained reward model says of a response (`filter.reward_model`): the numbers of all its heads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sipo.errors import SipoError
from sipo.filters.contest import Array
from sipo.filters.features.spec import Answers, FeatureSpec

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.rewards.objective import Objective
    from sipo.task import Task


def heads(settings: Any) -> "list[Objective]":
    """Something to be scored for each head. Raises SipoError where there is no such model."""
    from sipo.rewards.classifier import labels_of, read_config
    from sipo.rewards.kinds.model import RewardModel
    from sipo.rewards.objective import Objective

    model = RewardModel(model=settings.reward_model, format=settings.reward_format)
    try:
        labels = labels_of(read_config(model))
    except SipoError as error:
        raise SipoError(f"filter.reward_model: {error}") from None
    return [
        Objective(name=f"head-{at}", better="-", reward=model.model_copy(update={"head": at}))
        for at in range(len(labels))
    ]


def _measure(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    from sipo.rewards import Item, score_responses

    items = [Item(each.prompt, text) for each in answers for text in each.texts]
    scored = score_responses(heads(task.config.filter), items, task.config.execution, task.progress, moment=task.moment)
    return np.split(np.array([*scored.values()]).T, np.cumsum([len(each.texts) for each in answers])[:-1])


def _fits(task: "Task") -> None:
    from sipo.rewards import check_rewards

    settings = cast(Any, task.config.filter)
    if settings.reward_model is None:
        raise SipoError(
            "filter.features: `reward` is what a reward model says, and filter.reward_model names none; name one, as "
            "`sipo reward train` makes them, or leave `reward` out"
        )
    check_rewards(heads(settings)[:1], task.config.execution, task.moment)


FEATURES = FeatureSpec("reward", "the numbers of a trained reward model's heads", _measure, fits=_fits)
