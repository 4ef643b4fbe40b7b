"""What every stage of a run shares: rows and the model, each read when first asked for. And its own settings."""

import gc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from sipo import weights
from sipo.bank import Bank, Policy
from sipo.bank.kinds import adapted_layers
from sipo.config import Config
from sipo.data import Row, Splits, conflict_subset, read_rows, split_rows
from sipo.data.making import make_rows
from sipo.declare.memory import Peaks
from sipo.declare.stage import Stage
from sipo.declare.work import Lengths
from sipo.disk.run import moment_of
from sipo.engines import Engine, Span, opened
from sipo.errors import SipoError
from sipo.graph.view import View
from sipo.logprobs.encoded import Encoded
from sipo.logprobs.packing import Group
from sipo.models.chat import Codec
from sipo.models.footprint import shape
from sipo.models.load import Backbone, load_backbone
from sipo.progress import Progress
from sipo.ranks import share_of
from sipo.settings import Execution, Model, Training
from sipo.words import quantity

Engines = Callable[[Execution, Bank], AbstractContextManager[Engine]]
"""What opens the configured engine; `sipo.engines.opened` does."""


def check_room(config: Config, context: int) -> None:
    """Raise SipoError where a prompt and a response as long as they may be do not fit the model's context."""
    longest = config.data.max_prompt_tokens + config.data.max_response_tokens
    if longest > context:
        raise SipoError(
            f"data.max_prompt_tokens + data.max_response_tokens = {longest} tokens, "
            f"over the model's context of {context}; lower one of them"
        )


def rows_file(config: Config, progress: Progress) -> Path:
    """Where the rows are; made first where they are not there and the configuration has a source for them."""
    path, source = config.data.path, config.data.source
    if source is not None:
        make_rows(path, source.name, source.choice, progress.say)
    return path


class Site:
    """A run's data and its model, loaded once for all stages."""

    def __init__(self, config: Config, progress: Progress, *, tokens: bool = True) -> None:
        """Without `tokens`, of the encoded rows only their lengths are held."""
        self.config, self.tokens = config, tokens
        self.engines: Engines = opened
        self.model = config.model
        self.progress = progress
        self._computed = 0

    @cached_property
    def moment(self) -> datetime:
        """When the run began, as far as it has: the date that chat templates are told."""
        return moment_of(self.config.run_dir) or datetime.now().replace(microsecond=0)

    @cached_property
    def rows(self) -> list[Row]:
        path = rows_file(self.config, self.progress)
        self.progress.begin(f"reading {path}")
        return read_rows(path, self.config.names)

    @cached_property
    def splits(self) -> Splits:
        data = self.config.data
        splits = split_rows(self.rows, seed=self.config.seed, validation=data.validation, test=data.test)
        if data.train_rows is not None or data.conflict_ratio is not None:
            train = conflict_subset(
                splits.train,
                self.config.names,
                size=data.train_rows,
                ratio=data.conflict_ratio,
                seed=self.config.seed,
                place=f"{data.path}, training split",
            )
            splits = replace(splits, train=train)
        for name, part, asked in (("training", splits.train, True), ("test", splits.test, data.test > 0)):
            if asked and not part:
                stated = all(row.split for row in self.rows)
                way_out = (
                    "all rows state another one; leave `split` out of some"
                    if stated
                    else "give more rows or change data.test"
                )
                raise SipoError(f"{data.path}: no row fell into the {name} split; {way_out}")
        return splits

    def stand_on(self, model: Model) -> None:
        """Go on with this backbone in place of the one loaded, which is freed.

        It must have the same tokenizer: what has been encoded stays.
        """
        _ = self.codec
        self._computed = self.computed
        self.model = model
        for name in ("bank", "backbone"):
            self.__dict__.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def backbone(self) -> Backbone:
        self.progress.begin(f"loading {self.model.path}")
        return load_backbone(self.model, self.config.execution.device)

    @cached_property
    def bank(self) -> Bank:
        config = self.config
        bank = Bank(self.backbone, recomputes=config.execution.gradient_checkpointing)
        self.progress.begin("holding the fast ways of computing against the plain one")
        return bank.proven(adapted_layers(self.backbone.model, config.policies, config.lora))

    def engine(self) -> AbstractContextManager[Engine]:
        """The configured engine, for the block; training has the memory again after it."""
        return self.engines(self.config.execution, self.bank)

    def span(self, policies: Iterable[Policy] = ()) -> Span:
        """Of policies over this backbone."""
        return Span(self.backbone.settings, tuple(policies))

    @cached_property
    def codec(self) -> Codec:
        data = self.config.data
        check_room(self.config, self.backbone.context)
        return Codec.of(self.backbone, self.config.model, data.max_prompt_tokens, data.max_response_tokens, self.moment)

    @cached_property
    def groups(self) -> Encoded:
        """Each row's prompt and its two responses, by row id and the prompt's key."""
        groups, parts = Encoded(holds=self.tokens), vars(self.splits).values()
        some = sum(map(len, parts)) < len(self.rows)
        used = {row.id for part in parts for row in part} if some else None
        codec = self.codec  # that the settings do not fit the model is no row's fault
        self.progress.begin(f"encoding {quantity(len(self.rows), 'row')}")
        for number, row in enumerate(self.rows, start=1):
            if used is not None and row.id not in used:
                continue
            try:
                if not groups.knows(row.key):
                    groups.add_prompt(row.key, codec.encode_prompt(row.prompt))
                texts = [codec.encode_text(response) for response in row.responses]
                whole = [len(text) + len(codec.closing) for text in texts]
                groups.add(row.id, row.key, [codec.closed(text) for text in texts], whole)
            except SipoError as error:
                raise SipoError(f"{self.config.data.path} row {number}: {error}") from None
        return groups

    def group(self, row: Row) -> Group:
        if self.groups.holds:
            return self.groups[row.id]
        first, second = map(self.codec.encode_response, row.responses)
        return Group(tuple(self.codec.encode_prompt(row.prompt)), (tuple(first), tuple(second)))

    @property
    def computed(self) -> int:
        """Tokens through the model so far. It is not loaded for the sake of the number."""
        bank: Bank | None = vars(self).get("bank")
        return self._computed + (bank.computed if bank else 0)

    def count(self, tokens: int) -> None:
        """Add tokens that went through the model past the bank."""
        self._computed += tokens


class Task:
    """A configuration, or a stage's view of one, with its data and its model, each read when first asked for.

    >>> task = sipo.Task(sipo.load_config("quickstart.yaml"))
    >>> task.objectives, len(task.rows)
    (('detail', 'plain'), 40)
    """

    def __init__(self, config: Config, progress: Progress | None = None, site: Site | None = None) -> None:
        self.config = config
        self.site = site or Site(config, progress or Progress())

    def of(self, stage: Stage) -> "Task":
        """The task as a stage sees it: with the keys that it declares, on the same data and model."""
        return Task(cast(Config, View(self.config, stage.reads, stage.name)), site=self.site)

    @property
    def progress(self) -> Progress:
        return self.site.progress

    @property
    def moment(self) -> datetime:
        return self.site.moment

    @property
    def model(self) -> Model:
        return self.site.model

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.config.names

    @property
    def rows(self) -> list[Row]:
        return self.site.rows

    @property
    def splits(self) -> Splits:
        return self.site.splits

    @cached_property
    def weights(self) -> list[weights.Weight]:
        return weights.grid(self.config.weights, self.config.names)

    @property
    def backbone(self) -> Backbone:
        return self.site.backbone

    @property
    def bank(self) -> Bank:
        return self.site.bank

    def engine(self) -> AbstractContextManager[Engine]:
        return self.site.engine()

    def span(self, policies: Iterable[Policy] = ()) -> Span:
        return self.site.span(policies)

    @property
    def codec(self) -> Codec:
        return self.site.codec

    def group(self, row: Row) -> Group:
        """The row's prompt and its two responses as token ids."""
        return self.site.group(row)

    def lengths(self, rows: Iterable[Row]) -> NDArray[np.int64]:
        """[row, 5] in tokens: of the prompt, of both responses, and of both before they were cut."""
        return self.site.groups.lengths(row.id for row in rows)

    def texts(self, row: Row) -> tuple[str, str]:
        """The row's two responses as the run uses them, cut where it cuts: what is judged is what is trained on."""
        first, second = row.responses
        return self.codec.used(first), self.codec.used(second)

    def together(self, policies: int, settings: Training) -> int:
        """How many of so many policies learn in the same steps, by `execution.train_together`: by what the machine has,
        and not by what is free, so that a run that goes on goes on as it was.
        """
        return self._peaks.together(policies, settings)

    def train_tokens(self, policies: int = 1) -> int:
        """In a forward of training so many policies, by `execution.train_tokens`; auto is by what the machine has,
        too.
        """
        return self._peaks.train_tokens(policies)

    @property
    def row_tokens(self) -> float:
        """Of a training row, prompt and both responses, on average."""
        rows = self.splits.train
        return int(self.lengths(rows)[:, :3].sum()) / len(rows)

    @property
    def _peaks(self) -> Peaks:
        """Of texts as long as they may be."""
        data, model = self.config.data, self.backbone.model
        limits = Lengths(data.max_prompt_tokens, data.max_response_tokens)
        where = share_of(model.device), model.device.type
        return Peaks(self.config, limits, model, shape(model), self.backbone.context, (), *where, self.row_tokens)

    def prompt_tokens(self, row: Row) -> tuple[int, ...]:
        return self.group(row).prompt
