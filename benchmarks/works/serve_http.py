"""Serving over HTTP: `sipo serve` on loopback, MOD at a weight of its own for each stream, against plain decoding, the
same server's base model, `generate`, one request at a time, and `transformers serve` on the base model.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.alternatives import plain
from benchmarks.bench import Bench, Tokens
from benchmarks.endpoints import Server, Stream, ask
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.tasks import WORDS, small_run
from benchmarks.works.ours import write
from sipo.bank import load_adapter
from sipo.commands import ratios
from sipo.config import Config
from sipo.decoding import Request, at_mod, base
from sipo.models.chat import Codec
from sipo.settings import Model

STREAMS = (1, 8, 32)
FEW, MANY = 2, 8
"""Requests that the route one after the other asks under --quick, and transformers serve, which answers so."""
SPARE = 8
"""Tokens beyond the limit that a prompt's answer must have."""
ROWS = 4
"""Training rows of the run that is served."""
THEIRS, PAGED = "transformers-serve", "transformers-serve-paged"
BOUNDED = ("--continuous-batching", "--cb-num-blocks", "1024", "--cb-max-batch-tokens", "512")
"""Without bounds it takes most of the machine's memory for its cache."""


def run(bench: Bench) -> list[Record]:
    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as servers:
        config, made = small_run(bench, Path(name), ROWS)
        theirs = [str(Path(sys.executable).with_name("transformers")), "serve", config.model.path]
        urls = {
            name: servers.enter_context(Server(command)).url
            for name, command in (
                (OURS, [sys.executable, "-m", "sipo", "serve", f"run={made}"]),
                (THEIRS, theirs),
                (PAGED, [*theirs, *BOUNDED]),
            )
        }
        counts = (bench.settings.batch,) if bench.settings.quick else STREAMS
        return [record for streams in counts for record in _Load(bench, config, made, urls, streams).records()]


class _Load:
    """So many streams at once."""

    def __init__(self, bench: Bench, config: Config, made: Path, urls: Mapping[str, str], streams: int) -> None:
        self.bench, self.urls, self.base, self.streams = bench, urls, config.model.path, streams
        self.adapters = [load_adapter(made / "align" / "adapters" / name) for name in config.names]
        self.codec = Codec.of(bench.backbone, Model(path=self.base), sys.maxsize, sys.maxsize)
        self.texts, self.prompts = self._lasting()
        self.weights = bench.weights(streams)
        self.names = [ratios(dict(zip(config.names, weight, strict=True))) for weight in self.weights]
        self.heard: dict[str, list[list[Stream]]] = {}
        """Of every round."""

    def records(self) -> list[Record]:
        bench, new, n = self.bench, self.bench.settings.new_tokens, self.bench.settings.n
        requests = [Request(p, at_mod(w)) for p, w in zip(self.prompts, self.weights, strict=True)]
        few, many = (min(each, self.streams) if bench.settings.quick else self.streams for each in (FEW, MANY))
        mod = [self._body(place, f"run/mod:{name}") for place, name in enumerate(self.names)]
        plain_ = [self._body(place, self.base) for place in range(self.streams)]
        routes = [
            Route(OURS, lambda _: self._ask(OURS, OURS, mod)),
            Route("plain", lambda _: plain.generate(bench.model, [p for p in self.prompts for _ in range(n)], new)),
            Route(
                "base-rows",
                lambda _: self._ask("base-rows", OURS, [{**each, "model": "run/base", "n": n} for each in mod]),
            ),
            Route("generate", lambda _: write(bench, self.adapters, requests, new, self.codec.stops)),
            Route(
                "one-at-a-time",
                lambda _: self._ask("one-at-a-time", OURS, mod[:few], together=False),
                share=few / self.streams,
            ),
            Route(
                THEIRS, lambda _: self._ask(THEIRS, THEIRS, plain_[:many]), share=many / self.streams
            ),
            Route(PAGED, lambda _: self._ask(PAGED, PAGED, plain_)),
        ]  # fmt: skip
        return bench.compare(
            "serve-http", routes, self.streams * new, self._agreement, rows=n * self.streams, streams=self.streams
        )

    def _lasting(self) -> tuple[list[str], list[Tokens]]:
        """Texts of words, of one length in tokens, whose answers are not over before their limit."""
        drawn: dict[str, Tokens] = {}
        words, length = WORDS.split(), self.bench.settings.prompt_tokens
        for place in range(2 * self.streams):
            chosen = np.random.default_rng([self.bench.settings.seed, place]).choice(words, length)
            ids = self.codec.plain.usual(" ".join(chosen))[:length]
            text = str(self.codec.tokenizer.decode(ids))
            if self.codec.plain.usual(text) == ids:
                drawn[text] = tuple(ids)
        middle = (1 / self.bench.settings.n,) * self.bench.settings.n
        new, stops = self.bench.settings.new_tokens + SPARE, self.codec.stops
        models = at_mod(middle), base(self.bench.settings.n)
        written = [
            write(self.bench, self.adapters, [Request(prompt, model) for prompt in drawn.values()], new, stops)
            for model in models
        ]
        shortest = {text: min(map(len, both)) for text, *both in zip(drawn, *written, strict=True)}
        texts = sorted(drawn, key=shortest.__getitem__, reverse=True)[: self.streams]
        return texts, [drawn[text] for text in texts]

    def _body(self, place: int, model: str) -> dict[str, Any]:
        asked = {"model": model, "prompt": self.texts[place], "max_tokens": self.bench.settings.new_tokens}
        return {**asked, "temperature": 0.0, "stream_options": {"include_usage": True}}

    def _ask(self, route: str, server: str, bodies: Sequence[Mapping[str, Any]], together: bool = True) -> list[Stream]:
        url = self.urls[server]
        heard = ask(url, bodies) if together else [stream for body in bodies for stream in ask(url, [body])]
        self.heard.setdefault(route, []).append(heard)
        return heard

    def _agreement(self, name: str, ours: Sequence[Stream], theirs: Any) -> Agreement:
        detail = {f"{route}_{key}": value for route in (OURS, name) for key, value in self._waits(route).items()}
        if name == "plain":
            return Agreement(None, detail)
        if name == "generate":
            equal = [stream.text == self.codec.decode(text) for stream, text in zip(ours, theirs, strict=True)]
            return Agreement(all(equal) if self.bench.exact else None, {**detail, "equal_texts": sum(equal)})
        if name == "one-at-a-time":
            equal = [mine.text == other.text for mine, other in zip(ours, theirs, strict=False)]
            return Agreement(all(equal) if self.bench.exact else None, {**detail, "equal_texts": sum(equal)})
        return Agreement(None, detail)

    def _waits(self, route: str) -> dict[str, float]:
        """Over all rounds but the first, which warms up."""
        heard = [stream for streams in self.heard.get(route, [])[1:] for stream in streams]
        if not heard:
            return {}
        first = [stream.first for stream in heard]
        return {
            "first_median": float(np.median(first)),
            "first_p95": float(np.quantile(first, 0.95)),
            "longest_gap": max(stream.longest for stream in heard),
            "tokens": float(np.mean([stream.tokens for stream in heard])),
        }
