"""Prompts and responses as token ids: what the model reads and what it writes never meet as one string."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerBase

from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.ends import ASKED, SAID, Beginning, Ends, added, find_beginning, find_ends, framing, stated
from sipo.models.load import Backbone
from sipo.models.plain import Plain, frame, within
from sipo.models.template import ChatTemplate
from sipo.settings import Model


class TooLongError(SipoError):
    """A prompt has more tokens than there is room for."""


@dataclass(frozen=True)
class Codec:
    """Encodes chats in the model's own format and decodes what it generated.

    `max_response_tokens` cuts every response alike, given or generated. A response that was cut carries no
    end token, because its writer had not finished. What is written in a prompt or a response stays text: the only
    special tokens are those of the format.
    """

    tokenizer: PreTrainedTokenizerBase
    max_prompt_tokens: int
    max_response_tokens: int
    prompt_template: str | None = None
    stated: frozenset[int] = frozenset()
    """End tokens that the model names beside its tokenizer's."""
    end_tokens: tuple[str, ...] | None = None
    """The only ones, as `model.end_tokens` has them."""
    moment: datetime = field(default_factory=datetime.now)
    """What a chat template with a date is told."""
    rows: int = sys.maxsize
    """Of the model's embedding, which every token must have one of."""
    thinking: bool = False
    """Do answers begin where the template's header ends, with a thought, as `model.thinking` has it?"""

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        settings: Model,
        max_prompt_tokens: int,
        max_response_tokens: int,
        moment: datetime | None = None,
    ) -> "Codec":
        """`moment` None is now. Raises SipoError where the end of a response has no row in the model's embedding."""
        embedding: Any = backbone.model.get_input_embeddings()
        ends = stated(backbone.model.config, backbone.model.generation_config)
        codec = cls(
            backbone.tokenizer, max_prompt_tokens, max_response_tokens, settings.prompt_template,
            ends, settings.end_tokens, moment or datetime.now(), len(embedding.weight), settings.thinking,
        )  # fmt: skip
        within(codec.closing, codec.rows, codec.tokenizer)
        return codec

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template, where prompts are in its format."""
        if self.prompt_template is not None or not self.tokenizer.chat_template:
            return None
        return ChatTemplate(self.tokenizer, self.moment)

    @cached_property
    def _ends(self) -> Ends:
        return find_ends(self.tokenizer, self.template, self.stated, self.end_tokens)

    @property
    def stops(self) -> frozenset[int]:
        """Decoding ends with any of these tokens."""
        return self._ends.stops

    @property
    def closing(self) -> tuple[int, ...]:
        """The tokens behind a given response, the last of which is a stop."""
        return self._ends.closing

    @cached_property
    def beginning(self) -> Beginning:
        """What leads to an answer beside the template's own header."""
        found = find_beginning(self.template) if self.template else Beginning()
        return Beginning() if self.thinking and found.changes else found

    @cached_property
    def plain(self) -> Plain:
        marks = framing(self.tokenizer, self.template)
        if self.thinking and self.template:
            found = find_beginning(self.template)
            marks -= added(self.tokenizer, Plain(self.tokenizer).usual(found.goes + found.comes))
        return Plain(self.tokenizer, marks | added(self.tokenizer, self.stops))

    @cached_property
    def _start(self) -> tuple[str, bool]:
        """White space that a response begins with, and whether it is encoded as a text behind another.

        As the tokenizer reads prompt and response together. In a plain format, a line break or space before is a text.
        """
        if self.template is None:
            return "", (self.prompt_template or "")[-1:].isspace()
        try:
            before = self.beginning.lead(self.template.render([Message("user", ASKED)], opening=True))
        except SipoError:  # told with the first prompt
            return "", False
        known, read = (self.plain.usual(before + more) for more in ("", self.beginning.space + SAID))
        for space, behind in product(("", self.beginning.space), (False, True)):
            if read == [*known, *self.plain.encode(space + SAID, behind=behind)]:
                return space, behind
        return "", False

    def encode_prompt(self, prompt: Sequence[Message], limit: int | None = None) -> list[int]:
        """Token ids up to where the response begins. Raises TooLongError beyond `limit` (default max_prompt_tokens)."""
        start = prompt[-1].content[:60]
        contents, marks = self.plain.marked([message.content for message in prompt])
        chat = [Message(role, content) for (role, _), content in zip(prompt, contents, strict=True)]
        if self.template is not None:
            try:
                opened = self.template.render(chat, opening=True)
                ids = self.plain.encode_marked(self.beginning.lead(opened), marks)
            except SipoError as problem:
                raise SipoError(
                    f"the prompt {start!r}... {problem}; change its messages, or set model.prompt_template"
                ) from None
        elif self.prompt_template is not None:
            ids = self._fill(self.prompt_template, chat, marks)
        else:
            raise SipoError("the model's tokenizer has no chat template; set model.prompt_template, with {prompt}")
        limit = self.max_prompt_tokens if limit is None else limit
        if len(ids) > limit:
            raise TooLongError(
                f"the prompt {start!r}... has {len(ids)} tokens, over the limit of {limit}; "
                "raise data.max_prompt_tokens or leave the row out"
            )
        within(ids, self.rows, self.tokenizer)
        return ids

    def _fill(self, template: str, prompt: Sequence[Message], marks: tuple[str, str]) -> list[int]:
        """A chat in a plain format: turn after turn, each answer known by its tokens and closed by the end token.

        Messages with no answer between them, such as a system message and the user's, share a turn. What the tokenizer
        puts before a text (BOS) is there once, what it puts after one (EOS) is not.
        """
        opening, turns, turn = template.partition("{turns}")
        before, _, after = (turn if turns else template).partition("{prompt}")
        text, waiting, ids = opening if turns else "", list[str](), list[int]()
        for number, message in enumerate(prompt):
            if message.role != "assistant":
                waiting.append(message.content)
            if message.role == "assistant" or number + 1 == len(prompt):
                text += before + "\n".join(waiting) + after
                written = self.plain.encode_marked(text, marks)
                ids += written[1:] if ids and written[:1] == [self.tokenizer.bos_token_id] else written
                text, waiting = "", []
            if message.role == "assistant":
                ids += [*self.plain.encode_marked(message.content, marks, behind=self._start[1]), *self.closing]
        first, _ = frame(self.tokenizer)
        return ids if ids[: len(first)] == first else [*first, *ids]

    def encode_text(self, text: str) -> list[int]:
        """What a response, or its beginning, is without an end."""
        space, behind = self._start
        return self.plain.encode(space + text, behind=behind)

    def encode_response(self, response: str, limit: int | None = None) -> list[int]:
        """Token ids with what closes a response, cut at `limit` (default max_response_tokens)."""
        return self.closed(self.encode_text(response), limit)

    def closed(self, text: Sequence[int], limit: int | None = None) -> list[int]:
        """The same of what `encode_text` gives."""
        ids = [*text, *self.closing][: limit or self.max_response_tokens]
        within(ids, self.rows, self.tokenizer)
        return ids

    def used(self, response: str) -> str:
        """The text of a response as it is trained on, scored and judged: cut where its tokens are cut."""
        return response if self.ends(response) else self.decode(self.encode_response(response))

    def ends(self, response: str) -> bool:
        """Whether it is short enough to be read whole, with the end token."""
        return len(self.encode_text(response)) + len(self.closing) <= self.max_response_tokens

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response, without its end."""
        kept = list(ids[:-1] if ids and ids[-1] in self.stops else ids)
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()
