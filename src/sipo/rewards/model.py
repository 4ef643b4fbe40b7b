"""Rewards by sequence-classification models: one forward gives the numbers of all heads."""

import gc
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from sipo.config import Execution, Model, RewardModel
from sipo.data.prompts import text_of
from sipo.errors import SipoError
from sipo.logprobs.packing import batches
from sipo.models.load import find_device, identify, pick_dtype
from sipo.rewards.classifier import labels_of, load_classifier, read_config, read_tokenizer
from sipo.rewards.interface import Item, named

Encoded = dict[str, list[int]]


class ModelScorer:
    """All heads of a reward model, as raw scores; which head, scale and shift an objective takes is not its matter."""

    def __init__(self, name: str, settings: RewardModel, execution: Execution) -> None:
        self.name, self.settings, self.token_budget = name, settings, execution.score_tokens
        self.device = find_device(execution.device)
        self.dtype = pick_dtype(self.device) if settings.dtype == "auto" else getattr(torch, settings.dtype)
        self.config = read_config(settings)
        model = Model(path=settings.model, revision=settings.revision)
        commit = getattr(self.config, "_commit_hash", None)
        content = json.dumps([identify(model), commit, str(self.dtype), settings.format])
        self.identity = hashlib.sha256(content.encode()).hexdigest()

    def column(self, head: int | str) -> int:
        """The index of a head. Raises SipoError where there is no such one."""
        labels = labels_of(self.config)
        if isinstance(head, int) and 0 <= head < len(labels):
            return head
        if head in labels:
            return labels.index(str(head))
        raise SipoError(f"it has no head `{head}`; name an index below {len(labels)}, or one of {', '.join(labels)}")

    def check(self) -> None:
        check_format(read_tokenizer(self.settings), self.settings.format)

    @torch.no_grad()
    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, list[float]]]:
        tokenizer = read_tokenizer(self.settings)
        check_format(tokenizer, self.settings.format)
        encoded = [encode(tokenizer, self.settings.format, item) for item in items]
        longest = context_of(self.config, tokenizer)
        for index, each in enumerate(encoded):
            if longest and len(each["input_ids"]) > longest:
                size = f"{len(each['input_ids'])} tokens with its prompt, and the model takes {longest}"
                raise SipoError(f"{named(items[index])} has {size}; lower data.max_response_tokens")
        classifier = load_classifier(self.settings, self.device, self.dtype)
        try:
            for indices in batches([len(each["input_ids"]) for each in encoded], self.token_budget):
                logits = forward(classifier.model, [encoded[index] for index in indices])
                scores = (logits - classifier.mean) / classifier.std
                yield from zip(indices, scores.tolist(), strict=True)
        finally:
            del classifier
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def context_of(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that the model takes; None where it does not say.

    Of an encoder the tokenizer knows: some of its positions may not be for tokens (RoBERTa counts from 2).
    """
    longest = getattr(config, "max_position_embeddings", None)
    if longest and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return min(longest, int(tokenizer.model_max_length))
    return longest


def encode(tokenizer: PreTrainedTokenizerBase, layout: str, item: Item) -> Encoded:
    """The item as the model reads it, in a `RewardModel.format`: the same in training and in scoring."""
    if layout == "chat":
        chat = [*(message._asdict() for message in item.prompt), {"role": "assistant", "content": item.response}]
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False)
        except TemplateError as error:  # such as a system message that the model does not know
            raise SipoError(f"{named(item)} does not fit the chat template ({error}); set another format") from None
        return dict(tokenizer(text, add_special_tokens=False))
    if layout == "pair":
        return dict(tokenizer(text_of(item.prompt), item.response))
    values = {"prompt": text_of(item.prompt), "response": item.response, "eos": tokenizer.eos_token or ""}
    return dict(tokenizer(re.sub(r"\{(prompt|response|eos)\}", lambda place: values[place[1]], layout)))


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


def check_format(tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
    """Raise SipoError where the tokenizer lacks what a format needs."""
    if layout == "chat" and not tokenizer.chat_template:
        raise SipoError("there is no chat template; set format to pair or to a text with {prompt} and {response}")
    if "{eos}" in layout and tokenizer.eos_token is None:
        raise SipoError("its tokenizer has no end token for the {eos} of its format; leave it out")
