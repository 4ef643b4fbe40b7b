"""Files of ours that are not as we wrote them: found when they are read, and said with the way out.

Bit rot, a partial copy, a full disk or a power cut may leave anything, so whatever a decoder raises means damage.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sipo.commands import resume, sipo
from sipo.errors import SipoError, first_line
from sipo.plain import plain

SUBJECT, CONFIG = "subject.json", "config.yaml"
"""Stand in every run's folder, beside the folders of its stages."""


STAGE = "stage.json"
"""Stands in the folder of every stage."""


def is_run(folder: Path) -> bool:
    """Does a run live here, even one that has lost its subject?"""
    return (folder / SUBJECT).exists() or ((folder / CONFIG).exists() and any(stages_in(folder)))


def stages_in(run: Path) -> Iterator[Path]:
    """The folders of the stages that are there: `align`, `answers/soups`."""
    for pattern in (f"*/{STAGE}", f"*/*/{STAGE}"):
        yield from (file.parent for file in run.glob(pattern) if not file.relative_to(run).parts[0].startswith("."))


class DamageError(SipoError):
    """A file of ours cannot be read, or is not what was written."""

    def __init__(self, path: Path, why: str, *, sealed: bool = False) -> None:
        super().__init__(f"{path}: damaged ({why}); {way_out(path, sealed)}")
        self.place, self.why = path, why


def way_out(path: Path, sealed: bool = False) -> str:
    """What makes the file anew: the run and stage that it is of are told by where it is. Of a `sealed` stage a run sees
    by itself that it is to be made anew.
    """
    for run in path.parents:
        if is_run(run):
            if path.relative_to(run) == Path(CONFIG):
                anew = sipo("run", "CONFIG", "--run-dir", run)
                return f"`{anew}` writes it anew; CONFIG is your own file, or an edited copy"
            again = sipo(*resume(run))
            stage = next((each for each in stages_in(run) if each in (path, *path.parents)), None)
            if not sealed and stage:
                return f"`{again} --from {stage.relative_to(run).as_posix()}` makes it anew"
            return f"`{again}` makes it anew"
    return "remove it, and what wrote it makes it anew"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within the block `path` is decoded: whatever goes wrong with its content is a line that names it."""
    try:
        yield
    except SipoError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DamageError(path, "it is missing") from None
    except IsADirectoryError:
        raise DamageError(path, "it is a folder") from None
    except OSError as error:
        if error.errno is not None:  # the disk's own refusal, not a decoder's
            raise
        raise DamageError(path, first_line(error)) from None
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise DamageError(path, first_line(error)) from None


def note(text: str) -> None:
    """Tell on stderr of damage that was got over, however quiet the work is."""
    print(plain(" ".join(text.split())), file=sys.stderr, flush=True)
