"""Which candidates truly are better than both originals, wherever rewards are known: counted, not estimated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from sipo.data import Row
from sipo.pareto.dominance import truly_better
from sipo.pareto.indicators import signs
from sipo.report.inputs import Inputs
from sipo.report.rewards import TrueRewards
from sipo.rewards import Item
from sipo.rewards.objective import Objective


@dataclass(frozen=True)
class Share:
    """A count of so many, with the 95 % Wilson interval of its share."""

    part: int
    whole: int

    @property
    def said(self) -> str:
        ends = binomtest(self.part, self.whole).proportion_ci(0.95, "wilson")
        return (
            f"{self.part} of {self.whole} ({100 * self.part / self.whole:.0f}\N{NO-BREAK SPACE}%, "
            f"95\N{NO-BREAK SPACE}% interval {100 * ends.low:.0f} to {100 * ends.high:.0f}\N{NO-BREAK SPACE}%)"
        )


@dataclass(frozen=True)
class Truth:
    chosen: Mapping[str, bool]
    """Of each row's chosen response; rows of which a reward is not known are left out."""
    candidates: Sequence[bool]
    """Of all candidates whose rewards are known."""

    def shares(self) -> tuple[Share, Share] | None:
        """Of the chosen and of all candidates; None where nothing is known."""
        if not self.chosen:
            return None
        return (
            Share(sum(self.chosen.values()), len(self.chosen)),
            Share(sum(self.candidates), len(self.candidates)),
        )


def truth(rows: Sequence[Row], inputs: Inputs, objectives: Sequence[Objective], true: TrueRewards) -> Truth:
    """At least as good as both originals in every objective, and better than each in one."""
    by_id = {row.id: row for row in rows}
    known: list[tuple[str, bool, bool]] = []
    for each in inputs.candidates:
        if each.row in by_id:
            row = by_id[each.row]
            found = _better(row, inputs.originals[row.id], each.response, objectives, true)
            if found is not None:
                known.append((row.id, inputs.chosen.get(row.id) is each, found))
    return Truth({row: better for row, chosen, better in known if chosen}, [better for *_, better in known])


def _better(
    row: Row, originals: tuple[str, str], response: str, objectives: Sequence[Objective], true: TrueRewards
) -> bool | None:
    rewards = [
        [true.get(Item(row.prompt, text), {}).get(each.name) for each in objectives] for text in (*originals, response)
    ]
    if any(value is None for each in rewards for value in each):
        return None
    signed = np.array(rewards, dtype=float) * signs([each.maximise for each in objectives])
    return bool(truly_better(signed[2:], signed[:2])[0])
