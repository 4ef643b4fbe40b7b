"""Where an answer begins and ends: what leads to it, the tokens at which decoding stops, and those that close it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.template import ChatTemplate

ASKED, SAID = "why", "because"


@dataclass(frozen=True)
class Ends:
    stops: frozenset[int]
    """Decoding ends with any of them."""
    closing: tuple[int, ...]
    """What stands behind a response that was given whole; the last one is a stop."""


@dataclass(frozen=True)
class Beginning:
    """How a prompt leads to an answer, where the template writes answers otherwise than its header for the next turn.

    A model that thinks first is led into a thought (`<think>`), and one with channels into none; but the answers that a
    template writes, as those in the data, stand behind an empty thought or none, and in the last channel.
    """

    goes: str = ""
    """With which the header ends, and which is not before an answer."""
    comes: str = ""
    """What stands there instead."""
    space: str = ""
    """The white space with which an answer begins."""

    @property
    def changes(self) -> bool:
        return bool(self.goes or self.comes)

    def lead(self, opened: str) -> str:
        """The prompt, of what the template opened."""
        return opened.removesuffix(self.goes) + self.comes if opened.endswith(self.goes) else opened


def find_beginning(template: ChatTemplate) -> Beginning:
    asked, said = Message("user", ASKED), Message("assistant", SAID)
    try:
        bare, opened = (template.render([asked], opening=opening) for opening in (False, True))
        head, found, _ = template.render([asked, said], opening=False).rpartition(SAID)
    except SipoError:  # told with the first prompt
        return Beginning()
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(opened, head, strict=False)))
    goes, comes = opened[common:], head[common:]
    if not found or ASKED in goes + comes:
        return Beginning()
    if not (goes + comes).strip():
        return Beginning(space="" if goes else comes)
    if opened == bare:  # the template has no header that could be another
        return Beginning()
    kept = comes.rstrip(" ")
    return Beginning(goes, kept, comes[len(kept) :])


def stated(config: PretrainedConfig, generation: GenerationConfig | None) -> frozenset[int]:
    """The end tokens that a model's configuration and generation configuration name."""
    named = [getattr(each, "eos_token_id", None) for each in (config, config.get_text_config(), generation)]
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
        before = list(takewhile(lambda id: id not in stops, written))
        # Behind another mark it would be the next turn's.
        if len(before) < len(written) and (written is alone or not added(tokenizer, before)):
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
