"""One running batch for all that is asked of a run: what arrives joins at the next step, whatever others are at.

The model works in a thread of its own. What it writes is handed to the event loop once a step, for all asks together.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch

from sipo.bank import Bank, Policy
from sipo.decoding.decode import Generated, broken
from sipo.decoding.running import Answer, Chance, Running
from sipo.engines.batched import Room as Fitting
from sipo.errors import SipoError
from sipo.finished.answering import Asked, Placed, given
from sipo.finite import SMALLER, infinite_tensor
from sipo.methods.interface import Aligned
from sipo.serve.threads import compute_with
from sipo.serve.wire import ApiError
from sipo.settings import Decoding, Execution

READING = 0.25
"""Seconds for which those who write wait while prompts are read, or two steps' if these take longer; where nobody
writes, twice as many are taken.
"""
GATHER = 0.01
"""Seconds that the first of a crowd waits for the others, so that they are read together."""
LEAST = 32
"""Tokens that are read at once, if there are so many: a forward of fewer takes hardly less time."""


@dataclass(frozen=True)
class Written:
    """Tokens that were written, without the end token; `count` has that too."""

    tokens: tuple[int, ...]
    chances: tuple[Chance, ...]
    count: int


@dataclass(frozen=True)
class Done:
    ended: bool
    """False where a limit cut the text."""


Event = Written | Done | ApiError


@dataclass(eq=False)
class Ask:
    """A text that is asked for, and what becomes of it. The event loop makes it, and reads its events."""

    aligned: Aligned
    prompt: tuple[int, ...]
    seed: int
    decoding: Decoding
    limit: int
    likeliest: int | None
    until: float
    """By `time.monotonic`: when it is cut."""
    watch: "Watch"
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    came: float = field(default_factory=time.monotonic)
    gone: bool = False
    """Nobody waits for it any more."""
    asked: Asked | None = None
    answers: list[Answer] = field(default_factory=list)
    """Its draws: one, except where the best of several is given."""
    together: Sequence["Ask"] = ()
    """Those of its request."""
    told: int = 0
    """Tokens that have been told."""
    over: bool = False

    @property
    def rows(self) -> int:
        draws = self.aligned.best_of.n if self.aligned.best_of else 1
        return draws * len(self.aligned.mixture.points)

    @property
    def columns(self) -> int:
        """At the end, at most."""
        return len(self.prompt) + self.limit


@dataclass(eq=False)
class Look:
    """Something else that is asked of the model, between two steps: `work(places)` is told where its policies stand
    among those that are mounted, and of how many.
    """

    policies: Sequence[Policy]
    work: Callable[[tuple[int, ...], int], Any]
    found: "Future[Any]" = field(default_factory=Future)

    def end(self, result: Callable[[], Any]) -> None:
        """What comes of it, or goes wrong, is for who asked, unless nobody waits any more."""
        if self.found.set_running_or_notify_cancel():
            try:
                self.found.set_result(result())
            except Exception as error:
                self.found.set_exception(error)


class Watch(Protocol):
    """Hears what becomes of an ask, for metrics; in the model's thread."""

    def first(self, seconds: float) -> None: ...
    def tokens(self, count: int) -> None: ...


@dataclass(frozen=True)
class Room:
    """What may run at once. One ask alone always may."""

    rows: int
    tokens: int
    """Rows times the longest of them: what the cache holds."""
    waiting: int
    """Asks that may wait for room."""

    def holds(self, asks: Sequence[Ask]) -> bool:
        rows = sum(ask.rows for ask in asks)
        return rows <= self.rows and rows * max(ask.columns for ask in asks) <= self.tokens


class Scheduler:
    """Asks of one run. Methods are called from any thread; asks are heard in their own event loops."""

    def __init__(self, bank: Bank, stops: Collection[int], room: Room) -> None:
        self.bank, self.stops, self.room = bank, stops, room
        self._scoring = Fitting(Execution())
        self._changed = threading.Condition()
        self._waiting: deque[Ask] = deque()
        self._running: list[Ask] = []
        self._looks: deque[Look] = deque()
        self._refusing = self._closing = False
        self._told: list[tuple[Ask, Event]] = []
        self._mount = ExitStack()
        self._mounted: tuple[Policy, ...] = ()
        self._batch = Running(bank, stops)
        self._owner: dict[Answer, Ask] = {}
        self._pace = 1.0
        """Seconds that an ask took of late, about."""
        self._reads = 1000.0
        """Tokens of prompts that are read in a second, about."""
        self._step = 0.0
        """Seconds of the last step."""
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="sipo-serve", daemon=True)

    def start(self, policies: Sequence[Policy] = ()) -> None:
        """With these mounted, so that the first ask does not wait for it. Raises SipoError where they do not fit."""
        self._remount(list(policies))
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, asks: Sequence[Ask]) -> None:
        """All of them or none. Raises ApiError: 503 while draining, 429 where too many wait, 400 for too many."""
        with self._changed:
            if self._refusing or not self.alive:
                raise _refused()
            if not self._takes(asks):
                raise ApiError(
                    429,
                    f"{len(self._waiting)} answers wait, and no more than {self.room.waiting} may; ask again later",
                    code="queue_full",
                    retry=self._patience(),
                )
            for ask in asks:
                ask.together = asks
            self._waiting.extend(asks)
            self._changed.notify()

    def look(self, look: Look) -> None:
        """After each step, one of those that wait. Raises ApiError: 503 while draining, 429 where too many wait."""
        with self._changed:
            if self._refusing or not self.alive:
                raise _refused()
            if len(self._looks) > self.room.waiting:
                message = f"{len(self._looks)} answers wait to be scored; ask again later"
                raise ApiError(429, message, code="queue_full", retry=self._patience())
            self._looks.append(look)
            self._changed.notify()

    def leave(self, asks: Sequence[Ask]) -> None:
        """Nobody waits for these any more."""
        with self._changed:
            for ask in asks:
                ask.gone = True
            self._changed.notify()

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs goes on, and what came together with it."""
        with self._changed:
            if self._refusing:  # what waits now came together with what ran
                return
            self._refusing = True
            begun = {ask for each in self._running for ask in each.together}
            _send([(ask, _refused()) for ask in self._waiting if ask not in begun])
            self._waiting = deque(ask for ask in self._waiting if ask in begun)
            self._changed.notify()

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._busy

    def close(self) -> None:
        """Stop, whatever runs."""
        self.drain()
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._mount.close()

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._running or self._looks)

    def _takes(self, asks: Sequence[Ask]) -> bool:
        """Is there room for them, or for their waiting? Raises ApiError where there never will be."""
        if self.room.holds([*self._running, *self._waiting, *asks]):
            return True
        if len(asks) > max(1, self.room.waiting) and not self.room.holds(asks):
            raise ApiError(400, f"{len(asks)} answers at once are too many here; ask for at most {self.room.waiting}")
        return len(self._waiting) + len(asks) <= self.room.waiting or (len(asks) == 1 and not self._busy)

    def _patience(self) -> int:
        """Seconds until there may be room, about."""
        turns = 1 + len(self._waiting) / max(1, len(self._running))
        return min(60, max(1, math.ceil(turns * self._pace)))

    def _work(self) -> None:
        compute_with(self._threads)
        try:
            while self._turn():
                pass
        finally:  # however the thread ends, nobody is left waiting for it
            with self._changed:
                self._refusing = True
                _send([(ask, _refused()) for ask in (*self._running, *self._waiting)])
                self._running, self._waiting = [], deque()
                for look in self._looks:
                    look.end(_refuse)
                self._looks = deque()

    def _turn(self) -> bool:
        """Take in what has come, and have everybody write a token; False when closing."""
        with self._changed:
            while not (self._busy or self._batch.held or self._closing):
                self._changed.wait()
            idle = not self._running
        if idle:
            time.sleep(GATHER)
        with self._changed:
            if self._closing:
                return False
            came = self._next()
            look = self._looks.popleft() if self._looks else None
        for ask in came:
            with self._alone(ask):
                self._admit(ask)
        self._write(self._read)
        began = time.monotonic()
        self._write(self._batch.step)
        self._step = time.monotonic() - began
        held = set(self._batch.held)
        self._owner = {answer: ask for answer, ask in self._owner.items() if answer in held}
        with self._changed:
            self._running = [ask for ask in self._running if not ask.over]
        if look:
            look.end(partial(self._see, look))
        return True

    def _see(self, look: Look) -> Any:
        if not set(look.policies) <= set(self._mounted):
            self._remount(look.policies)
        return look.work(tuple(map(self._mounted.index, look.policies)), len(self._mounted))

    def _next(self) -> list[Ask]:
        """Those that there is room for, in the order they came; the late and the gone are taken away."""
        now = time.monotonic()
        for ask in self._running:
            if ask.gone or now > ask.until:
                self._cut(ask)
        for ask in [ask for ask in self._waiting if ask.gone or now > ask.until]:
            self._waiting.remove(ask)
            self._tell(ask, ApiError(503, "the answer did not begin in time; ask again later", retry=self._patience()))
        self._running = [ask for ask in self._running if not ask.over]
        came: list[Ask] = []
        while self._waiting:
            together = [*self._running, self._waiting[0]]
            if len(together) > 1 and not self.room.holds(together):
                break
            came.append(self._waiting.popleft())
            self._running.append(came[-1])
        return came

    def _read(self) -> list[Answer]:
        """Read on, for about `READING` seconds."""
        seconds = max(READING, 2 * self._step) * (1 if self._batch.writing else 2)
        before, began = self.bank.computed, time.monotonic()
        told = self._batch.read(max(LEAST, round(seconds * self._reads)))
        tokens, taken = self.bank.computed - before, time.monotonic() - began
        if tokens >= LEAST:
            self._reads = 0.5 * self._reads + 0.5 * tokens / taken
        return told

    def _write(self, write: Callable[[], list[Answer]]) -> None:
        """Tell what is written. Whatever is raised is for those who asked for it, not for others, nor for the next."""
        heard: list[Ask] = []
        try:
            heard += dict.fromkeys(self._owner[answer] for answer in write())
        except Exception as error:
            held = set(self._batch.held)
            lost = [ask for ask in self._running if any(not (each.over or each in held) for each in ask.answers)]
            if not lost:
                lost = [ask for ask in self._running if not ask.over]
                self._batch = Running(self.bank, self.stops)
            for ask in lost:
                self._end(ask, _failed(error))
        for ask in heard:
            with self._alone(ask):
                self._hear(ask)
        told, self._told = self._told, []
        _send(told)

    @contextmanager
    def _alone(self, ask: Ask) -> Iterator[None]:
        """Whatever is raised is for this one."""
        try:
            yield
        except Exception as error:
            self._end(ask, _failed(error))

    def _admit(self, ask: Ask) -> None:
        """Mount what it stands on, and let it join."""
        needed = ask.aligned.adapters
        if not set(needed) <= set(self._mounted):
            self._remount(needed)
        ask.asked = Asked.of(self._placed(ask.aligned), ask.prompt, ask.seed, ask.decoding)
        ask.answers = [Answer(draw, ask.asked.decoding, ask.limit, ask.likeliest) for draw in ask.asked.draws]
        self._owner |= dict.fromkeys(ask.answers, ask)
        self._batch.join(ask.answers)

    def _remount(self, needed: Sequence[Policy]) -> None:
        """Have these policies mounted and those that what runs stands on, which goes on; no others.

        Raises SipoError, and leaves mounted what was, where they do not fit.
        """
        for policy in needed:
            if policy not in self._mounted:
                _sound(policy, self.bank)
        used = {policy for answer in self._batch.held for policy in self._owner[answer].aligned.adapters}
        kept = [place for place, policy in enumerate(self._mounted) if policy in used]
        before = self._mounted
        mounted = tuple(dict.fromkeys([*(before[place] for place in kept), *needed]))
        try:
            self._mount_all(mounted)
        except BaseException:
            self._mount_all(before)
            raise
        self._batch.respan(kept, len(mounted))

    def _mount_all(self, policies: tuple[Policy, ...]) -> None:
        self._mount.close()
        self._mounted = ()
        self._mount.enter_context(self.bank.mounted(policies))
        self._mounted = policies

    def _placed(self, aligned: Aligned) -> Placed:
        where = {policy: place for place, policy in enumerate(self._mounted)}
        return Placed(aligned, tuple(where[policy] for policy in aligned.adapters), len(self._mounted))

    def _hear(self, ask: Ask) -> None:
        """What was written for an ask: of one draw token by token, of several the best one when all are there."""
        if bad := [answer for answer in ask.answers if answer.broken]:
            self._end(ask, ApiError(500, broken(self.bank, bad[0])))
        elif len(ask.answers) == 1:
            self._wrote(ask, ask.answers[0])
        elif all(answer.over for answer in ask.answers):
            assert ask.asked is not None
            draws = [Generated(tuple(answer.tokens), answer.ended) for answer in ask.answers]
            best = given(replace(ask.asked, model=self._placed(ask.aligned)), draws, self.bank, self._scoring)
            self._wrote(ask, ask.answers[draws.index(best)])

    def _wrote(self, ask: Ask, answer: Answer) -> None:
        if not ask.told:
            ask.watch.first(time.monotonic() - ask.came)
        start, ask.told = ask.told, len(answer.tokens)
        ask.watch.tokens(ask.told - start)
        end = ask.told - answer.ended
        self._tell(ask, Written(tuple(answer.tokens[start:end]), tuple(answer.chances[start:end]), ask.told - start))
        if answer.over:
            self._end(ask, Done(answer.ended))

    def _cut(self, ask: Ask) -> None:
        """By its time, or because nobody waits."""
        self._end(ask, Done(ended=False))

    def _end(self, ask: Ask, event: Event) -> None:
        for answer in ask.answers:
            answer.left = True
        ask.over = True
        self._pace = 0.8 * self._pace + 0.2 * (time.monotonic() - ask.came)
        self._tell(ask, event)

    def _tell(self, ask: Ask, event: Event) -> None:
        self._told.append((ask, event))


def _send(told: Sequence[tuple[Ask, Event]]) -> None:
    """In one call for each event loop."""
    for loop in {ask.loop for ask, _ in told}:
        mine = [(ask, event) for ask, event in told if ask.loop is loop]
        with suppress(RuntimeError):  # a loop that is closed hears nothing
            loop.call_soon_threadsafe(_hand_over, mine)


def _hand_over(told: Sequence[tuple[Ask, Event]]) -> None:
    for ask, event in told:
        ask.events.put_nowait(event)


def _sound(policy: Policy, bank: Bank) -> None:
    """Raise SipoError for one whose numbers would spoil the rows of others: adapters meet in one product."""
    dtype = bank.model.dtype
    if not policy.apart and infinite_tensor(("", each.to(dtype)) for each in policy.parameters) is not None:
        raise SipoError(f"the policy holds NaN or infinite numbers in {str(dtype).removeprefix('torch.')}; {SMALLER}")


def _failed(error: Exception) -> ApiError:
    said = str(error) if isinstance(error, SipoError) else f"the model failed ({type(error).__name__}: {error})"
    return ApiError(500, said)


def _refused() -> ApiError:
    error = ApiError(503, "the server is stopping; ask another one, or again later", code="stopping", retry=5)
    error.headers["Connection"] = "close"
    return error


def _refuse() -> None:
    raise _refused()
