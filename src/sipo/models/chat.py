"""Prompts and responses as token ids: what the model reads and what it writes never meet as one string."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sipo.data import Message, Row
from sipo.errors import SipoError


@dataclass(frozen=True)
class Codec:
    """Encodes chats in the model's own format and decodes what it generated.

    `max_response_tokens` cuts every response alike, given or generated. A response that was cut carries no
    end token, because its writer had not finished.
    """

    tokenizer: PreTrainedTokenizerBase
    max_prompt_tokens: int
    max_response_tokens: int
    prompt_template: str | None = None

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def encode_prompt(self, prompt: Sequence[Message], limit: int | None = None) -> list[int]:
        """Token ids up to where the response begins. Raises SipoError beyond `limit` (default max_prompt_tokens)."""
        if self.tokenizer.chat_template and self.prompt_template is None:
            chat = [message._asdict() for message in prompt]
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        elif self.prompt_template is not None:
            ids = self._fill(self.prompt_template, prompt)
        else:
            raise SipoError("the model's tokenizer has no chat template; set model.prompt_template, with {prompt}")
        limit = limit or self.max_prompt_tokens
        if len(ids) > limit:
            start = prompt[-1].content[:60]
            raise SipoError(
                f"the prompt {start!r}... has {len(ids)} tokens, over the limit of {limit}; "
                "raise data.max_prompt_tokens or leave the row out"
            )
        return list(ids)

    def _fill(self, template: str, prompt: Sequence[Message]) -> list[int]:
        """A chat in a plain format: turn after turn, each answer known by its tokens and closed by the end token.

        Messages with no answer between them, such as a system message and the user's, share a turn.
        """
        opening, turns, turn = template.partition("{turns}")
        before, _, after = (turn if turns else template).partition("{prompt}")
        text, waiting, ids = opening if turns else "", list[str](), list[int]()
        for number, message in enumerate(prompt):
            if message.role != "assistant":
                waiting.append(message.content)
            if message.role == "assistant" or number + 1 == len(prompt):
                text += before + "\n".join(waiting) + after
                ids += self.tokenizer(text, add_special_tokens=not ids)["input_ids"]
                text, waiting = "", []
            if message.role == "assistant":
                ids += [*self.tokenizer(message.content, add_special_tokens=False)["input_ids"], self.end]
        return ids

    def encode_response(self, response: str) -> list[int]:
        ids = list(self.tokenizer(response, add_special_tokens=False)["input_ids"])
        return ids[: self.max_response_tokens] if len(ids) >= self.max_response_tokens else [*ids, self.end]

    def used(self, response: str) -> str:
        """The text of a response as it is trained on, scored and judged: cut where its tokens are cut."""
        return response if self.ends(response) else self.decode(self.encode_response(response))

    def ends(self, response: str) -> bool:
        """Whether it is short enough to be read whole, with the end token."""
        return self.encode_response(response)[-1] == self.end

    def encode_row(self, row: Row) -> tuple[list[int], list[list[int]]]:
        return self.encode_prompt(row.prompt), [self.encode_response(response) for response in row.responses]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
