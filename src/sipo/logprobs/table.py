"""The table of sequence log-probabilities: computed once, read by every stage.

A row is a response to a prompt, both as token ids; a column is a model, named `reference`, `policy:helpful` or
`soup:0.4,0.6`. Losses, filter and realignment read it and never ask the model again.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sipo.bank.policy import Point
from sipo.decoding import at_soup
from sipo.disk.journal import Journal, Results, in_any_order
from sipo.disk.tables import read_parquet, write_parquet
from sipo.errors import SipoError
from sipo.finite import finite
from sipo.logprobs.packing import Group
from sipo.logprobs.score import ScoreRequest
from sipo.logprobs.sequences import Sequences, bytes_of
from sipo.weights import Weight, between, corners

if TYPE_CHECKING:
    from sipo.engines import Engine, Span

Array = NDArray[np.float64]
Tokens = tuple[int, ...]
REFERENCE = "reference"
SEQUENCES = ("prompt_tokens", "response_tokens")
"""The first columns on disk; every other is a model's, in float64, null where it was not asked."""
BATCH = 2048
"""Rows that are written and read at one time."""
AT_ONCE = 1 << 18
"""Responses and models that an engine is asked for at one time, at least where there are so many."""
LOWER = "lower align.lr and make it anew, or take another model.dtype"
"""The way out where a policy's numbers overflow."""


def policy(objective: str) -> str:
    return f"policy:{objective}"


def soup_at(weight: Weight) -> str:
    return "soup:" + ",".join(f"{share:g}" for share in weight)


def policy_points(objectives: Iterable[str]) -> dict[str, Point]:
    names = list(objectives)
    return {policy(name): corner for name, corner in zip(names, corners(len(names)), strict=True)}


def soup_points(weights: Iterable[Weight]) -> dict[str, Point]:
    """Those between the policies."""
    return {soup_at(weight): weight for weight in between(weights)}


class LogprobTable:
    """log pi(response | prompt), natural, summed over tokens; NaN where a model was not asked."""

    def __init__(self) -> None:
        self._prompts, self._responses = Sequences(), Sequences()
        self._prompt_of = array("i")
        self._columns: dict[str, int] = {}
        self._values = np.empty((0, 0))

    def __len__(self) -> int:
        """How many log-probabilities there are."""
        return int(np.isfinite(self._held).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of tokens and values, without the digests that find them (some 150 a sequence)."""
        return self._prompts.nbytes + self._responses.nbytes + 4 * len(self._prompt_of) + self._values.nbytes

    def of(self, group: Group, models: Sequence[str]) -> Array:
        """[response, model], all finite. Raises SipoError where one was not computed."""
        rows = self._places(group)
        for model in models:
            column = self._columns.get(model)
            if column is None or (rows < 0).any() or np.isnan(self._values[rows, column]).any():
                raise SipoError(
                    f"there is no log-probability under `{model}` of a response to a prompt of {len(group.prompt)} "
                    "tokens: rows or encoding changed since the table was made; `sipo run ... --from align`, "
                    "or from the first stage that there is, makes it anew"
                )
        return self._values[rows[:, None], [self._columns[model] for model in models]]

    def logratios(self, group: Group, models: Sequence[str]) -> Array:
        """[response, model]: log pi - log pi_ref, the models' implicit rewards over beta; larger is better."""
        logprobs = self.of(group, [*models, REFERENCE])
        return logprobs[:, :-1] - logprobs[:, -1:]

    def reference(self, group: Group) -> tuple[float, ...]:
        """log pi_ref of each response."""
        return tuple(self.of(group, [REFERENCE])[:, 0].tolist())

    def put(self, model: str, group: Group, values: Sequence[float] | Array) -> None:
        """Enter a model's log-probability of each response. Raises SipoError for one that is not finite."""
        finite(
            values, lambda place: f"log pi of a response of {len(group.responses[place])} tokens under `{model}`", LOWER
        )
        rows, column = self._rows(group), self._column(model)
        self._values[rows, column] = np.reshape(values, len(rows))  # one for each, or an error

    def fill(
        self,
        engine: "Engine",
        span: "Span",
        groups: Iterable[Group],
        models: Mapping[str, Point],
        journal: Journal,
    ) -> None:
        """Compute what is missing of every response of `groups` under every model; resumable.

        `models` gives each model's point in the span. A model that is the reference, since no policy of it changes
        anything, has the reference's values, to the last bit.
        """
        groups, still = list(groups), [name for name, point in models.items() if not span.moves(point)]
        asked = {name: point for name, point in models.items() if name not in still}
        if still:
            asked = {REFERENCE: (0.0,) * len(span.policies), **asked}
        by_prompt: dict[Tokens, dict[Tokens, None]] = {}
        for group in groups:
            by_prompt.setdefault(group.prompt, {}).update(dict.fromkeys(group.responses))
        wanted = [Group(prompt, tuple(responses)) for prompt, responses in by_prompt.items()]
        lacking = [self._lacking(group, list(asked)) for group in wanted]
        work = partial(_scores, engine, span, wanted, lacking, list(asked.values()))
        scored = iter(in_any_order(journal, sum(map(np.count_nonzero, lacking)), work))
        for group, absent in zip(wanted, lacking, strict=True):
            for model, mine in zip(asked, absent, strict=True):
                responses = tuple(compress(group.responses, mine))
                self.put(model, Group(group.prompt, responses), list(islice(scored, len(responses))))
        for model in still:
            for group in groups if model != REFERENCE else ():
                self.put(model, group, self.of(group, [REFERENCE])[:, 0])

    def write(self, path: Path) -> None:
        """Parquet: a row a response with its prompt, a column a model."""
        tokens = pa.list_(pa.int32())
        schema = pa.schema([*((name, tokens) for name in SEQUENCES), *((name, pa.float64()) for name in self._columns)])
        write_parquet(path, schema, self._batches(schema))

    def read(self, path: Path) -> "LogprobTable":
        """Add what a written table holds; returns itself."""
        for batch in read_parquet(path, BATCH):
            if tuple(batch.schema.names[:2]) != SEQUENCES or batch.schema.field(0).type != pa.list_(pa.int32()):
                raise SipoError(
                    f"{path}: an earlier version of sipo wrote it; `sipo run ... --from align` makes it anew"
                )
            prompts, responses = (_each(batch.column(name)) for name in SEQUENCES)
            rows = [self._add(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
            for model in batch.schema.names[2:]:
                values = batch.column(model).to_numpy(zero_copy_only=False)
                column, given = self._column(model), ~np.isnan(values)
                self._values[np.array(rows, dtype=np.intp)[given], column] = values[given]
        return self

    @property
    def _held(self) -> Array:
        return self._values[: len(self._responses)]

    def _places(self, group: Group) -> NDArray[np.intp]:
        """The row of each response, -1 where there is none."""
        context = self._prompts.find(bytes_of(group.prompt))
        found = [None if context is None else self._responses.find(bytes_of(y), context) for y in group.responses]
        return np.array([-1 if row is None else row for row in found], dtype=np.intp)

    def _rows(self, group: Group) -> NDArray[np.intp]:
        """The row of each response, a new one where there is none."""
        prompt = bytes_of(group.prompt)
        return np.array([self._add(prompt, bytes_of(response)) for response in group.responses], dtype=np.intp)

    def _add(self, prompt: bytes, response: bytes) -> int:
        context = self._prompts.add(prompt)
        row = self._responses.add(response, context)
        if row == len(self._prompt_of):
            self._prompt_of.append(context)
            self._reserve(row + 1, len(self._columns))
        return row

    def _column(self, model: str) -> int:
        column = self._columns.setdefault(model, len(self._columns))
        self._reserve(len(self._responses), len(self._columns))
        return column

    def _reserve(self, rows: int, columns: int) -> None:
        """Room for so many, a quarter more rows whenever there are too few."""
        before = self._values.shape
        if rows > before[0] or columns > before[1]:
            room = max(rows + rows // 4, before[0]) if rows > before[0] else before[0]
            values = np.full((room, max(columns, before[1])), np.nan)
            values[: before[0], : before[1]] = self._values
            self._values = values

    def _lacking(self, group: Group, models: Sequence[str]) -> NDArray[np.bool_]:
        """[model, response]: what has not been scored."""
        rows, columns = self._rows(group), [self._column(model) for model in models]
        return np.isnan(self._values[rows[:, None], columns]).T

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        prompts = self._prompts.lists()
        for start in range(0, len(self._responses), BATCH):
            stop = min(start + BATCH, len(self._responses))
            numbers = pa.array(self._prompt_of[start:stop], pa.int32())
            values = [pa.array(column, from_pandas=True) for column in self._values[start:stop].T]
            sequences = [prompts.take(numbers), self._responses.lists(start, stop)]
            yield pa.RecordBatch.from_arrays([*sequences, *values], schema=schema)


def _scores(
    engine: "Engine",
    span: "Span",
    groups: Sequence[Group],
    lacking: Sequence[NDArray[np.bool_]],
    points: Sequence[Point],
    done: Collection[int],
) -> Results:
    """What is lacking, by number, of about so many responses at a time."""
    mixtures, start = [at_soup(point) for point in points], 0
    requests: list[ScoreRequest] = []
    for place, (group, absent) in enumerate(zip(groups, lacking, strict=True), start=1):
        requests += (
            ScoreRequest(group.prompt, response, mixture)
            for mixture, mine in zip(mixtures, absent, strict=True)
            for response in compress(group.responses, mine)
        )
        if len(requests) < AT_ONCE and place < len(groups):
            continue
        known = {number for number in range(len(requests)) if start + number in done}
        for number, score in engine.score(span, requests, known) if len(known) < len(requests) else ():
            yield start + number, score
        start, requests = start + len(requests), []


def _each(lists: pa.ListArray) -> Iterator[bytes]:
    """The tokens of every list of an Arrow array."""
    tokens, ends = lists.flatten().to_numpy().tobytes(), lists.offsets.to_numpy()
    for start, end in zip(ends[:-1] - ends[0], ends[1:] - ends[0], strict=True):
        yield tokens[4 * start : 4 * end]
