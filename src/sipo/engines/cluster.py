"""Ray Data as sipo uses it: calls mapped over an actor pool of a cluster, whose replies come in any order.

Ray starts an actor that ended anew, on another node where its own has gone, and asks it again for what it was at; a
tally beside the asking process sees to it that this is not for ever. Ray Data's own checkpoint of rows is not used: it
filters what a job reads and covers what a job writes, on a disk that all nodes share, while replies come back here and
go to the journal of a stage at once.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from traceback import format_exc
from typing import Any

from sipo.disk.damage import note
from sipo.errors import SipoError, first_line
from sipo.hush import muted
from sipo.ranks import speaks
from sipo.settings import Ray

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else it tells of its own doings on stderr
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # and of what ended on stdout
}
TRIES = 4
"""Actors that may end while they are at one call; then no other is given it."""
PATIENCE = 10.0
"""Seconds for a cluster to answer."""
PULSE, HEAD = 5.0, 45.0
"""Seconds between looks for the cluster's head, and for which it may be away: after 60 Ray ends who asks, silently."""
ROW = 8
"""Calls in a block of Ray Data, at most; a block's replies come together."""
BLOCKS = 64
"""Blocks for each actor, at least, where there are so many calls."""


class Cluster:
    """The cluster of `settings.address`, joined when it is first needed and left at `close`; the program's own
    connection where it has one.
    """

    def __init__(self, settings: Ray) -> None:
        self.settings = settings
        self._joined = False
        self._left = threading.Event()

    def mapped(self, actor: Callable[..., Any], given: Sequence[Any], calls: Sequence[Any]) -> Iterator[Any]:
        """The replies to all of the calls but those that ended every actor that was given them, in any order: objects
        actor(*given), one in each process, are called with one call after another. All of it must pickle.

        Raises what a call raised when the others are done.
        """
        self._join()
        import ray

        tally = _tally()
        held = ray.put(pickle.dumps((actor, tuple(given))))  # by this process, which outlives the pool
        told, failure = False, None
        try:
            for block in self._blocks(calls, [held, tally]):
                for tries, reply in zip(*(block.column(name).to_pylist() for name in ("tries", "reply")), strict=True):
                    if tries > 1 and not told:
                        note("execution.engine: an actor of ray ended and was replaced; what it was at is done again")
                        told = True
                    if reply:
                        answer, error = pickle.loads(reply)
                        failure = failure or error
                        if error is None:
                            yield answer
        except ray.exceptions.RayError as error:
            why = getattr(error, "cause", None) or error  # what a task of Ray's own raised follows a line on the task
            raise SipoError(
                f"execution.engine: the ray cluster failed ({first_line(why)}); what is finished is kept: go on with "
                "the same command"
            ) from error
        finally:
            ray.kill(tally)
        if failure:
            raise failure

    def _blocks(self, calls: Sequence[Any], shared: Sequence[Any]) -> Iterator[Any]:
        """Arrow tables of replies."""
        import pyarrow as pa
        from ray.data import ActorPoolStrategy, DataContext, from_arrow

        settings = self.settings
        size = max(1, min(ROW, len(calls) // (BLOCKS * settings.actors)))
        blocks = [
            pa.table({"call": [pickle.dumps((number, calls[number])) for number in numbers[start : start + size]]})
            for numbers in [range(len(calls))]
            for start in range(0, len(calls), size)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it warns of its own keys
            context = DataContext.get_current().copy()
        context.enable_progress_bars, context.print_on_execution_start = False, False
        context.max_consecutive_actor_init_deaths = TRIES
        with DataContext.current(context):
            replies = from_arrow(blocks).map_batches(
                _Actor,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(shared,),
                compute=ActorPoolStrategy(size=settings.actors, max_tasks_in_flight_per_actor=2),
                num_cpus=settings.num_cpus,
                num_gpus=settings.num_gpus or None,
            )
        yield from replies.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

    def _join(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        if not ray.is_initialized():
            check_address(self.settings)
            ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM)
            try:
                with muted():
                    ray.init(address=self.settings.address, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:
                raise _unusable(self.settings, error) from error
            finally:
                if ours:
                    signal.signal(signal.SIGTERM, ours)
            self._joined = True
            self._left = threading.Event()  # a look at an earlier head, which may still be under way, keeps its own
            head = ray.get_runtime_context().gcs_address
            threading.Thread(target=end_without, args=(head, self._left), name="sipo-ray", daemon=True).start()
        self._look()

    def _look(self) -> None:
        """Ray waits for a node that an actor fits, for ever if need be: then that is said."""
        import ray

        needs = {"CPU": self.settings.num_cpus, "GPU": self.settings.num_gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
            asked = ", ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)
            note(f"execution.ray: no node of the cluster has {asked} for an actor; waiting for one that has")

    def close(self) -> None:
        if self._joined:
            import ray

            self._left.set()
            ray.shutdown()
            self._joined = False


def end_without(head: str, left: threading.Event) -> None:
    """End this process with 2, and say why, where the cluster's head `head` has gone before the cluster is left."""
    host, _, port = head.rpartition(":")
    seen = time.monotonic()
    while not left.wait(PULSE):
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            seen = time.monotonic()
        except OSError:
            if time.monotonic() - seen < HEAD:
                continue
            if speaks():
                print(
                    f"error: execution.ray: the head of the cluster, {head}, has gone; what is finished is kept: start "
                    "a cluster, and go on with the same command",
                    file=sys.stderr,
                    flush=True,
                )
            os._exit(2)


def check_address(settings: Ray) -> None:
    """Raise SipoError where nothing listens at the cluster's address, or it is none that can be joined."""
    address = _named(settings)[1]
    if address in (None, "auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        if address.startswith("ray://"):
            raise ValueError(
                "Ray Data works on no connection of Ray's client; run sipo on a node of the cluster, and name it as "
                "HOST:PORT without ray://"
            )
        if not port.isdecimal():
            raise ValueError("it is not HOST:PORT")
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()  # Ray would try for minutes
    except (OSError, ValueError, OverflowError) as error:
        raise _unusable(settings, error) from error


def _named(settings: Ray) -> tuple[str, str | None]:
    """What names the cluster, and its address."""
    if settings.address is None and (found := os.environ.get("RAY_ADDRESS")):
        return "RAY_ADDRESS", found
    return "execution.ray.address", settings.address


def _unusable(settings: Ray, error: Exception) -> SipoError:
    name, address = _named(settings)
    way_out = "unset it" if name == "RAY_ADDRESS" else "leave the address out"
    return SipoError(
        f"{name}: no cluster can be used at {address or 'this machine'} ({first_line(error)}); start one with "
        f"`ray start --head`, or {way_out}"
    )


def _tally() -> Any:
    """An actor on the node of this process that counts how often each call was begun."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Tally:  # in here it travels whole: its process need not import sipo
        def __init__(self) -> None:
            self.begun: dict[int, int] = {}

        def begin(self, number: int) -> int:
            self.begun[number] = self.begun.get(number, 0) + 1
            return self.begun[number]

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Tally).remote()


class _Actor:
    """What Ray keeps in each process."""

    def __init__(self, shared: Sequence[Any]) -> None:
        import ray

        held, self.tally = shared
        actor, given = pickle.loads(ray.get(held))
        self.called = actor(*given)

    def __call__(self, calls: Any) -> Any:
        import pyarrow as pa
        import ray

        tries, replies = [], []
        for number, call in map(pickle.loads, calls.column("call").to_pylist()):
            tries.append(ray.get(self.tally.begin.remote(number)))
            replies.append(pickle.dumps(self._answer(call)) if tries[-1] <= TRIES else b"")
        return pa.table({"tries": tries, "reply": replies})

    def _answer(self, call: Any) -> tuple[Any, Exception | None]:
        try:
            return self.called(call), None
        except Exception as error:
            return None, as_told(error)


def as_told(error: Exception) -> Exception:
    """As it can travel; what is no line for people keeps where it was raised."""
    if isinstance(error, SipoError):
        return SipoError(str(error))
    return RuntimeError(f"in an actor:\n{format_exc()}")
