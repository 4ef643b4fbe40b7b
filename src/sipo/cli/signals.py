"""Being asked to stop: by Ctrl-C (SIGINT), by a batch system or a container (SIGTERM), by a closed terminal (SIGHUP).

All of them end the work in the same way, so that whatever was only half made is taken away. Nothing here is slow to
import: a signal may come while the rest of sipo is being imported.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stops:
    """Within the block a signal raises KeyboardInterrupt; while `at_once`, it calls `say` and ends the process; while
    `deaf`, it does nothing.
    """

    def __init__(self, say: Callable[[], None]) -> None:
        self.say = say
        self.at_once = True
        self.deaf = False
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """What a process that a signal ended exits with, as shells have it: 130, 143 or 129."""
        return 128 + (self.received or signal.SIGINT)

    def __enter__(self) -> "Stops":
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup wants it ignored
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.deaf:
            return
        self.received = number
        if self.at_once:
            self.say()
            os._exit(self.status)
        raise KeyboardInterrupt
