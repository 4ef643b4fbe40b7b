"""Threads beside those in which models compute, and how many of OpenMP's each has to compute with.

Every thread that computes with several of them has its own, for as long as it lives. Where all of them are more than
the cores, GNU's OpenMP has them sleep as soon as they wait, which costs a small model a fifth of its speed: so only
models' threads keep any.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


def compute_with(threads: int) -> None:
    """In this thread, whatever others are told."""
    torch.get_num_threads()  # the first one in a thread sets what was last said anywhere
    torch.set_num_threads(threads)


def in_passing(work: Callable[[], None]) -> None:
    """In a thread that ends, and takes its threads away. Whatever is raised is raised here."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="sipo-load", daemon=True).start()
    done.result()


def compute_alone(loop: asyncio.AbstractEventLoop) -> None:
    """In this thread, which is the loop's, and in those that it hands work to."""
    compute_with(1)
    loop.set_default_executor(ThreadPoolExecutor(initializer=compute_with, initargs=(1,)))
