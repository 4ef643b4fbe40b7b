"""The table of sequence log-probabilities: computed once, read by every stage.

Keys are (model, prompt, response) with prompt and response as token ids; models are named `reference`,
`policy:helpful`, `soup:0.4,0.6`. Losses, filter and realignment read it and never ask the model again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sipo.bank import Bank
from sipo.disk.journal import resumable
from sipo.disk.tables import read_parquet, write_parquet
from sipo.errors import SipoError
from sipo.logprobs.packing import Group, batches, worth_sharing
from sipo.logprobs.score import Point, score_rows
from sipo.progress import Progress
from sipo.weights import Weight, corners

Tokens = tuple[int, ...]
REFERENCE = "reference"


def policy(objective: str) -> str:
    return f"policy:{objective}"


def soup_at(weight: Weight) -> str:
    return "soup:" + ",".join(f"{share:g}" for share in weight)


def policy_points(objectives: Iterable[str]) -> dict[str, Point]:
    names = list(objectives)
    return {policy(name): corner for name, corner in zip(names, corners(len(names)), strict=True)}


class LogprobTable:
    def __init__(self) -> None:
        self._values: dict[tuple[str, Tokens, Tokens], float] = {}

    def __getitem__(self, key: tuple[str, Tokens, Tokens]) -> float:
        """log pi(response | prompt) of (model, prompt, response), natural, summed over tokens."""
        try:
            return self._values[key]
        except KeyError:
            model, prompt, response = key
            raise SipoError(
                f"there is no log-probability under {model} of a response ({len(response)} tokens) to its prompt "
                f"({len(prompt)}): they are not encoded as they were when the table was made; "
                "`sipo run ... --from align`, or from the first stage that there is, makes it anew"
            ) from None

    def logratio(self, model: str, prompt: Tokens, response: Tokens) -> float:
        """log pi - log pi_ref of a response: the model's implicit reward over beta; larger is better."""
        return self[model, prompt, response] - self[REFERENCE, prompt, response]

    def put(self, model: str, prompt: Tokens, response: Tokens, value: float) -> None:
        """Enter what was scored elsewhere."""
        self._values[model, prompt, response] = value

    def update(self, other: "LogprobTable") -> None:
        """Take over all entries of another table."""
        self._values.update(other._values)

    def __len__(self) -> int:
        return len(self._values)

    def fill(
        self,
        bank: Bank,
        groups: Iterable[Group],
        models: Mapping[str, Point],
        *,
        folder: Path,
        label: str,
        token_budget: int,
        progress: Progress,
    ) -> None:
        """Compute what is missing of every response of `groups` under every model; resumable.

        `models` gives each model's point in the span of the bank's mounted adapters. One forward row is a prompt
        with as many of the responses that a model has yet to score as are worth a row.
        """
        by_prompt: dict[Tokens, dict[Tokens, None]] = {}
        for group in groups:
            by_prompt.setdefault(group.prompt, {}).update(dict.fromkeys(group.responses))
        rows = [
            (model, row)
            for prompt, responses in by_prompt.items()
            for model in models
            for row in worth_sharing(
                Group(prompt, tuple(y for y in responses if (model, prompt, y) not in self._values)), bank.knee
            )
        ]
        plan = list(batches([group.tokens for _, group in rows], token_budget))

        def score(indices: list[int]) -> list[list[float]]:
            return score_rows(bank, [(rows[i][1], models[rows[i][0]]) for i in indices])

        scored = resumable(folder, label, plan, score, progress)
        for indices, values in zip(plan, scored, strict=True):
            for i, row_values in zip(indices, values, strict=True):
                model, group = rows[i]
                for response, value in zip(group.responses, row_values, strict=True):
                    self._values[model, group.prompt, response] = value

    def write(self, path: Path) -> None:
        write_parquet(
            path,
            [
                {"model": model, "prompt_tokens": prompt, "response_tokens": response, "logprob": value}
                for (model, prompt, response), value in self._values.items()
            ],
        )

    def read(self, path: Path) -> "LogprobTable":
        """Add the entries of a written table; returns itself."""
        for record in read_parquet(path):
            key = record["model"], tuple(record["prompt_tokens"]), tuple(record["response_tokens"])
            self._values[key] = record["logprob"]
        return self
