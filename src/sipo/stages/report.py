"""Stage 7, report: one self-contained page and its pictures."""

from pathlib import Path

from sipo.task import Task


def report(run: Path, task: Task, folder: Path) -> None:
    (folder / "report.html").write_text("")
