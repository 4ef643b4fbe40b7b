"""Table 1 of the paper: how often objectives conflict, by their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sipo.config.file import parse_config
from sipo.data import objectives_of, read_rows
from sipo.progress import Progress
from sipo.report.plots import dots_png
from sipo.studies.ground import Ground
from sipo.studies.intervals import over_seeds
from sipo.studies.study import Conclusion, Table
from sipo.task import rows_file
from sipo.words import quantity


@dataclass(frozen=True)
class RateStudy:
    name: str = "conflict-rates"
    question: str = (
        "What share of the rows is in conflict among the first 2, 3, .. objectives of the data? (Table 1.) Each set of "
        "objectives holds the one before, so the share cannot fall; how far it rises is the question."
    )
    only: tuple[str, ...] = ()

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        """Shares by number of objectives, those of the configuration first; trains nothing."""
        settings = ground.settings(seed, progress)
        config = parse_config(settings, self.name)
        rows, mine = read_rows(rows_file(config, progress)), list(config.names)
        names = [*mine, *(name for name in objectives_of(rows) if name not in mine)]
        shares = {n: sum(row.conflicting(names[:n]) for row in rows) / len(rows) for n in range(2, len(names) + 1)}
        return {"objectives": names, "rows": len(rows), "shares": {str(n): share for n, share in shares.items()}}

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        names = seeds[0]["objectives"]
        shares = {n: over_seeds([seed["shares"][n] for seed in seeds]) for n in seeds[0]["shares"]}
        table = [
            [int(n), ", ".join(names[: int(n)]), f"{mean:.2%}", f"[{low:.2%}, {high:.2%}]"]
            for n, (mean, low, high) in shares.items()
        ]
        pictured = {f"{n} objectives": [each] for n, each in shares.items()}
        title = f"Conflicts among {sum(seed['rows'] for seed in seeds)} rows of {quantity(len(seeds), 'seed')}"
        return Conclusion(
            [Table(title, ["objectives", "which", "in conflict", "interval"], table)],
            pictures={"rates.png": dots_png(pictured, ["share of rows in conflict"])},
        )
