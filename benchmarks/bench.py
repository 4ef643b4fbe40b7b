"""What all works share: the model, random adapters and token ids, the routes' models, and the comparing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.alternatives.merged import merged_copies
from benchmarks.alternatives.switched import Switched
from benchmarks.floors import Need, Shape, shape_of
from benchmarks.hardware import Hardware
from benchmarks.measure import Measured, Route, interleaved
from benchmarks.model import random_adapter
from benchmarks.records import OURS, Agreement, Record, floor_records, time_record
from benchmarks.settings import Settings
from sipo.bank import Adapter, Bank
from sipo.bank.adapter import target_layers
from sipo.logprobs.packing import Group
from sipo.models.load import Backbone
from sipo.settings import Lora
from sipo.weights import Weight

Tokens = tuple[int, ...]
FIRST_TOKEN = 8
"""Ids below are often control tokens."""


class Bench:
    """`agreement` of `compare` judges each alternative's result against ours."""

    def __init__(self, settings: Settings, backbone: Backbone, hardware: Hardware) -> None:
        self.settings, self.backbone, self.hardware = settings, backbone, hardware
        self.bank = Bank(backbone).proven(target_layers(backbone.model, Lora()))  # before anything is counted
        self.model.generation_config.eos_token_id = None  # lengths are set by the benchmark

    @property
    def model(self) -> PreTrainedModel:
        return self.backbone.model

    @property
    def exact(self) -> bool:
        """Do routes that differ only in the order of sums agree on every token?"""
        return self.model.dtype == torch.float32

    @cached_property
    def shape(self) -> Shape:
        return shape_of(self.model)

    @cached_property
    def adapters(self) -> list[Adapter]:
        return self.new_adapters(self.settings.n)

    def new_adapters(self, n: int) -> list[Adapter]:
        return [random_adapter(self.model, self.settings.rank, self.settings.seed + i) for i in range(n)]

    @cached_property
    def switched(self) -> Switched:
        return Switched(self.backbone, self.adapters)

    @cached_property
    def merged(self) -> list[PreTrainedModel]:
        return merged_copies(self.backbone, self.adapters)

    def tokens(self, count: int, length: int, stream: int = 0) -> list[Tokens]:
        """Random token ids, `count` sequences of `length`; each stream has its own."""
        generator = torch.Generator().manual_seed(1000 * self.settings.seed + stream)
        high = self.model.config.get_text_config().vocab_size
        return [tuple(row) for row in torch.randint(FIRST_TOKEN, high, (count, length), generator=generator).tolist()]

    def prompts(self, count: int, length: int | None = None) -> list[Tokens]:
        return self.tokens(count, length or self.settings.prompt_tokens)

    def groups(self, prompts: int, responses: int, length: int, prompt_tokens: int | None = None) -> list[Group]:
        """Responses of different lengths, `length` tokens at most and three quarters of that on average."""
        drawn = self.tokens(prompts * responses, length, stream=1)
        cut = [y[: length - i % (length // 2 + 1)] for i, y in enumerate(drawn)]
        return [
            Group(prompt, tuple(cut[i * responses : (i + 1) * responses]))
            for i, prompt in enumerate(self.prompts(prompts, prompt_tokens))
        ]

    def weights(self, count: int, n: int | None = None) -> list[Weight]:
        """Inner points of the simplex, a different one for each prompt."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        shares = 0.1 + torch.rand(count, n or self.settings.n, generator=generator, dtype=torch.float64)
        return [tuple(row) for row in (shares / shares.sum(-1, keepdim=True)).tolist()]

    def measure(self, routes: Sequence[Route]) -> dict[str, Measured]:
        settings = self.settings
        return interleaved(routes, self.model.device, settings.repeats, settings.seconds)

    def compare(
        self,
        work: str,
        routes: Sequence[Route],
        tokens: int,
        agreement: Callable[[str, Any, Any], Agreement],
        need: Need | None = None,
        **details: Any,
    ) -> list[Record]:
        """Ours is the first route. `tokens` is what the whole work yields or scores; `agreement(name, ours, theirs)`
        judges results; `need` gives the floors.
        """
        measured = self.measure(routes)
        ours = measured[OURS]
        told = self.told(**details)
        records = []
        for route in routes[1:]:
            theirs = measured[route.name]
            judged = agreement(route.name, ours.result, theirs.result)
            shown = {**told, "share_measured": route.share} if route.share < 1 else told
            records.append(time_record(work, route.name, ours, theirs, judged, tokens, shown, self.hardware.as_json()))
        return records + (self.floors(work, ours, need, tokens, told) if need else [])

    def floors(self, work: str, ours: Measured, need: Need, tokens: int, told: Mapping[str, Any]) -> list[Record]:
        seconds = need.seconds(self.hardware)
        return floor_records(work, ours, seconds, tokens, dict(told), self.hardware.as_json())

    def told(self, **details: Any) -> dict[str, Any]:
        """The settings that a record carries."""
        return {**asdict(self.settings), "model": self.backbone.source, **details}
