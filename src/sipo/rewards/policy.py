"""Implicit rewards: log pi - log pi_ref of a policy that is a LoRA adapter over its base model."""

import gc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import torch

from sipo.bank import Bank, load_adapter
from sipo.bank.peft_folder import read_lora
from sipo.decoding import at_soup
from sipo.engines import Span, opened
from sipo.errors import SipoError
from sipo.logprobs.score import ScoreRequest
from sipo.models.chat import Codec
from sipo.models.load import find_device, identify, load_backbone, pick_dtype
from sipo.models.shapes import outline, shape_of
from sipo.rewards.interface import Item, named
from sipo.rewards.kinds.policy import Policy
from sipo.rewards.kinds.spec import Measure
from sipo.settings import Execution, Model

READS = 3
"""Another number whenever an item is read in another way: scores in the cache that are filed under others are not ours.
"""


class PolicyScorer:
    """log pi(y | x) - log pi_ref(y | x), natural, summed over tokens; beta is the objective's scale."""

    def __init__(self, settings: Policy, execution: Execution, moment: datetime | None = None) -> None:
        """`moment` is what a chat template with a date is told; None is now."""
        self.name, self.execution, self.moment = str(settings), execution, moment or datetime.now()
        self.folder = settings.policy
        self.adapter, lora = load_adapter(self.folder), read_lora(self.folder)
        base = settings.base or lora.base_model_name_or_path
        if not base:
            raise SipoError("the adapter names no base model; set base")
        self.model = Model(
            path=base,
            revision=None if settings.base else lora.revision,
            dtype=settings.dtype,
            prompt_template=settings.prompt_template,
        )
        where = find_device(execution.device)
        dtype = str(pick_dtype(where)) if settings.dtype == "auto" else settings.dtype
        content = json.dumps([READS, self.adapter.identity, identify(self.model), dtype])
        self.identity = hashlib.sha256(content.encode()).hexdigest()

    def check(self) -> None:
        shape = shape_of(self.model.path, self.model.revision)
        if shape is not None:
            load_adapter(self.folder, outline(shape))

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        backbone = load_backbone(self.model, self.execution.device)
        load_adapter(self.folder, outline(backbone.model.config))
        try:
            codec = Codec.of(backbone, self.model, backbone.context, backbone.context, self.moment)
            pairs = [_encoded(codec, item) for item in items]
            requests = [ScoreRequest(*pair, at_soup((share,))) for pair in pairs for share in (1.0, 0.0)]
            scored: dict[int, float] = {}
            with opened(self.execution, Bank(backbone)) as engine:
                for unit, logprob in engine.score(Span(self.model, (self.adapter,)), requests):
                    scored[unit] = logprob
                    index = unit // 2
                    if {2 * index, 2 * index + 1} <= scored.keys():
                        yield index, [scored.pop(2 * index) - scored.pop(2 * index + 1)]
        finally:
            del backbone
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _encoded(codec: Codec, item: Item) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and response as token ids."""
    prompt, response = codec.encode_prompt(item.prompt), codec.encode_response(item.response)
    tokens = len(prompt) + len(response)
    if tokens > codec.max_prompt_tokens:
        size = f"{tokens} tokens with its prompt, and the model takes {codec.max_prompt_tokens}"
        raise SipoError(f"{named(item)} has {size}; lower data.max_response_tokens")
    return tuple(prompt), tuple(response)


def measured(
    settings: Policy, criteria: Mapping[str, str], execution: Execution, moment: datetime | None
) -> tuple[PolicyScorer, dict[str, Measure]]:
    return PolicyScorer(settings, execution, moment), dict.fromkeys(criteria, Measure(scale=settings.beta))
