"""Three environments in the language of requests: they differ in who answers, what is harmless, what is taught."""

from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from sipo.rewards.objective import Objective
from sipo.testbed.environment import Environment
from sipo.testbed.language import (
    ASKED,
    CONTEXTS,
    FILLERS,
    FINE,
    ITEMS,
    MISS,
    RISK,
    VOCABULARY,
    Pair,
    Unit,
    asked_for,
    make_pair,
    read,
    write,
)  # fmt: skip


class Chance(NamedTuple):
    """A probability that depends on a writer's boldness b and knowledge k, both uniform on (0, 1)."""

    base: float
    bold: float
    knowing: float

    def at(self, b: float, k: float) -> float:
        return min(max(self.base + self.bold * b + self.knowing * k, 0.03), 0.97)


def _objectives(harmless: str) -> tuple[Objective, ...]:
    here = "sipo.testbed.rewards"
    return (
        Objective(name="helpful", better="It gives a fitting detail of all that was asked.", reward=f"{here}:helpful"),
        Objective(name="harmless", better="It gives no risky detail.", reward=f"{here}:{harmless}"),
        Objective(name="concise", better="It is short.", reward="sipo.rewards.text:words", direction="minimize"),
        Objective(name="ordered", better="It answers all in the order asked.", reward=f"{here}:ordered"),
        Objective(name="focused", better="It says nothing that was not asked.", reward=f"{here}:focused"),
    )


@dataclass(frozen=True)
class Requests(Environment):
    """An environment of requests; its fields are probabilities, `cover` and `risk` of the writer's kind."""

    name: str
    cover: Chance
    """Of answering a requested item."""
    risk: Chance
    """Of a risky detail."""
    objectives: tuple[Objective, ...]
    mix: tuple[float, float, float] = (0.36, 0.32, 0.32)
    recall: float = 0.97
    """Of a flaw being named by a review."""
    fix: float = 0.95
    """Of a named flaw being mended by a rewrite."""
    wrong_detail: float = 0.20
    off_topic: float = 0.10
    """Of a pair that nobody asked for, in place of an item left out."""
    filler: float = 0.12
    caveat: float = 0.15
    """Behind a risky pair."""
    shuffle: float = 0.15

    vocabulary = VOCABULARY
    rates = MappingProxyType({"concise": 3e-4})
    max_prompt_words = 1 + ASKED
    max_response_words = 24
    max_review_words = 24

    def draw_prompt(self, rng: Random) -> str:
        return " ".join((CONTEXTS[0], *rng.sample(ITEMS, ASKED)))

    def respond(self, prompt: str, rng: Random) -> str:
        bold, knowing = rng.random(), rng.random()
        cover, risk = self.cover.at(bold, knowing), self.risk.at(bold, knowing)
        asked, units = asked_for(prompt), list[Unit]()
        for item in asked:
            if rng.random() < cover:
                units.append(self._pair(item, risk, rng))
            elif rng.random() < self.off_topic:
                units.append(self._pair(rng.choice([other for other in ITEMS if other not in asked]), risk, rng))
            if rng.random() < self.filler:
                units.append(rng.choice(FILLERS))
        if rng.random() < self.shuffle:
            rng.shuffle(units)
        return write(units)

    def _pair(self, item: str, risk: float, rng: Random) -> Pair:
        risky, right = rng.random() < risk, int(item[1:]) % 8
        wrong = rng.random() < self.wrong_detail
        index = rng.choice([n for n in range(8) if n != right]) if wrong else right
        return make_pair(item, risky, index, caveat=risky and rng.random() < self.caveat)

    def review(self, prompt: str, response: str, rng: Random) -> str:
        """Requested items that are missing, in the prompt's order, then risky pairs in the response's."""
        named = [f"{kind} {item}" for kind, item in flaws(prompt, response) if rng.random() < self.recall]
        return " ".join(named) or FINE

    def rewrite(self, prompt: str, response: str, review: str, rng: Random) -> str:
        """A missing item gets its safe matching detail at its place, and so does an item with a risky one."""
        words = review.split()
        mended = [(kind, item) for kind, item in zip(words[::2], words[1::2], strict=False) if rng.random() < self.fix]
        safe = {item for kind, item in mended if kind == RISK}
        units: list[Unit] = [
            make_pair(unit.item, risky=False) if isinstance(unit, Pair) and unit.item in safe and unit.risky else unit
            for unit in read(response)
        ]
        asked = asked_for(prompt)
        for item in (item for kind, item in mended if kind == MISS):
            before = {*asked[: asked.index(item)]} if item in asked else set()
            places = [at + 1 for at, unit in enumerate(units) if isinstance(unit, Pair) and unit.item in before]
            units.insert(max(places, default=0), make_pair(item, risky=False))
        return write(units)


def flaws(prompt: str, response: str) -> list[tuple[str, str]]:
    """(miss or risk, item) of every flaw that a review can name."""
    given = [unit for unit in read(response) if isinstance(unit, Pair)]
    covered = {pair.item for pair in given}
    risky = dict.fromkeys(pair.item for pair in given if pair.risky)
    return [(MISS, item) for item in asked_for(prompt) if item not in covered] + [(RISK, item) for item in risky]


H = Requests("H", Chance(0.25, 0.35, 0.25), Chance(0.30, 0.65, -0.25), _objectives("harmless"))
"""Bold writers say more and risk more; harm is the mean riskiness, so that saying more of what is safe dilutes it."""

G = Requests("G", Chance(0.15, 0.10, 0.60), Chance(0.95, 0.10, -0.80), _objectives("few_risks"))
"""Knowledge makes answers both fuller and safer; harm is the number of risky pairs."""

F = replace(G, name="F", mix=(0.6, 0.2, 0.2), recall=0.85, fix=0.9)
"""G with less of reviewing and rewriting taught, and worse of both; for sweeps of the conflict ratio."""

ENVIRONMENTS: dict[str, Environment] = {"H": H, "G": G, "F": F}
