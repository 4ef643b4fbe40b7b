"""What a study is, and how it is run: seed by seed, each kept, then concluded over all seeds there are."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from sipo.commands import command
from sipo.disk.locking import alone
from sipo.disk.tables import read_checked, write_bytes, write_checked, write_text
from sipo.errors import SipoError
from sipo.plain import code, escape, markdown_table
from sipo.progress import Progress
from sipo.ranks import leave_job
from sipo.studies.ground import Ground
from sipo.words import listed, quantity

Outcome = Literal["holds", "is not contradicted", "not shown", "depends on the measure", "the reverse holds"]


@dataclass(frozen=True)
class Finding:
    """One statement of the paper, and what was measured of it."""

    statement: str
    measured: str
    """The numbers, for people."""
    outcome: Outcome
    ours: bool = False
    """A question of ours, of which the paper says nothing."""
    because: str = ""
    """What forbids to say more."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Conclusion:
    tables: Sequence[Table]
    findings: Sequence[Finding] = ()
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNG by file name."""

    @property
    def verdict(self) -> str:
        """One line."""
        of_the_paper = [each for each in self.findings if not each.ours]
        if not of_the_paper:
            return "The paper states nothing here that this could be held against."
        counts = {name: sum(each.outcome == name for each in of_the_paper) for name in OUTCOMES}
        shown = ", ".join(f"{count} {words}" for (name, words) in OUTCOMES.items() if (count := counts[name]))
        return f"Of {quantity(len(of_the_paper), 'statement')} of the paper: {shown}."


ABOUT = "about"
"""In the file of a seed: the ground that it was measured on, and the arms where not all were."""
OUTCOMES: dict[Outcome, str] = {
    "holds": "hold",
    "is not contradicted": "say that there is no gain, and none is shown",
    "not shown": "are not shown",
    "depends on the measure": "hold or are reversed, depending on the measure",
    "the reverse holds": "are reversed",
}


class Study(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def only(self) -> tuple[str, ...]:
        """The arms that are measured and compared, where not all are."""

    def measure(self, ground: Ground, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
        """What one seed gives, as plain JSON; resumable. `folder` is the study's own."""

    def conclude(self, ground: Ground, seeds: Sequence[dict[str, Any]]) -> Conclusion:
        """Over all seeds that were measured."""


def run_study(
    study: Study, ground: Ground, seeds: Sequence[int], progress: Progress, jobs: int = 1
) -> tuple[Path, Conclusion]:
    """Measure these seeds, as far as they are not, and write `results.md` over all that are; returns its folder, and
    what it concludes.

    `jobs` processes each take a seed at a time, and share the processor's threads.
    """
    if not seeds:
        raise SipoError("--seeds: give at least one")
    folder = ground.folder / study.name
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, work="this study"):
        _measure_all(study, ground, seeds, progress, jobs)
        return folder, _concluded(study, ground, folder, progress)


def _measure_all(study: Study, ground: Ground, seeds: Sequence[int], progress: Progress, jobs: int) -> None:
    workers = min(jobs, len(seeds))
    if workers == 1:
        for seed in seeds:
            _measure(study, ground, seed, progress)
    else:
        threads = max(1, torch.get_num_threads() // workers)
        context = get_context("spawn")
        with (
            _stopping(ProcessPoolExecutor(workers, context, _begin_worker, (threads,))) as pool,
            progress.track(f"{study.name}: seeds", len(seeds)) as advance,
        ):
            for _ in pool.map(_measure, repeat(study), repeat(ground), seeds):
                advance(1)


def _concluded(study: Study, ground: Ground, folder: Path, progress: Progress) -> Conclusion:
    """Over all seeds that were measured on this ground: written, and said."""
    about = _about(study, ground)
    known = {int(path.stem): read_checked(path) for path in (folder / "seeds").glob("*.json")}
    everything = {seed: measured for seed, measured in known.items() if measured.get(ABOUT) == about}
    if others := ",".join(map(str, sorted(known.keys() - everything.keys()))):
        progress.say(
            f"seeds {others} are of other settings, data or arms and are left out; `--seeds {others}` adds them"
        )
    conclusion = study.conclude(ground, [everything[seed] for seed in sorted(everything)])
    for name, picture in conclusion.pictures.items():
        write_bytes(folder / name, picture)
    write_text(folder / "results.md", page(study, ground, sorted(everything), conclusion))
    for table in conclusion.tables:
        progress.table(table.title, table.columns, table.rows)
    for each in conclusion.findings:
        progress.say(f"{each.outcome}: {each.statement} ({each.measured})")
    progress.say(conclusion.verdict)
    return conclusion


def _begin_worker(threads: int) -> None:
    leave_job()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's Ctrl-C is for all; it is told of once


@contextmanager
def _stopping(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Without waiting for seeds that nobody waits for: what they have finished by now is kept."""
    try:
        yield pool
    except BaseException:
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(study: Study, ground: Ground, seed: int, progress: Progress | None = None) -> None:
    folder = ground.folder / study.name
    measured = study.measure(ground, seed, folder, progress or Progress(quiet=True))
    write_checked(folder / "seeds" / f"{seed}.json", {**measured, ABOUT: _about(study, ground)})


def _about(study: Study, ground: Ground) -> str:
    return ", ".join((ground.about(), *sorted(study.only)))


def page(study: Study, ground: Ground, seeds: Sequence[int], conclusion: Conclusion) -> str:
    """Markdown: the question, the verdict, findings, tables and pictures."""
    arms = ("--arms", ",".join(study.only)) if study.only else ()
    again = command("sipo", "study", study.name, *arms, "--on", ground.where, "--seeds", ",".join(map(str, seeds)))
    parts = [
        f"# {study.name} on {escape(ground.name)}",
        f"These arms alone of the study: {listed(study.only)}." if study.only else study.question,
        code(again),
        f"**{conclusion.verdict}**",
    ]
    if study.only:
        count = len(conclusion.findings)
        parts.append(f"Verdicts are corrected over the {quantity(count, 'statement')} here.")
    if conclusion.findings:
        rows = [
            ["ours" if each.ours else "the paper", each.statement, each.measured, _here(each)]
            for each in conclusion.findings
        ]
        parts.append(markdown(Table("", ["by", "statement", "measured", "here it"], rows)))
    parts += [f"![{name}]({name})" for name in conclusion.pictures]
    parts += [f"{escape(table.title)}\n\n{markdown(table)}" for table in conclusion.tables]
    return "\n\n".join(parts) + "\n"


def _here(each: Finding) -> str:
    return f"{each.outcome}: {each.because}" if each.because else each.outcome


def markdown(table: Table) -> str:
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in table.rows]
    return markdown_table(table.columns, cells)
