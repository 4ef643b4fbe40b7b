"""Several local engines at once: worker processes on one machine, each with the backbone, that take batches in turn.

The batches are planned as the local engine's are, no larger than leaves some for each worker, and a worker computes one
as it would: so a pool gives what one process gives, up to rounding. A worker is an interpreter of its own at the end of
a pipe, and ends with it; it imports nothing of the program that asks.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from traceback import format_exc
from typing import Any

import torch

import sipo
from sipo.bank import Bank
from sipo.engines.batched import Batch, Batched
from sipo.engines.interface import Span
from sipo.engines.local import Local
from sipo.errors import SipoError
from sipo.settings import Execution, Model

PATIENCE = 10.0
"""Seconds for a process to end whose pipe has."""


@dataclass(eq=False)
class _Call:
    """A batch in flight, and what became of it."""

    index: int
    batch: Batch
    results: Sequence[Any] = ()
    error: Exception | None = None
    ended: bool = False


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    span: str = ""
    """The key of the one that it has mounted."""
    calls: list[_Call] = field(default_factory=list)
    """What it is at: one, or none."""


class Pool(Batched):
    """`execution.workers` processes, which start with the first batch and end at `close`.

    Raises SipoError, naming the batch, where one ends before; what others have given by then has been yielded, and the
    next call starts them anew.
    """

    def __init__(self, execution: Execution, bank: Bank) -> None:
        """Tokens are counted at `bank`; the workers prove their models as it is proven."""
        super().__init__(execution)
        self._bank = bank
        self.at_once = execution.workers
        self._workers: list[_Worker] = []

    def _bank_of(self, span: Span) -> Bank | None:
        return self._bank if span.model == self._bank.backbone.settings else None

    def _computed(self, span: Span, batches: Sequence[Batch]) -> Iterator[tuple[int, Sequence[Any]]]:
        if not batches:
            return
        self._start()
        waiting = [_Call(index, batch) for index, batch in enumerate(batches)][::-1]
        mine: list[_Call] = []
        while waiting or mine:
            for worker in self._workers:
                if waiting and not worker.calls:
                    mine.append(waiting.pop())
                    self._send(worker, span, mine[-1])
            if not any(call.ended for call in mine):
                self._receive()
            for call in [call for call in mine if call.ended]:
                mine.remove(call)
                if call.error is not None:
                    raise call.error
                yield call.index, call.results

    def _start(self) -> None:
        while len(self._workers) < self.execution.workers:
            number = len(self._workers)
            ours, theirs = Pipe()
            path = os.pathsep.join([str(Path(sipo.__file__).parents[1]), *sys.path])
            process = subprocess.Popen(
                [sys.executable, "-c", f"from sipo.engines.pool import main; main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
            theirs.close()
            worker = _Worker(number, process, ours)
            self._workers.append(worker)
            threads = max(1, torch.get_num_threads() // self.execution.workers)
            self._deliver(worker, pickle.dumps((self._execution_of(number), self._bank.layers, threads)))

    def _execution_of(self, number: int) -> Execution:
        """On a machine with several GPUs the workers share them out, unless one is named."""
        device = self._bank.device
        if device.type == "cuda" and self.execution.device in ("auto", "cuda"):
            device = torch.device("cuda", number % torch.cuda.device_count())
        return self.execution.model_copy(update={"device": str(device)})

    def _send(self, worker: _Worker, span: Span, call: _Call) -> None:
        message = pickle.dumps((None if worker.span == span.key else span, call.batch))
        worker.calls, worker.span = [call], span.key
        self._deliver(worker, message)

    def _deliver(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.pipe.send_bytes(message)
        except OSError:
            raise self._ended(worker) from None

    def _receive(self) -> None:
        """Wait until some worker has done what it was at."""
        busy = {worker.pipe: worker for worker in self._workers if worker.calls}
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            try:
                results, tokens, error, trace = pickle.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                raise self._ended(worker) from None
            call = worker.calls.pop()
            call.results, call.error, call.ended = results, error, True
            self._bank.computed += tokens
            if error is not None:
                worker.span = ""  # whether it has come to mount it is not known
                if not isinstance(error, SipoError):
                    error.add_note(f"in worker {worker.number + 1}:\n{trace}")

    def _ended(self, worker: _Worker) -> SipoError:
        try:
            status = worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        how = "ended" if status is None else f"ended with status {status}"
        if status is not None and status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        at = f"while it {worker.calls[0].batch}" if worker.calls else "when it was started"
        self.close()
        return SipoError(
            f"execution.engine: worker {worker.number + 1} of the pool {how} {at}; what is finished is kept: give the "
            "machine more memory, or lower execution.workers, and go on with the same command"
        )

    def close(self) -> None:
        """End the workers, whatever they are at."""
        workers, self._workers = self._workers, []
        for worker in workers:
            for call in worker.calls:
                call.error, call.ended = RuntimeError("the pool was closed"), True
            worker.pipe.close()
            worker.process.kill()
        for worker in workers:
            worker.process.wait()


def work(pipe: Connection) -> None:
    """Compute what comes through the pipe until it ends."""
    execution, layers, threads = pickle.loads(pipe.recv_bytes())
    torch.set_num_threads(threads)
    engine, span = Local(execution, layers=layers), Span(Model(path=""))
    while True:
        message, before = pipe.recv_bytes(), engine.computed
        try:
            named, batch = pickle.loads(message)
            span = span if named is None else named
            results = engine.compute(span, batch)
            reply = pickle.dumps((results, engine.computed - before, None, ""))
        except Exception as problem:
            reply = _told(problem, format_exc())
        pipe.send_bytes(reply)


def _told(problem: Exception, trace: str) -> bytes:
    try:
        return pickle.dumps(((), 0, problem, trace))
    except Exception:  # it may hold anything
        return pickle.dumps(((), 0, RuntimeError(str(problem)), trace))


def main(handle: int) -> None:
    """A worker; `handle` is its end of the pipe."""
    from sipo.hush import hush, settle

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the pool ends its workers itself
    settle()
    hush()
    with suppress(EOFError, OSError):  # the pool has gone
        work(Connection(handle))
