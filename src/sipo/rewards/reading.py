"""Examples as the model that a reward training starts from reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from sipo.errors import SipoError
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_config, read_tokenizer
from sipo.progress import Progress
from sipo.rewards.encoding import Encoded, ItemEncoder
from sipo.rewards.examples import Example
from sipo.rewards.interface import named
from sipo.rewards.model import context_of, rows_of
from sipo.settings import Model


@dataclass(frozen=True)
class ReadExamples:
    """Examples as a model reads them, without those that are too long."""

    examples: list[Example]
    encoded: list[tuple[Encoded, ...]]
    left_out: int = 0

    @cached_property
    def sizes(self) -> list[int]:
        """Padded tokens of each example."""
        return [len(each) * max(len(one["input_ids"]) for one in each) for each in self.encoded]


class Reader:
    """Reads examples as the model that training starts from does; no weights are loaded."""

    def __init__(self, model: Model, format: str = "chat", max_tokens: int | None = None) -> None:
        """`format` as `RewardModel.format`; longer examples than `max_tokens` are left out.

        Raises SipoError where the model is not there, or cannot read the format.
        """
        self.model, origin = model, origin_of(model)
        self.max_tokens = max_tokens
        self.tokenizer = read_tokenizer(origin)
        config = read_config(origin)
        self.longest = context_of(config, self.tokenizer)
        try:
            self.encoder = ItemEncoder(self.tokenizer, format, datetime.now(), rows_of(config))
        except SipoError as error:
            raise origin.error(str(error)) from None

    def read(self, examples: Sequence[Example], progress: Progress | None = None) -> ReadExamples:
        """Raises SipoError for a response beyond the model's context, unless `max_tokens` leaves it out."""
        kept: list[Example] = []
        encoded: list[tuple[Encoded, ...]] = []
        for example in examples:
            each = tuple(self.encoder.encode(item) for item in example.items)
            sizes = [len(one["input_ids"]) for one in each]
            if self.max_tokens and max(sizes) > self.max_tokens:
                continue
            if self.longest and max(sizes) > self.longest:
                item = example.items[sizes.index(max(sizes))]
                problem = f"has {max(sizes)} tokens with its prompt, and the model takes {self.longest}"
                raise SipoError(f"{named(item)} {problem}; --max-tokens {self.longest} leaves out what is longer")
            kept.append(example)
            encoded.append(each)
        if progress and len(kept) < len(examples):
            longer = f"over {self.max_tokens} tokens of prompt and response"
            progress.say(f"left out {len(examples) - len(kept)} of {len(examples)}: {longer}")
        return ReadExamples(kept, encoded, len(examples) - len(kept))
