"""A bank on every rank of a job: whole while rank 0 writes and scores, and where that is wanted, its layers in pieces
while all of them train.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from transformers import PreTrainedModel

from sipo.bank.adapter import decoder_of
from sipo.bank.bank import Bank, body_of
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
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


def check_shardable(model: PreTrainedModel) -> None:
    """Raise SipoError where there are no layers to share out, or they are quantised."""
    way_out = "take configs/accelerate/gpus.yaml, where every process holds the model whole"
    found = decoder_of(model)
    if found is None:
        raise SipoError(f"FSDP: model type `{model.config.model_type}` has no list of decoder layers; {way_out}")
    if not all(each.is_floating_point() for each in found[1].parameters()):
        raise SipoError(f"FSDP: the backbone is quantised, and is kept whole; {way_out}")


@contextmanager
def in_pieces(ranks: Ranks, model: PreTrainedModel) -> Iterator[None]:
    """In the block each rank keeps a piece of every layer, by torch's fully_shard with accelerate's settings; all ranks
    compute alike there. Embedding and output head, which are read outside of layers, stay whole.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import FSDPModule, fully_shard

    settings, found = FullyShardedDataParallelPlugin(fsdp_version=2), decoder_of(model)
    assert found is not None, "it was looked for before"
    blocks: list[Any] = list(found[1])
    for block in blocks:
        if isinstance(block, FSDPModule):
            block.set_reshard_after_forward(settings.reshard_after_forward, recurse=False)
            block.reshard()
        else:
            fully_shard(
                block, reshard_after_forward=settings.reshard_after_forward, offload_policy=settings.cpu_offload
            )
    body = body_of(model)
    if not isinstance(body, FSDPModule):  # it has the layers fetched one ahead of the other
        fully_shard(body, ignored_params={each for each in model.parameters() if not hasattr(each, "placements")})

    def be_whole() -> None:
        ranks.in_step = False
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
            block.unshard()

    ranks.in_step = True
    try:
        yield
    except NotFiniteError:  # after any other error the ranks do not go on
        be_whole()
        raise
    be_whole()
