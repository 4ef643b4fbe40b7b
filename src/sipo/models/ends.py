"""Where an answer ends: the tokens at which decoding stops, and those that close a given response."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sipo.data import Message
from sipo.errors import SipoError
from sipo.models.template import ChatTemplate

ASKED, SAID = "why", "because"


@dataclass(frozen=True)
class Ends:
    stops: frozenset[int]
    """Decoding ends with any of them."""
    closing: tuple[int, ...]
    """What stands behind a response that was given whole; the last one is a stop."""


def stated(model: PreTrainedModel) -> frozenset[int]:
    """The end tokens that a model's configuration and generation configuration name."""
    configs = (model.config, model.config.get_text_config(), model.generation_config)
    named = [getattr(config, "eos_token_id", None) for config in configs]
    ids = [id for each in named for id in (each if isinstance(each, list | tuple) else [each])]
    return frozenset(id for id in ids if isinstance(id, int) and id >= 0)


def find_ends(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate | None,
    stated: frozenset[int] = frozenset(),
    asked: Sequence[str] | None = None,
) -> Ends:
    """`asked` are the texts of end tokens that take the place of all others.

    Raises SipoError where one of them is no token.
    """
    own = [_id(tokenizer, text) for text in asked] if asked else [int(tokenizer.eos_token_id)]
    stops = frozenset(own) if asked else stated.union(own)
    alone, followed = (_behind(tokenizer, template, more) for more in (False, True)) if template else ([], [])
    for written in (alone, followed):
        if any(id in stops for id in written):
            before = list(takewhile(lambda id: id not in stops, written))
            return Ends(stops, tuple(written[: len(before) + 1]))
    special = added(tokenizer, alone) - {tokenizer.bos_token_id}
    if len(special) == 1 and not asked:
        (end,) = special
        return Ends(stops | special, tuple(alone[: alone.index(end) + 1]))
    return Ends(stops, (own[0],))


def framing(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None) -> frozenset[int]:
    """Added tokens that frame a template's turns, though the tokenizer may not call them special."""
    if template is None:
        return frozenset()
    chat = [Message("user", ASKED), Message("assistant", SAID), Message("user", ASKED)]
    try:
        text = template.render(chat, opening=False)
    except SipoError:  # told with the first prompt
        return frozenset()
    return added(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


def added(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> frozenset[int]:
    """Those that were added to the vocabulary, but for white space."""
    tokens = tokenizer.added_tokens_decoder
    return frozenset(id for id in ids if id in tokens and tokens[id].content.strip())


def _behind(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, followed: bool) -> list[int]:
    """The tokens that the chat template writes behind an assistant's turn, the chat's last or not."""
    chat = [Message("user", ASKED), Message("assistant", SAID)]
    try:
        text = template.render([*chat, Message("user", ASKED)] if followed else chat, opening=False)
    except SipoError:  # no prompt will do either, and that is told with the prompt
        return []
    head, found, rest = text.rpartition(SAID)
    if not found:
        return []
    before, whole = (list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (head + found, text))
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return list(tokenizer(rest, add_special_tokens=False)["input_ids"])


def _id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise SipoError(f"model.end_tokens: {text!r} is not one token of the model's tokenizer; name one that is")
    return int(ids[0])
