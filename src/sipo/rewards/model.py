"""Rewards by sequence-classification models: one forward gives the numbers of all heads."""

import gc
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from sipo.errors import SipoError
from sipo.finite import finite
from sipo.logprobs.packing import batches
from sipo.memory import Pieces
from sipo.models.footprint import tokens_worth
from sipo.models.load import find_device, identify, pick_dtype
from sipo.rewards.classifier import Classifier, check_head, labels_of, load_classifier, read_config, read_tokenizer
from sipo.rewards.encoding import READS, Encoded, ItemEncoder
from sipo.rewards.interface import Item, named
from sipo.rewards.kinds.model import RewardModel
from sipo.rewards.kinds.spec import Measure
from sipo.settings import Execution, Model


class ModelScorer:
    """All heads of a reward model, as raw scores; which head, scale and shift an objective takes is not its matter."""

    def __init__(self, name: str, settings: RewardModel, execution: Execution, moment: datetime | None = None) -> None:
        """`moment` is what a chat template with a date is told; None is now."""
        self.name, self.settings, self.execution = name, settings, execution
        self.device = find_device(execution.device)
        self.dtype = pick_dtype(self.device) if settings.dtype == "auto" else getattr(torch, settings.dtype)
        self.config = read_config(settings)
        model = Model(path=settings.model, revision=settings.revision)
        commit = getattr(self.config, "_commit_hash", None)
        self.moment = moment or datetime.now()
        self._about = [READS, identify(model), commit, str(self.dtype), settings.format]

    @cached_property
    def identity(self) -> str:
        return hashlib.sha256(json.dumps([*self._about, self._encoder.date]).encode()).hexdigest()

    @cached_property
    def _encoder(self) -> ItemEncoder:
        return ItemEncoder(read_tokenizer(self.settings), self.settings.format, self.moment, rows_of(self.config))

    def column(self, head: int | str) -> int:
        """The index of a head. Raises SipoError where there is no such one."""
        labels = labels_of(self.config)
        if isinstance(head, int) and 0 <= head < len(labels):
            return head
        if head in labels:
            return labels.index(str(head))
        raise SipoError(f"it has no head `{head}`; name an index below {len(labels)}, or one of {', '.join(labels)}")

    def check(self) -> None:
        _ = self._encoder
        check_head(self.settings)

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        encoded = [self._encoder.encode(item) for item in items]
        longest = context_of(self.config, self._encoder.tokenizer)
        for index, each in enumerate(encoded):
            if longest and len(each["input_ids"]) > longest:
                size = f"{len(each['input_ids'])} tokens with its prompt, and the model takes {longest}"
                raise SipoError(f"{named(items[index])} has {size}; lower data.max_response_tokens")
        asked = self.execution.score_tokens
        tokens = tokens_worth(self.device.type) if asked == "auto" else asked
        plan = batches([len(each["input_ids"]) for each in encoded], tokens)
        calls = [(indices, [encoded[index] for index in indices]) for indices in plan]
        waiting = set(range(len(items)))
        for indices, numbers in self._computed(calls):
            for index, row in zip(indices, numbers, strict=True):
                finite(row, f"the score of {named(items[index])}", "set its dtype to float32, or take another model")
            waiting.difference_update(indices)
            yield from zip(indices, numbers, strict=True)
        if waiting:
            raise SipoError(
                f"every actor of ray ended that scored {named(items[min(waiting)])}; give actors more memory, or lower "
                "execution.score_tokens"
            )

    def _computed(self, calls: Sequence[Any]) -> Iterator[tuple[Sequence[int], list[list[float]]]]:
        """The numbers of each batch, in any order."""
        given = (self.settings, self.execution.device, self.dtype)
        if self.execution.engine == "ray":
            from sipo.engines.cluster import Cluster

            with closing(Cluster(self.execution.ray)) as cluster:
                yield from cluster.mapped(Loaded, given, calls)
            return
        loaded = Loaded(*given)
        try:
            yield from map(loaded, calls)
        finally:
            del loaded
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


class Loaded:
    """A reward model in memory, from the first batch on."""

    def __init__(self, settings: RewardModel, device: str, dtype: torch.dtype) -> None:
        self.settings, self.device, self.dtype = settings, device, dtype
        self._pieces = Pieces("responses", "execution.score_tokens")

    @cached_property
    def classifier(self) -> Classifier:
        return load_classifier(self.settings, find_device(self.device), self.dtype)

    @torch.no_grad()
    def __call__(self, call: tuple[Sequence[int], Sequence[Encoded]]) -> tuple[Sequence[int], list[list[float]]]:
        indices, rows = call

        def scored(some: Sequence[Encoded]) -> list[list[float]]:
            logits = forward(self.classifier.model, some)
            return ((logits - self.classifier.mean) / self.classifier.std).tolist()

        return indices, self._pieces.slices(rows, scored)


def rows_of(config: PretrainedConfig) -> int:
    """Of the embedding: as many tokens as the model knows."""
    return int(getattr(config.get_text_config(), "vocab_size", None) or sys.maxsize)


def context_of(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that the model takes; None where it does not say.

    Of an encoder the tokenizer knows: some of its positions may not be for tokens (RoBERTa counts from 2).
    """
    longest = getattr(config, "max_position_embeddings", None)
    if longest and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return min(longest, int(tokenizer.model_max_length))
    return longest


def forward(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """The logits of all heads, float32 [rows, heads]; padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    pad = model.config.pad_token_id
    if pad is None:  # the models score the last token that is no padding: pad with one that is no row's last
        last = {row["input_ids"][-1] for row in rows}
        pad = next(token for token in range(len(last) + 1) if token not in last)
    fill: dict[str, Any] = {"input_ids": pad}
    inputs = {
        name: torch.tensor([row[name] + [fill.get(name, 0)] * (longest - len(row[name])) for row in rows])
        for name in rows[0]
    }
    given, model.config.pad_token_id = model.config.pad_token_id, pad
    try:
        output = model(**{name: values.to(model.device) for name, values in inputs.items()})
    finally:
        model.config.pad_token_id = given
    return output.logits.float()


def measured(
    settings: RewardModel,
    criteria: Mapping[str, str],
    execution: Execution,
    moment: datetime | None,
    name: str | None = None,
) -> tuple[ModelScorer, dict[str, Measure]]:
    """The head that the settings name, under the name of a preset where it has one."""
    scorer = ModelScorer(name or str(settings), settings, execution, moment)
    head = Measure(scorer.column(settings.head), settings.scale, settings.shift)
    return scorer, dict.fromkeys(criteria, head)
