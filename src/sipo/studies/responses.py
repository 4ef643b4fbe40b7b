"""Table 2 of the paper: are the chosen responses better than those that each objective prefers?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from sipo.config.file import parse_config
from sipo.declare.parts import CANDIDATES
from sipo.errors import SipoError
from sipo.filters.contest import CHOSEN
from sipo.pareto.bootstrap import Array
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import decide, holm
from sipo.progress import Progress
from sipo.report.plots import dots_png
from sipo.rewards import Item, score_responses
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.studies.ground import Ground
from sipo.studies.intervals import Interval, difference_of_means, mean_over_seeds, outcome, shown, tested
from sipo.studies.study import Conclusion, Finding, Table
from sipo.task import Task
from sipo.words import quantity


@dataclass(frozen=True)
class ResponseStudy:
    name: str = "responses"
    question: str = (
        "What are the true rewards of the responses that each objective prefers, and of those that SIPO chose, over "
        "the rows that it chose for? (Table 2.)"
    )
    only: tuple[str, ...] = ()

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        """[rows, N] true rewards of each kind of response."""
        settings = ground.settings(seed, progress)
        config = parse_config({**settings, "methods": ["sipo"]}, self.name)
        progress.say(f"seed {seed}: up to the filter")
        task = Task(config)
        outputs = Outputs(run(config, until="filter", quiet=True), config)
        chosen = {each.row: each.response for each in outputs.read("filter", CANDIDATES) if each.fate == CHOSEN}
        rows = [
            row for row in task.splits.train
            if row.id in chosen and all(row.preferred[name] is not None for name in config.names)
        ]  # fmt: skip
        if not rows:
            raise SipoError(
                f"seed {seed}: of the {len(chosen)} rows that the filter chose a response for none has a label for "
                "every objective, so there is nothing to compare; sample more (sample.per_weight, sample.prompts)"
            )
        kinds = {
            f"preferred by {name}": [task.texts(row)[row.preferred[name] or 0] for row in rows] for name in config.names
        }
        kinds["chosen by sipo"] = [chosen[row.id] for row in rows]
        rewards = {}
        for kind, texts in kinds.items():
            items = [Item(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
            columns = score_responses(config.objectives, items, config.execution, moment=task.moment)
            rewards[kind] = np.stack([columns[name] for name in config.names], axis=1)
        whole = np.isfinite(np.stack(list(rewards.values()))).all(axis=(0, 2))  # a judge may refuse some
        if not whole.any():
            raise SipoError(f"seed {seed}: a judge refused a response to each of these rows; ask another judge")
        kept = {kind: each[whole].tolist() for kind, each in rewards.items()}
        return {"objectives": list(config.names), "maximise": list(config.maximise), "rewards": kept}

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        names, sign_N = seeds[0]["objectives"], signs(seeds[0]["maximise"])
        rewards = {kind: [np.array(seed["rewards"][kind]) for seed in seeds] for kind in seeds[0]["rewards"]}
        means = {kind: _means(each) for kind, each in rewards.items()}
        *rivals, chosen = rewards
        gains = {rival: _gains(rewards[chosen], rewards[rival], sign_N) for rival in rivals}
        stated = {
            f"chosen responses are better than those {rival}, on {name}": difference_of_means(
                [each[:, i] for each in gains[rival]]
            )
            for i, name in enumerate(names)
            for rival in rivals
        }
        rows = inf if len(seeds) > 1 else len(rewards[chosen][0])
        findings = []
        for (statement, gain), p in zip(stated.items(), holm([each.p for each in stated.values()]), strict=True):
            word, because = decide(gain, p, prompts=rows, family=len(stated))
            findings.append(Finding(statement, tested(gain, p, len(stated)), outcome(word), because=because))
        size = sum(map(len, rewards[chosen]))
        title = f"Mean true rewards over {quantity(size, 'row')} of {quantity(len(seeds), 'seed')}"
        table = Table(title, ["response", *names], [[kind, *map(shown, each)] for kind, each in means.items()])
        pictures = {"responses.png": dots_png(means, [f"{name}, mean true reward" for name in names])}
        return Conclusion([table], findings, pictures)


def _gains(mine: Sequence[Array], theirs: Sequence[Array], sign_N: Array) -> list[Array]:
    """[rows, N] of every seed, paired by row; positive is better."""
    return [sign_N * (ours - others) for ours, others in zip(mine, theirs, strict=True)]


def _means(rewards: Sequence[Array]) -> list[Interval]:
    """Of each objective, from [rows, N] of every seed."""
    return [mean_over_seeds(list(column)) for column in zip(*(each.T for each in rewards), strict=True)]
