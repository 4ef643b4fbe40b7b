"""Scoring responses by a run's objectives: each scorer once for all objectives that name it, each item once ever."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sipo.errors import SipoError, first_line
from sipo.pareto.indicators import Array, signs
from sipo.places import cache_folder
from sipo.progress import Progress
from sipo.records import LARGEST
from sipo.rewards.cache import ScoreCache
from sipo.rewards.function import FunctionScorer
from sipo.rewards.interface import Item, Refused, Scored, Scorer, named
from sipo.rewards.kinds.registry import kind_of
from sipo.rewards.kinds.spec import Measure
from sipo.rewards.objective import Objective
from sipo.settings import Execution, Section

KEPT_EVERY = 1.0
"""Seconds between transactions of the cache: what a killed process loses at most, and the score under way."""


REFUSING = 16
"""Items of which a judge refuses every one: then it is not the items that it refuses."""


@dataclass(frozen=True)
class Provider:
    scorer: Scorer
    measures: dict[str, Measure]
    """By objective."""
    refusable: bool = False
    """May items stay without a score?"""
    compares: bool = False
    """Does it hold a response against another?"""


def check_rewards(
    objectives: Sequence[Objective], execution: Execution | None = None, moment: datetime | None = None
) -> None:
    """Raise SipoError, one line with the reward and the way out, for what would stop scoring later on.

    Loads no weights; a judge's endpoint is asked whether it is there.
    """
    for provider in _providers(objectives, execution, moment):
        with _naming(provider.scorer.name):
            provider.scorer.check()


def try_functions(objectives: Sequence[Objective], items: Sequence[Item]) -> None:
    """Raise SipoError where a reward that is a Python function does not give a finite number for each of these."""
    for each in objectives:
        if isinstance(each.reward, str):
            with _naming(each.reward):
                scorer = FunctionScorer(each.reward)
            list(_checked(scorer, items))


def score_responses(
    objectives: Sequence[Objective],
    items: Sequence[Item],
    execution: Execution | None = None,
    progress: Progress | None = None,
    *,
    cache: Path | None = None,
    moment: datetime | None = None,
) -> dict[str, list[float]]:
    """A number for every item, in order, for each objective that has a reward, in its own direction: finite, or NaN
    where a judge refused the item.

    Models and judges are asked only for what `cache` (default: in the user's cache folder) does not hold, and
    what they say is kept there as it comes. `moment` is what chat templates with a date are told; None is now.

    Raises SipoError, one line with the reward, the item and the way out.
    """
    columns = {
        name: [
            math.nan if isinstance(row, Refused) else measure.scale * row[measure.column] + measure.shift
            for row in rows
        ]
        for name, measure, rows in _asked(_providers(objectives, execution, moment), items, cache, progress)
    }
    return {each.name: columns[each.name] for each in objectives if each.reward is not None}


def first_preferred(
    objectives: Sequence[Objective],
    items: Sequence[Item],
    execution: Execution | None = None,
    progress: Progress | None = None,
    *,
    moment: datetime | None = None,
) -> dict[str, list[float]]:
    """For each objective whose judge compares: of every item, the share of its readings in which the judge found better
    what it read first, NaN where it refused. .5 on every item is a judge that does not go by the place.

    Nothing is asked that `score_responses` of the same items has asked.
    """
    comparing = _providers([each for each in objectives if each.compares], execution, moment)
    return {
        name: [math.nan if isinstance(row, Refused) else row[measure.first] for row in rows]
        for name, measure, rows in _asked(comparing, items, None, progress)
        if measure.first is not None
    }


def _asked(
    providers: Sequence[Provider], items: Sequence[Item], cache: Path | None, progress: Progress | None
) -> Iterator[tuple[str, Measure, list[Scored]]]:
    """By objective: what its number is in a row, and the rows, one for every item."""
    progress = progress or Progress(quiet=True)
    for provider in providers:
        asked = items if provider.compares else [item._replace(against=None) for item in items]
        rows = _scored(provider.scorer, asked, cache, progress)
        _tell_refused(provider, asked, rows, progress)
        for name, measure in provider.measures.items():
            yield name, measure, rows


def signed_rewards(
    objectives: Sequence[Objective],
    items: Sequence[Item],
    execution: Execution | None = None,
    progress: Progress | None = None,
    *,
    moment: datetime | None = None,
) -> Array:
    """[items, N]: as `score_responses`, for objectives that all have a reward, with signs so that larger is better."""
    columns = score_responses(objectives, items, execution, progress, moment=moment)
    return np.stack([columns[each.name] for each in objectives], axis=1) * signs([each.maximise for each in objectives])


def _providers(objectives: Sequence[Objective], given: Execution | None, moment: datetime | None) -> list[Provider]:
    """What scores each objective. Where that goes by words, objectives that name the same are asked about together.

    Heads of one model need no such care: its numbers are filed for all heads, so the second finds the first's.
    """
    execution, providers, together = given or Execution(), [], dict[str, list[Objective]]()
    for each in objectives:
        if isinstance(each.reward, Section) and kind_of(each.reward).by_words:
            together.setdefault(f"{kind_of(each.reward).name} {each.reward.model_dump_json()}", []).append(each)
        elif each.reward is not None:
            providers.append(_provider([each], execution, moment))
    return [*providers, *(_provider(group, execution, moment) for group in together.values())]


def _provider(objectives: Sequence[Objective], execution: Execution, moment: datetime | None) -> Provider:
    reward: Any = objectives[0].reward
    with _naming(reward):
        if isinstance(reward, str):
            return Provider(FunctionScorer(reward), {objectives[0].name: Measure()})
        kind = kind_of(reward)
        # What does not say that it goes by words is told none: their change would judge nothing anew.
        criteria = {each.name: each.better if kind.by_words else "" for each in objectives}
        scorer, measures = kind.scorer(reward, criteria, execution, moment)
        return Provider(scorer, measures, kind.refusable(reward), kind.compares(reward))


def _tell_refused(provider: Provider, items: Sequence[Item], rows: Sequence[Scored], progress: Progress) -> None:
    """One line of how many items are without a score; an error where none may be."""
    refused = [(item, row.reason) for item, row in zip(items, rows, strict=True) if isinstance(row, Refused)]
    if not refused:
        return
    item, reason = refused[0]
    line = f"reward `{provider.scorer.name}`: refused {len(refused)} of {len(items)}, the first {named(item)}: {reason}"
    if not provider.refusable:
        raise SipoError(f"{line}; set on_refusal: skip to go on without their scores")
    progress.say(f"{line}; they have no score")


def _scored(scorer: Scorer, items: Sequence[Item], cache: Path | None, progress: Progress) -> list[Scored]:
    """The scorer's numbers for every item, from the cache where it keeps them."""
    if scorer.identity is None:
        found = dict(_checked(scorer, items))
        return [found[index] for index in range(len(items))]
    store = ScoreCache(cache or cache_folder() / "rewards.sqlite")
    try:
        unkept: dict[Item, Scored] = {}
        for _ in range(2):  # a file that turns out to be damaged halfway takes what was found in it along
            known = {item: unkept.get(item) or store.get(scorer.identity, item) for item in dict.fromkeys(items)}
            missing = [item for item, found in known.items() if found is None]
            if missing:
                heard = any(isinstance(found, list) for found in known.values())
                unkept.update(_fill(store, scorer.identity, scorer, missing, progress, heard))
        # What another process put there meanwhile counts: one value for an item, whoever asks.
        return [store.get(scorer.identity, item) or unkept.get(item) or [] for item in items]
    finally:
        store.close()


def _fill(
    store: ScoreCache, identity: str, scorer: Scorer, items: Sequence[Item], progress: Progress, heard: bool
) -> dict[Item, Scored]:
    """Ask about the items and keep what is said. Refusals are kept once the judge was `heard`, that is, gave a score:
    an account or a setting that has it refuse everything is no matter of the items. Returns what was not kept.
    """
    ready: list[tuple[Item, Scored]] = []
    kept = time.monotonic()
    with progress.track(scorer.name, len(items)) as advance:
        try:
            for index, numbers in _checked(scorer, items):
                ready.append((items[index], numbers))
                heard = heard or not isinstance(numbers, Refused)
                if heard and time.monotonic() - kept >= KEPT_EVERY:
                    store.put(identity, ready)
                    ready, kept = [], time.monotonic()
                advance(1)
        finally:
            if heard:
                store.put(identity, ready)
    if not heard and len(ready) >= REFUSING:
        places = {item: at for at, item in enumerate(items)}
        item, refused = min(ready, key=lambda each: places[each[0]])  # they come in any order
        reason = refused.reason if isinstance(refused, Refused) else ""
        raise SipoError(
            f"reward `{scorer.name}`: refused all {len(ready)}, the first {named(item)}: {reason}; see the account, "
            "the model and options there, or ask another judge; nothing of it is kept"
        )
    return {} if heard else dict(ready)


def _checked(scorer: Scorer, items: Sequence[Item]) -> Iterator[tuple[int, Scored]]:
    """What a scorer says, as finite floats, and whatever goes wrong as a line that names it."""
    with _naming(scorer.name):
        for index, values in scorer.score(items):
            if isinstance(values, Refused):
                yield index, values
                continue
            numbers = [_number(value) for value in values]
            for number, value in zip(numbers, values, strict=True):
                if not abs(number) <= LARGEST:
                    raise SipoError(
                        f"gave {_repr(value)} for {named(items[index])}; return a finite number for each, "
                        f"of at most {LARGEST:g}"
                    )
            yield index, numbers


@contextmanager
def _naming(reward: object) -> Iterator[None]:
    """Puts the reward's name before whatever goes wrong in the block."""
    try:
        yield
    except SipoError as error:
        raise SipoError(f"reward `{reward}`: {error}") from error.__cause__
    except RuntimeError as error:
        reason = first_line(error)
        way_out = "with too little memory, lower execution.score_tokens"
        raise SipoError(f"reward `{reward}`: failed with {type(error).__name__}: {reason}; {way_out}") from error


def _number(value: Any) -> float:
    """As a float; NaN for what is no number, text included."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:  # what a class of one's own may raise
        return math.nan


def _repr(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"
