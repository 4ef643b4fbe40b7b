"""Several processes that compute as one, as `accelerate launch` and torchrun start them.

Rank 0 runs the command, and is the only one that reads, decides, writes and speaks. The other ranks wait for what it
asks of all: to call one function with the same arguments. Within such a call each rank computes its share, and sums
over the ranks make one result of them. In an ordinary process there is one rank, which waits for nobody.
"""

import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sipo.commands import install_extra
from sipo.errors import SipoError, first_line
from sipo.finite import NotFiniteError
from sipo.hush import hush
from sipo.room import machine_memory, memory_of

Result = TypeVar("Result")
Pieces = Literal["", "fsdp2", "zero3"]
"""By what each rank keeps a piece of every layer while they train, if so."""
Item = TypeVar("Item")
Cut = Callable[[Sequence[Item]], Iterable[list[int]]]
"""Which of some items make a piece of work each, by index; equal for equal items."""

EVER = timedelta(days=3650)
"""The others wait as long as rank 0 writes, scores and judges."""
BUCKET = 2**25
"""Numbers that are summed at once: all of an adapter's, some of a whole model's."""
PATIENCE = 10.0
"""Seconds for a rank to end that was asked to stop: it may hang in waiting for one that has gone."""
SPOKEN = "sipo/spoken"
"""How many have said why they end."""
LOST = re.compile(r"connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl", re.IGNORECASE)
"""In what torch raises where another rank has gone."""
GONE = (
    "another process of this job ended; what is finished is kept, and the same command goes on from there (the memory "
    "may have been full: lower execution.train_tokens, decode_rows or score_tokens, or take fewer processes)"
)
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Alone:
    """All ranks of a call where there is one process."""

    rank, count = 0, 1
    sharded: Pieces = ""
    in_step = False
    """Does each forward and backward of one rank wait for those of the others?"""

    def pieces(self, items: Sequence[Item], cut: Cut[Item]) -> list[tuple[list[Item], bool]]:
        """The pieces of `items` that this rank computes; one that does not count is there for other ranks, who compute
        one at that time and need its part of the model's layers.
        """
        return [([items[index] for index in indices], True) for indices in cut(items)]

    def add_up(
        self, parameters: Sequence[Tensor], gradients: Sequence[list[Tensor | None]], numbers: dict[str, float]
    ) -> None:
        """Sum numbers and sets of gradients, one for each parameter, over the ranks, in place. None is no gradient."""

    def agreed(self, decide: Callable[[], Result]) -> Result:
        """What rank 0 decides, by its disk or its clock."""
        return decide()

    def gathered(self, value: Result) -> list[Result]:
        """Everyone's, by rank, for rank 0; the others get none. It is pickled."""
        return [value]

    def meet(self) -> None:
        """Wait until all ranks are here."""


class Ranks(Alone):
    """This process among others. `control` is a group of all that waits for ever, on any device."""

    def __init__(self, rank: int, count: int, sharded: Pieces) -> None:
        self.rank, self.count, self.sharded = rank, count, sharded
        self.control = dist.new_group(backend="gloo", timeout=EVER)
        self.machines: list[tuple[str, int]] = [("", 0)] * count
        """By rank, its machine's name and the bytes that it may use there."""
        dist.all_gather_object(self.machines, (socket.gethostname(), machine_memory()), group=self.control)
        self.inside = False
        """Is a call under way that all ranks are in?"""
        self.parted = False
        """Did one end in a way in which the ranks no longer know of each other?"""

    def __str__(self) -> str:
        kept = "its layers in pieces while they train" if self.sharded else "each with the whole model"
        return f"{self.count} compute as one, {kept}"

    @property
    def here(self) -> int:
        """How many are on this machine."""
        return [name for name, _ in self.machines].count(self.machines[self.rank][0])

    @property
    def memory(self) -> int:
        """Bytes of main memory for each, wherever it is: all plan alike, by the machine that has the least for one."""
        names = [name for name, _ in self.machines]
        return min(memory // names.count(name) for name, memory in self.machines)

    def pieces(self, items: Sequence[Item], cut: Cut[Item]) -> list[tuple[list[Item], bool]]:
        shares = [items[rank :: self.count] for rank in range(self.count)]
        plans = [[[share[index] for index in indices] for indices in cut(share)] for share in shares]
        mine = [(piece, True) for piece in plans[self.rank]]
        if self.in_step:
            mine += [([items[0]], False)] * (max(map(len, plans)) - len(mine))
        return mine

    def add_up(
        self, parameters: Sequence[Tensor], gradients: Sequence[list[Tensor | None]], numbers: dict[str, float]
    ) -> None:
        given = [float(each is not None) for one in gradients for each in one]
        told = torch.tensor([*numbers.values(), *given], dtype=torch.float64)
        self._sum([told])
        numbers |= zip(numbers, told[: len(numbers)].tolist(), strict=True)
        anywhere = iter(told[len(numbers) :].tolist())
        for one in gradients:
            for place, parameter in enumerate(parameters):
                if next(anywhere) and one[place] is None:
                    one[place] = torch.zeros_like(parameter)
        self._sum([each for one in gradients for each in one if each is not None])

    def agreed(self, decide: Callable[[], Result]) -> Result:
        return self._broadcast(decide() if self.rank == 0 else None)

    def gathered(self, value: Result) -> list[Result]:
        box: list[Any] | None = None if self.rank else [None] * self.count
        dist.gather_object(value, box, dst=0, group=self.control)
        return box or []

    def meet(self) -> None:
        dist.barrier(self.control)

    def ask(self, function: Callable[..., Result], arguments: Sequence[Any], own: dict[str, Any]) -> Result:
        """Rank 0: have all ranks call it."""
        if self.parted:
            raise SipoError(GONE)
        with self._within():
            self._broadcast(pickle.dumps((function, arguments)))
            return function(*arguments, **own)

    def follow(self) -> None:
        """All others: call what rank 0 asks for, until it has no more to ask."""
        while (asked := self._heard()) is not None:
            function, arguments = pickle.loads(asked)
            with suppress(NotFiniteError), self._within():  # rank 0 met it too, and may go on without what diverged
                function(*arguments)
        dist.destroy_process_group()

    def _heard(self) -> Any:
        with _reaching():
            return self._broadcast(None)

    def leave(self) -> None:
        """Rank 0: let the others go. Where they are in a call, they see that it has gone."""
        if not self.inside and not self.parted:
            with _reaching():
                self._broadcast(None)
            dist.destroy_process_group()

    def _broadcast(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def _sum(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([each.reshape(-1) for each in bucket])
            dist.all_reduce(flat, group=self.control if flat.device.type == "cpu" else None)
            for each, part in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                each.copy_(part.view_as(each))

    @contextmanager
    def _within(self) -> Iterator[None]:
        self.inside = True
        try:
            with _reaching():
                yield
        except NotFiniteError:  # of sums, so all ranks meet it at one place
            raise
        except BaseException:
            self.parted = True
            raise
        finally:
            self.inside = False


@contextmanager
def _reaching() -> Iterator[None]:
    """Raise SipoError where another rank has gone."""
    try:
        yield
    except RuntimeError as error:
        if LOST.search(str(error)):
            raise SipoError(GONE) from None
        raise


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for each in tensors:
        if bucket and sum(one.numel() for one in bucket) + each.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket


ALONE = Alone()
_joined: Ranks | None = None
_alike = True
"""Has every process done the same so far, from the same settings?"""
_apart = False


def joined() -> Ranks | None:
    """The ranks that this process computes with; None for an ordinary one."""
    return None if _apart else _joined


def share_of(device: torch.device) -> int:
    """Bytes of all of a device's that are this process's, used or not: the same number at any time and in each rank."""
    ranks = joined()
    return memory_of(device) if ranks is None or device.type == "cuda" else ranks.memory


@contextmanager
def apart() -> Iterator[None]:
    """In the block rank 0 computes by itself."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def current() -> Alone:
    """Those that compute the present call."""
    return _joined if _joined is not None and _joined.inside else ALONE


def together(function: Callable[..., Result], *arguments: Any, **own: Any) -> Result:
    """function(*arguments) by all ranks at once, and with `own` here: what is for people and for the disk. Everything
    else is pickled, and the result is this rank's.

    Raises SipoError where another rank ended.
    """
    ranks = joined()
    if ranks is None or ranks.inside:
        return function(*arguments, **own)
    return ranks.ask(function, arguments, own)


def compute_together(run: Callable[[], Result], stopped: Callable[[], None]) -> Result | None:
    """Rank 0 runs, the others follow it. `stopped` says that this process was asked to stop, should it have to end
    where it stands.

    Raises SipoError as `join` does, and what ends this rank.
    """
    ranks = join(stopped)
    if ranks.rank:
        ranks.follow()
        return None
    try:
        return run()
    finally:
        ranks.leave()


def join(stopped: Callable[[], None]) -> Ranks:
    """Meet the other processes.

    Raises SipoError where they do not all come, or want to share a model in a way that is not there.
    """
    global _joined, _alike
    sharded = _sharded()
    _alike = False
    try:
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        _joined = Ranks(state.process_index, state.num_processes, sharded)
    except ImportError as error:
        raise SipoError(f"this launch asks for what is not installed ({first_line(error)})") from None
    except (RuntimeError, ValueError) as error:
        raise SipoError(f"the processes of this job do not meet ({first_line(error)})") from None
    _end_in_time(_joined, stopped)
    if _joined.rank:
        hush()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return _joined


def leave_job() -> None:
    """In a process that a rank has started: it is none, and libraries do not take it for one."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


def _sharded() -> Pieces:
    """Do the launcher's settings want the backbone in pieces? They are ours from here on: transformers would have ranks
    load empty models by them, and train them by DeepSpeed.
    """
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        _check_deepspeed()
        return "zero3"
    if os.environ.pop("ACCELERATE_USE_FSDP", "").lower() != "true":
        return ""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SipoError("the launcher's fsdp_version is 1; set it to 2, as configs/accelerate/fsdp2.yaml does")
    return "fsdp2"


def _check_deepspeed() -> None:
    if find_spec("deepspeed") is None:
        raise SipoError(
            f"this launch asks for DeepSpeed, which is not installed; `{install_extra('deepspeed')}`, or take "
            "configs/accelerate/fsdp2.yaml, which shares out the same"
        )
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it says on stdout that it found no other
    from accelerate.utils import DeepSpeedPlugin

    stage = DeepSpeedPlugin().zero_stage
    if stage != 3:
        raise SipoError(
            f"the launcher's zero_stage is {stage}, which shares out what sipo has none of; set it to 3, as "
            "configs/accelerate/zero3.yaml does, or take gpus.yaml"
        )


def speaks() -> bool:
    """May this process say why it ends? The first that asks may: the others end because it does."""
    if _joined is None:  # where all are told the same, the first says it
        return not _alike or os.environ.get("RANK", "0") == "0"
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return bool(_get_default_store().add(SPOKEN, 1) == 1)
    except (RuntimeError, ValueError):  # it was kept by rank 0, which has gone, or let the others go
        return _joined.rank == 0


def _end_in_time(ranks: Ranks, stopped: Callable[[], None]) -> None:
    """End this process soon after it was asked to: no handler in Python runs while it waits for another rank."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)

    def watch() -> None:
        while (number := os.read(ends[0], 1)[0]) not in STOPS:
            pass
        if ranks.rank == 0:
            time.sleep(PATIENCE)
            stopped()
        os._exit(128 + number)

    threading.Thread(target=watch, daemon=True).start()
