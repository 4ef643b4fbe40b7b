"""Records from the hub, through `datasets`, which is an extra: sipo needs no network otherwise."""

from collections.abc import Iterator, Sequence
from typing import Any

from sipo.commands import install_extra
from sipo.data.sources.interface import Hub, Record
from sipo.data.sources.reading import split_named
from sipo.errors import SipoError, first_line


def read_hub(parts: Sequence[Hub], name: str | None = None) -> Iterator[Record]:
    """The records of parts of data sets, from the cache where they are in it. `name` is the part where there is one."""
    for part in parts:
        called = name if name and len(parts) == 1 else part.folder or part.id.rpartition("/")[2]
        loaded = _load(part)
        for split, rows in loaded.items():
            for number, value in enumerate(rows, 1):
                yield Record(f"{part.id} {split} row {number}", value, called, split_named(split))


def _load(part: Hub) -> dict[str, Any]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise SipoError(f"{part.id}: data sets on the hub need another package; `{install_extra('hub')}`") from None
    try:
        loaded = load_dataset(part.id, part.config, data_dir=part.folder)
    except Exception as error:  # the loaders raise whatever the network and the files lead them to
        reason = first_line(error)
        raise SipoError(
            f"{part.id}: cannot be loaded from the hub ({reason}); check the name and the network, "
            "or name a file or folder that has it"
        ) from None
    wanted = part.splits or tuple(loaded)
    missing = [split for split in wanted if split not in loaded]
    if missing:
        raise SipoError(f"{part.id}: has no split {missing[0]}; it has {', '.join(loaded)}")
    return {split: loaded[split] for split in wanted}
