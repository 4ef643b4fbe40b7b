"""A model whose decoder layers lie in pieces on all ranks while they train: by torch's FSDP2 or by DeepSpeed's ZeRO-3.

Settings are accelerate's. Embedding and output head, which are read outside of layers, stay whole. A layer is fetched
before its forward and before its way back, on all ranks at that time, so all compute alike.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from sipo.bank.adapter import decoder_of
from sipo.bank.bank import body_of
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
from sipo.ranks import Pieces, Ranks

Whole = Callable[[], None]
"""Ends pieces: every rank has the whole model again."""


def check_shardable(model: PreTrainedModel) -> None:
    """Raise SipoError where there are no layers to share out, or they are quantised."""
    way_out = "take configs/accelerate/gpus.yaml, where every process holds the model whole"
    found = decoder_of(model)
    if found is None:
        kind = model.config.model_type
        raise SipoError(f"layers in pieces: model type `{kind}` has no list of decoder layers; {way_out}")
    if not all(each.is_floating_point() for each in found[1].parameters()):
        raise SipoError(f"layers in pieces: the backbone is quantised, and is kept whole; {way_out}")


def check_divisible(by: Pieces, full: bool, ways: bool) -> None:
    """Raise SipoError for a training that pieces are not for: of whole models, or of several ways back over a graph."""
    if full:
        raise SipoError("policies: full: whole models are not shared out in pieces; take configs/accelerate/gpus.yaml")
    if by == "zero3" and ways:
        raise SipoError(
            "raco: DeepSpeed fetches a layer for one way back alone, and each objective needs one; take "
            "configs/accelerate/fsdp2.yaml"
        )


@contextmanager
def in_pieces(ranks: Ranks, model: PreTrainedModel) -> Iterator[None]:
    """In the block each rank keeps a piece of every layer."""
    found = decoder_of(model)
    assert found is not None, "it was looked for before"
    divide = _by_fsdp2 if ranks.sharded == "fsdp2" else _by_zero3
    be_whole = divide(model, list(found[1]))
    ranks.in_step = True
    try:
        yield
    except NotFiniteError:  # after any other error the ranks do not go on
        ranks.in_step = False
        be_whole()
        raise
    ranks.in_step = False
    be_whole()


def _by_fsdp2(model: PreTrainedModel, layers: list[Any]) -> Whole:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import FSDPModule, fully_shard

    settings = FullyShardedDataParallelPlugin(fsdp_version=2)
    for layer in layers:
        if isinstance(layer, FSDPModule):
            layer.set_reshard_after_forward(settings.reshard_after_forward, recurse=False)
            layer.reshard()
        else:
            fully_shard(
                layer, reshard_after_forward=settings.reshard_after_forward, offload_policy=settings.cpu_offload
            )
    body = body_of(model)
    if not isinstance(body, FSDPModule):  # it has the layers fetched one ahead of the other
        fully_shard(body, ignored_params={each for each in model.parameters() if not hasattr(each, "placements")})

    def be_whole() -> None:
        for layer in layers:
            layer.set_reshard_after_forward(False, recurse=False)
            layer.unshard()

    return be_whole


class _Layers(nn.Module):
    """The layers as a model of its own. DeepSpeed takes a forward of it as the sign that a pass over them begins."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self) -> None:
        """The body calls the layers."""


class _Zero3:
    """DeepSpeed's hooks on the layers of one model; between trainings there are none."""

    def __init__(self, layers: list[nn.Module]) -> None:
        with redirect_stdout(StringIO()), warnings.catch_warnings():  # which its own lines go to for good
            warnings.simplefilter("ignore")
            import deepspeed

            self.root = _Layers(layers)
            self.hooks = deepspeed.initialize(model=self.root, config=_zero3_settings())[0].optimizer
            self.gathered = deepspeed.zero.GatheredParameters
        warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
        self.whole = ExitStack()

    def divide(self, body: nn.Module) -> Whole:
        self.whole.close()
        if not self.hooks.forward_hooks:
            self.hooks._register_deepspeed_module(self.root)
        begins = body.register_forward_pre_hook(lambda *_: self.root())

        def be_whole() -> None:
            begins.remove()
            self.hooks.partition_all_parameters()
            for hook in (*self.hooks.forward_hooks, *self.hooks.backward_hooks):
                hook.remove()
            self.hooks.forward_hooks, self.hooks.backward_hooks = [], []
            self.whole.enter_context(self.gathered(self.root.parameters()))

        return be_whole


_divided: WeakKeyDictionary[nn.Module, _Zero3] = WeakKeyDictionary()


def _by_zero3(model: PreTrainedModel, layers: list[Any]) -> Whole:
    body = body_of(model)
    if body not in _divided:
        _divided[body] = _Zero3(layers)
    return _divided[body].divide(body)


def _zero3_settings() -> dict[str, Any]:
    """Accelerate's, in which batches, gradients and optimizer are none of DeepSpeed's business."""
    from accelerate.utils import DeepSpeedPlugin

    zero = DeepSpeedPlugin(zero_stage=3).deepspeed_config["zero_optimization"]
    own = {name: value for name, value in zero.items() if not name.startswith("offload_optimizer") and value != "auto"}
    linear = {"memory_efficient_linear": False}  # else torch's own product is another from there on, for all models
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {**linear, **own},
        "steps_per_print": float("inf"),
    }
