"""What the machine refuses, as lines for people: a full disk above all, and full memory."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sipo.disk.publishing import check_on_disk
from sipo.errors import SipoError
from sipo.memory import is_full
from sipo.places import copies

FULL = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
WRITES = (*FULL, *CLOSED, errno.EFBIG, errno.EIO)
TOLD = re.compile(r"\(os error (\d+)\)")
"""How safetensors tells of the disk: what it raises is no OSError."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, errors of the disk that name no place are of `path`. Raises SipoError where it is on none."""
    check_on_disk(path)
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except SipoError:
        raise
    except Exception as error:
        told = TOLD.search(str(error))
        if told and (number := int(told[1])) in WRITES:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def describe(error: OSError) -> str:
    """The place, what is wrong with it, and the way out."""
    if error.errno in FULL:
        place = f": {_where(error.filename)}" if error.filename else ""
        return f"the disk is full{place}; free some space and run the same command again"
    reason = (error.strerror or str(error)).lower()
    named = error.filename2 or error.filename  # of a renaming, what the user knows of: the other is our scratch file
    if error.filename2 and error.errno in CLOSED:  # it may be either folder
        folders = [os.path.dirname(os.path.abspath(each)) for each in (named, error.filename)]
        named = next((each for each in folders if not os.access(each, os.W_OK)), named)
    place = f"{_where(named)}: " if named else ""
    way_out = "check the path and its permissions"
    if error.errno in IN_THE_WAY:
        way_out = "move it away, or name another place"
        if named and os.path.islink(named) and not os.path.exists(named):  # a disk that is not mounted, often
            reason, way_out = (
                f"a link to {os.readlink(named)}, which is not there",
                "make or mount that, or name another place",
            )
    if error.errno == errno.EFBIG:
        way_out = "raise the limit on the size of files (`ulimit -f`), and run the same command again"
    return f"{place}{reason}; {way_out}"


def _where(named: str) -> str:
    """A path of a working copy is told by its store, which is not the disk that is meant."""
    of_a_store = Path(named).is_relative_to(copies())
    return f"{named} (its working copy in {copies()}, which SIPO_CACHE moves)" if of_a_store else named


def full_memory(error: BaseException) -> str:
    """What to do where the memory of the machine or of its device did not suffice; empty for other errors."""
    if not is_full(error):
        return ""
    reason = (str(error).strip() or "no more to be had").splitlines()[0].removesuffix(".")
    return (
        f"the memory is full ({reason}), and what did not fit cannot be divided; execution.gradient_checkpointing, "
        "model.quantise, shorter rows and in sft a lower sft.batch_size need less; `sipo check CONFIG --gpu GIB` tells "
        "what each stage takes"
    )
