"""Numbers for Prometheus: who waits, what runs, tokens and the time to the first one, by weight."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sipo.commands import ratios
from sipo.serve.naming import Named

MODEL = ("run", "method", "weights")
STEPS = 10
"""Weights are told in so many steps, so that their number is bounded."""
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sipo_requests", "Requests, by their answer's status.", ("status",), registry=self.registry
        )
        self.tokens = Counter("sipo_tokens", "Tokens that were written.", MODEL, registry=self.registry)
        self.prompt_tokens = Counter("sipo_prompt_tokens", "Tokens of prompts.", MODEL, registry=self.registry)
        self.first = Histogram(
            "sipo_time_to_first_token_seconds", "From the request to its first token.", MODEL, buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge("sipo_waiting", "Answers that wait for room.", ("run",), registry=self.registry)
        self.running = Gauge("sipo_running", "Answers in the running batch.", ("run",), registry=self.registry)

    def gauge(self, run: str, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Read when they are asked for."""
        self.waiting.labels(run).set_function(waiting)
        self.running.labels(run).set_function(running)

    def watch(self, named: Named, prompt: int) -> "Meter":
        weights = named.model.weights or {}
        shown = ratios({name: round(share * STEPS) / STEPS for name, share in weights.items()})
        labels = (named.served.name, named.model.method, shown)
        read = partial(self.prompt_tokens.labels(*labels).inc, prompt)
        return Meter(self.tokens.labels(*labels), self.first.labels(*labels), read)

    def page(self) -> tuple[bytes, str]:
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class Meter:
    """Of one answer (`sipo.serve.scheduler.Watch`)."""

    def __init__(self, written: Counter, began: Histogram, read: Callable[[], None]) -> None:
        """`read` counts its prompt, once that has been read."""
        self._written, self._began, self._read = written, began, read

    def first(self, seconds: float) -> None:
        self._read()
        self._began.observe(seconds)

    def tokens(self, count: int) -> None:
        self._written.inc(count)
