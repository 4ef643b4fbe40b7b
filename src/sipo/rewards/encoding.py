"""Prompt and response as a reward model reads them: the same in training and in scoring."""

import re
import sys
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from sipo.data.prompts import text_of
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.ends import framing
from sipo.models.plain import Plain, frame, within
from sipo.models.template import ChatTemplate
from sipo.rewards.interface import Item, named

Encoded = dict[str, list[int]]
READS = 2
"""Another number whenever an item is read in another way: scores in the cache that are filed under others are not ours.
"""


@dataclass(frozen=True)
class ItemEncoder:
    """Encodes in a `RewardModel.format`. What is written in prompts and responses stays text.

    Raises SipoError where the tokenizer lacks what the format needs.
    """

    tokenizer: PreTrainedTokenizerBase
    format: str
    moment: datetime
    """What a chat template with a date is told."""
    rows: int = sys.maxsize
    """Of the model's embedding, which every token must have one of."""

    def __post_init__(self) -> None:
        if self.format == "chat" and not self.tokenizer.chat_template:
            raise SipoError("there is no chat template; set format to pair or to a text with {prompt} and {response}")
        if "{eos}" in self.format and self.tokenizer.eos_token is None:
            raise SipoError("its tokenizer has no end token for the {eos} of its format; leave it out")

    @property
    def date(self) -> str:
        """What the moment changes in what is read; empty where it is nothing."""
        if self.format != "chat" or not self._template.dated:
            return ""
        return self._template.render([Message("user", "")], opening=False)

    def encode(self, item: Item) -> Encoded:
        encoded = self._encoded(item)
        try:
            within(encoded["input_ids"], self.rows, self.tokenizer)
        except SipoError as problem:
            raise SipoError(f"{named(item)}: {problem}") from None
        return encoded

    def _encoded(self, item: Item) -> Encoded:
        if self.format == "chat":
            return self._chat(item)
        if self.format == "pair":
            return self._pair(text_of(item.prompt), item.response)
        (prompt, response), marks = self._plain.marked([text_of(item.prompt), item.response])
        values = {"prompt": prompt, "response": response, "eos": self.tokenizer.eos_token or ""}
        text = re.sub(r"\{(prompt|response|eos)\}", lambda place: values[place[1]], self.format)
        ids, (first, last) = self._plain.encode_marked(text, marks), frame(self.tokenizer)
        # What the tokenizer puts around a text is there once, whether or not the format has it, too.
        head = [] if ids[: len(first)] == first else first
        tail = [] if last and ids[-len(last) :] == last else last
        return self._filled([*head, *ids, *tail])

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.moment)

    @cached_property
    def _plain(self) -> Plain:
        return Plain(self.tokenizer, framing(self.tokenizer, self._template if self.format == "chat" else None))

    def _chat(self, item: Item) -> Encoded:
        messages = (*item.prompt, Message("assistant", item.response))
        contents, marks = self._plain.marked([message.content for message in messages])
        chat = [Message(role, content) for (role, _), content in zip(messages, contents, strict=True)]
        try:
            text = self._template.render(chat, opening=False)
        except SipoError as problem:
            raise SipoError(f"{named(item)} {problem}; set another format") from None
        return self._filled(self._plain.encode_marked(text, marks))

    def _pair(self, prompt: str, response: str) -> Encoded:
        if not (self._plain.found(prompt) or self._plain.found(response)):
            return dict(self.tokenizer(prompt, response))
        # The tokenizer's frame around a pair, with the texts' own ids put in.
        like = self.tokenizer("a", "a")
        texts, ids, kinds, placed = [self._plain.encode(prompt), self._plain.encode(response)], [], [], set[int]()
        for place, sequence in enumerate(like.sequence_ids()):
            if sequence in placed:
                continue
            new = [like["input_ids"][place]] if sequence is None else texts[sequence]
            placed.update([] if sequence is None else [sequence])
            ids += new
            kinds += [like.get("token_type_ids", [0] * len(like["input_ids"]))[place]] * len(new)
        return self._filled(ids, kinds)

    def _filled(self, ids: list[int], kinds: list[int] | None = None) -> Encoded:
        every = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": kinds or [0] * len(ids)}
        return {name: every[name] for name in self.tokenizer("a")}
