"""A bank on every rank of a job: whole while they write and score, and where that is wanted, its layers in pieces while
they train.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from sipo.bank.bank import Bank
from sipo.bank.pieces import check_shardable, in_pieces
from sipo.models.load import load_backbone
from sipo.ranks import Ranks, current, joined, together
from sipo.settings import Model

Result = TypeVar("Result")

_loaded: list[Bank] = []
"""Of a rank other than 0: the one that was last asked for."""
_leaving: list[Callable[[], None]] = []
"""What lets go of the bank that is loaded."""


def everywhere(
    function: Callable[..., Result], bank: Bank, layers: Sequence[str], *arguments: Any, **own: Any
) -> Result:
    """function(bank, *arguments) by all ranks at once, which train: each with the backbone on a device of its own, and
    with `own` here (`together`). Tokens of all of them are counted here. `layers` are those that it adapts.

    Raises SipoError where a launch wants layers in pieces that cannot be.
    """
    ranks = joined()
    if ranks is None or ranks.inside:
        return function(bank, *arguments, **own)
    if ranks.sharded:
        check_shardable(bank.model)
    return together(_here, True, function, _named(bank.proven(layers)), arguments, bank=bank, own=own)


def each_by_itself(function: Callable[..., Result], bank: Bank, *arguments: Any, **own: Any) -> Result:
    """The same for what is no training: the ranks have the whole backbone, and do not wait for each other in it."""
    return together(_here, False, function, _named(bank), arguments, bank=bank, own=own)


def until_asked_otherwise(leave: Callable[[], None]) -> None:
    """A rank other than 0 stays at its bank, with policies mounted, until another call says this, trains or is of
    another model: then `leave`.
    """
    _leave()
    _leaving.append(leave)


def forget() -> None:
    """Free what this rank has loaded; on rank 0 that is not ours."""
    _leave()
    _loaded.clear()


def _leave() -> None:
    while _leaving:
        _leaving.pop()()


def _named(bank: Bank) -> tuple[Any, ...]:
    return bank.backbone.settings, bank.layers, bank.device.type, bank.recomputes


def _here(
    trains: bool,
    function: Callable[..., Result],
    named: tuple[Any, ...],
    arguments: Sequence[Any],
    bank: Bank | None = None,
    own: dict[str, Any] | None = None,
) -> Result:
    ranks = current()
    if trains:
        _leave()
    bank = bank or _bank_of(*named)
    before = bank.computed
    with in_pieces(ranks, bank.model) if trains and isinstance(ranks, Ranks) and ranks.sharded else nullcontext():
        result = function(bank, *arguments, **own or {})
    tokens = {"computed": float(bank.computed - before)}
    ranks.add_up((), (), tokens)
    bank.computed = before + int(tokens["computed"])
    return result


def _bank_of(settings: Model, layers: Sequence[str], device: str, recomputes: bool) -> Bank:
    if not _loaded or _loaded[0].backbone.settings != settings:
        forget()
        _loaded.append(Bank(load_backbone(settings, device)))
    _loaded[0].recomputes = recomputes
    return _loaded[0].proven(layers)
