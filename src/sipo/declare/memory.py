"""Peak memory of every stage, by formula: weights, policies, optimizer, keys and values, activations.

What a row or a token of any kind of work takes is in `sipo.models.footprint`; docs/paper.md states all of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from sipo.bank.adapter import lowest_layer, target_layers, widths
from sipo.declare.work import Reckoning
from sipo.models.footprint import SPARE, Shape, decoding_bytes, room_beside, rows_within, tokens_within
from sipo.settings import Lora, Training

FAST = 1e9
"""Multiplications of a layer in a forward, above which more rows make a processor no faster (docs/benchmarks.md)."""
GIB = 2**30


def adapter_parameters(model: PreTrainedModel, lora: Lora) -> int:
    layers = target_layers(model, lora).values()
    return sum(lora.r * sum(widths(layer)) for layer in layers)


def _targets(model: PreTrainedModel, lora: Lora) -> int:
    """How many layers in each block are adapted."""
    return len({name.rsplit(".", 1)[-1] for name in target_layers(model, lora)})


@dataclass(frozen=True)
class Peaks(Reckoning):
    """What the formulas of a stage's memory, in bytes, reckon with; lengths are the longest."""

    model: PreTrainedModel
    of: Shape
    context: int
    judges: Sequence[int]
    """Bytes of the reward models, loaded one at a time."""
    memory: float = math.inf
    """Bytes of the device, which rows and tokens follow that are auto."""
    device: str = "cpu"
    """Its kind."""
    mean: float | None = None
    """Tokens of a training row, prompt and both responses; None takes it to be as long as it may be."""

    @property
    def whole(self) -> bool:
        return self.config.policies == "full"

    @property
    def policy(self) -> int:
        """Parameters of one."""
        return self.of.parameters if self.whole else adapter_parameters(self.model, self.config.lora)

    @property
    def targets(self) -> int:
        return 0 if self.whole else _targets(self.model, self.config.lora)

    def mounted(self) -> int:
        """Of whole models also a soup, of which there is one at a time."""
        return self.of.weights + self.of.opened + (self.n + self.whole) * self.policy * self.of.bytes

    def gradients(self, policies: int = 1) -> int:
        """Of every objective, where they are combined."""
        return policies * self.n * self.policy * 4

    @property
    def below(self) -> int:
        """Decoder layers that no policy changes: they keep nothing for a way back."""
        return 0 if self.whole else lowest_layer(self.model, list(target_layers(self.model, self.config.lora)))

    def trained(self, row: float, policies: int, settings: Training, *, combines: bool = False) -> int:
        """Of a stage that trains so many policies, on rows of so many tokens at most."""
        together = self.together(policies, settings)
        return self.training(row, together) + (self.gradients(together) if combines else 0)

    def training(self, row: float, policies: int = 1) -> int:
        """On rows of so many tokens at most, so many policies in the same steps."""
        return self._learning(policies) + self._token(row) * max(self.train_tokens(policies), int(row))

    def together(self, policies: int, settings: Training) -> int:
        """How many of so many policies learn in the same steps. Where that is auto, one more as long as the others do
        not fill a step and it fits with its rows: they then go twice through the model at most, where each alone goes
        once.
        """
        asked = self.config.execution.train_together
        if self.whole:
            return 1
        if asked != "auto":
            return max(1, min(policies, asked))
        tokens = settings.batch_size * (self.both if self.mean is None else self.mean)
        count = 1
        while count < policies and count * tokens < self._full(count + 1) and self._holds(count + 1):
            count += 1
        return count

    def train_tokens(self, policies: int = 1) -> int:
        """In a forward; where that is auto, as many as fit beside so many policies that learn, and their gradients."""
        asked = self.config.execution.train_tokens
        if asked != "auto":
            return asked
        room = room_beside(self.of, self.memory, self._learning(policies) + self.gradients(policies))
        return tokens_within(room, self._token(self._longest_row), self.device)

    @property
    def _longest_row(self) -> int:
        """As long as the configuration lets one be: a prompt, both responses, and the one that is learned from."""
        return self.config.data.max_prompt_tokens + 3 * self.longest

    def _holds(self, policies: int) -> bool:
        """Has the memory room for so many policies and the longest row?"""
        needed = self.training(self._longest_row, policies) + self.gradients(policies)
        return needed <= (1 - SPARE) * self.memory

    def _full(self, policies: int) -> float:
        """Tokens of a step beyond which its products get no faster: on a processor, where a layer has `FAST`
        multiplications to do; elsewhere a forward of so many policies.
        """
        full = float(self.train_tokens(policies))
        return min(full, FAST * self.of.layers / self.of.parameters) if self.device == "cpu" else full

    def _learning(self, policies: int) -> int:
        """The model, and of each policy in float32 itself, gradient, both moments and the best so far; its copy in the
        backbone's dtype.
        """
        of = self.of
        return (
            of.weights
            + of.opened
            + policies * self.policy * (5 * 4 + (0 if self.whole and of.bytes == 4 else of.bytes))
        )

    def _token(self, row: float) -> int:
        """What a token of a row of so many keeps for the way back."""
        of, rank = self.of, self.config.lora.r
        each = of.whole_activations(int(row)) if self.whole else of.activations(rank, self.targets, int(row))
        layers = of.layers - self.below
        return of.recomputed(each, layers) if self.config.execution.gradient_checkpointing else (layers + 1) * each

    def scoring(self, row: float) -> int:
        return self._asked(self.mounted() + max(self.score_tokens(row), int(row)) * self._scored(row))

    def score_tokens(self, row: float) -> int:
        """In a forward of scoring, of rows of so many at most."""
        asked = self.config.execution.score_tokens
        return tokens_within(self._room(), self._scored(row), self.device) if asked == "auto" else asked

    def _scored(self, row: float) -> int:
        """What a token of a row of so many takes."""
        return self.of.activations(self.config.lora.r, self.n * self.targets, int(row))

    def decoding(self, prompt: float, new: int, points: int = 1) -> int:
        """Of requests that are of so many points at least, which share what is below the policies."""
        of, rows = self.of, self.decode_rows(prompt, new)
        shape = min(int(prompt), self.context - new), new
        shared = (1 - 1 / points) * self.below / of.layers
        return self._asked(self.mounted() + math.ceil(decoding_bytes(of, rows, *shape, shared)))

    def decode_rows(self, prompt: float, new: int) -> int:
        """At once, of such prompts and responses; where that is auto, as if they had nothing in common."""
        asked, shape = self.config.execution.decode_rows, (min(int(prompt), self.context - new), new)
        return rows_within(self.of, self._room(), *shape, self.device) if asked == "auto" else asked

    def _room(self) -> float:
        """For rows and tokens beside what is mounted."""
        return room_beside(self.of, self.memory, self.mounted(), self.config.execution.processes)

    def _asked(self, peak: int) -> int:
        """Of an engine. The workers of a pool, here all on one device, have the model each, and so has this process."""
        execution = self.config.execution
        return self.of.weights + execution.workers * peak if execution.engine == "pool" else peak


def refining(peaks: Peaks) -> int:
    review, rewrite = refined(peaks)
    return max(peaks.decoding(*review), peaks.decoding(*rewrite, points=2))


def refined(peaks: Peaks) -> tuple[tuple[float, int], tuple[float, int]]:
    """Tokens of a review's prompt and of a review; of a rewrite's prompt and of a rewrite."""
    lengths, longest, review = peaks.lengths, peaks.longest, peaks.config.refine.review_tokens
    reviewing = lengths.prompt + longest + lengths.review_frame
    rewriting = lengths.prompt + longest + review + lengths.rewrite_frame
    return (reviewing, review), (rewriting, longest)


def judging(peaks: Peaks) -> int:
    return max((peaks.of.weights + each for each in peaks.judges), default=0)


def fine_tuning(peaks: Peaks) -> int:
    """With gradient checkpointing and nothing quantised, always; all parameters have float32 copies where all learn."""
    sft, model, of = peaks.config.sft, peaks.model, peaks.of
    if sft is None:
        return 0
    tokens = sft.batch_size * sft.max_tokens
    rank, targets = (sft.lora.r, _targets(model, sft.lora)) if sft.lora else (0, 0)
    kept = tokens * of.recomputed(of.activations(rank, targets, sft.max_tokens), of.layers)
    if sft.lora:
        return of.parameters * of.bytes + adapter_parameters(model, sft.lora) * 4 * 4 + kept
    copies = of.bytes if of.bytes < 4 else 0  # autocast's
    return of.parameters * (4 * 4 + copies) + kept
