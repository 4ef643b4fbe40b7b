"""vLLM as the engine: everything that knows its interface. See `drafts` for the mixing and `schedule` for the order.

It writes; scores are the local engine's, since vLLM would compute a prompt again for every response to it.

Each row is a request of its own, with the point it stands at as a LoRA adapter. vLLM runs in this process, so that what
enters a step is ours to say, and its sampler is left one token to choose: the one that `settle` chose.
"""

import gc
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from sipo.bank import Adapter, Bank, save_adapter, soup
from sipo.bank.policy import Point
from sipo.decoding import Generated, Request
from sipo.engines.batched import text_plan
from sipo.engines.drafts import BatchRow, Draft, settle
from sipo.engines.interface import NONE, Span
from sipo.engines.local import Local
from sipo.engines.schedule import Room, drive
from sipo.errors import SipoError, first_line
from sipo.logprobs.score import ScoreRequest
from sipo.ranks import joined
from sipo.settings import Decoding, Execution

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: `settle` and the schedule share the drafts
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second runner's hook for logits is another
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the stages' own threads stay as they are
    "VLLM_NO_USAGE_STATS": "1",
}
STEP_TOKENS = 4096
"""Tokens in a step, at least."""
ADAPTERS = 8
"""Points in a step, at least where there are so many."""
BLOCK = 128
"""A multiple of the tokens that vLLM keeps in one block of its cache."""
MEMORY = 0.5
"""The share of what is free that the cache may take; the weights and a step's activations come on top."""
BATCHES = 16
"""Batches of `execution.decode_rows` in one of vLLM's: it puts the next rows in itself where others have ended."""


@dataclass(frozen=True)
class Sizes:
    """What an engine is built for."""

    rows: int = 1
    context: int = 1
    adapters: int = 0
    rank: int = 0

    def with_(self, other: "Sizes") -> "Sizes":
        return Sizes(*(max(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


class Vllm:
    """vLLM on the backbone of the spans it is given; started by the first batch, again where one is larger."""

    def __init__(self, execution: Execution, bank: Bank) -> None:
        """`bank` scores, and knows the backbone."""
        os.environ.update(ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        self._asked = execution.decode_rows
        self.sizes = Sizes()
        self.fallen = 0
        """How often a draft fell out of step and was asked again."""
        self._local = Local(execution, bank)
        self._running: _Running | None = None
        self._folder = TemporaryDirectory(prefix="sipo-vllm-")
        self._adapters: dict[tuple[tuple[Adapter, ...], Point], int] = {}

    def generate(
        self,
        span: Span,
        requests: Sequence[Request],
        decoding: Decoding,
        limit: int,
        stops: Collection[int],
        done: Collection[int] = NONE,
    ) -> Iterator[tuple[int, Generated]]:
        """The texts are the local engine's up to rounding."""
        span.check(request.mixture for request in requests)
        bank = self._local.bank(span)
        rows = rows_of_its_own() if self._asked == "auto" else self._asked
        self._expect(bank, span, requests, limit, rows)
        known = frozenset(done)
        for units in text_plan(requests, BATCHES * rows):
            if not known.issuperset(units):
                texts = self._decode(bank, span, [requests[unit] for unit in units], decoding, limit, stops)
                yield from ((unit, text) for unit, text in zip(units, texts, strict=True) if unit not in known)

    def score(
        self, span: Span, requests: Sequence[ScoreRequest], done: Collection[int] = NONE
    ) -> Iterator[tuple[int, float]]:
        """The local engine's. vLLM gives its memory back first."""
        self._stop()
        yield from self._local.score(span, requests, done)

    def _expect(self, bank: Bank, span: Span, requests: Sequence[Request], limit: int, rows: int) -> None:
        """Be built for all of these, whatever batches they come in, and so many rows."""
        points = {point for request in requests for point in request.mixture.points if point}
        most = max((len(set(request.mixture.points)) for request in requests), default=1)
        longest = max((len(request.prompt) for request in requests), default=0) + limit
        ranks = [_rank(_adapters(span), point) for point in points]
        wanted = Sizes(
            max(rows, max((len(request.mixture.points) for request in requests), default=1)),
            min(bank.backbone.context, 2 ** math.ceil(math.log2(longest))),
            min(len(points), max(most, ADAPTERS)),
            _allowed_rank(max(ranks)) if ranks else 0,
        )
        self.sizes = self.sizes.with_(wanted)

    def _decode(
        self,
        bank: Bank,
        span: Span,
        requests: Sequence[Request],
        decoding: Decoding,
        limit: int,
        stops: Collection[int],
    ) -> list[Generated]:
        running = self._started(bank)
        for request in requests:
            for point in request.mixture.points:
                running.adapters[point] = self._adapter(span, point, bank.backbone.source)
        running.decoding = decoding
        drafts = [Draft(request, limit, stops) for request in requests]
        # Neighbours share adapters and prompts, which the cache keeps.
        order = sorted(drafts, key=lambda draft: (draft.request.mixture.points, draft.request.prompt))
        sizes = running.sizes
        try:
            self.fallen += drive(running, order, Room(sizes.rows, sizes.adapters, running.step_tokens))
        except BaseException:
            self._stop()  # it still holds rows
            raise
        # Prompts that its cache spared are counted too: vLLM keeps no account that a caller could read.
        bank.computed += sum(each.size * (len(each.request.prompt) + len(each.tokens)) for each in drafts)
        return [draft.generated for draft in drafts]

    def forget(self) -> None:
        """Drop what is cached of prompts."""
        if self._running:
            self._running.forget()

    def close(self) -> None:
        self._stop()
        self._local.close()
        self._adapters.clear()
        self._folder.cleanup()

    def _stop(self) -> None:
        if self._running:
            self._running.stop()
            self._running = None

    def _started(self, bank: Bank) -> "_Running":
        if self._running and (self._running.sizes != self.sizes or self._running.source != bank.backbone.source):
            self._stop()
        if not self._running:
            check_alone()
            self._running = _Running(bank, self.sizes)
        return self._running

    def _adapter(self, span: Span, point: Point, source: str) -> "tuple[int, Path] | None":
        """Number and PEFT folder of the adapter at a point, written when first asked for; None without any to mix.

        The reference beside adapters has one as well, which is zero: on a CPU, vLLM gives a row without one another's
        (0.32 looks it up by the index -1).
        """
        if not point:
            return None
        key = _adapters(span), point
        number = self._adapters.setdefault(key, len(self._adapters) + 1)
        folder = Path(self._folder.name) / str(number)
        if not folder.exists():
            save_adapter(soup(_adapters(span), point), folder, source)
        return number, folder


def check_alone() -> None:
    """Raise SipoError among other ranks: vLLM would take all of them for its own, and wait for them."""
    if joined() is not None:
        raise SipoError(
            "execution.engine: vllm does not start among the processes of a launch; what is finished is kept, and the "
            "same command without accelerate or torchrun goes on from there"
        )


class _Running:
    """A started engine: the `Engine` of `schedule`."""

    def __init__(self, bank: Bank, sizes: Sizes) -> None:
        self.sizes, self.source = sizes, bank.backbone.source
        self.step_tokens = max(STEP_TOKENS, sizes.context + sizes.rows)
        self.adapters: dict[Point, tuple[int, Path] | None] = {}
        self.decoding = Decoding()
        self._rows: dict[str, BatchRow] = {}
        self._names: dict[BatchRow, str] = {}
        self._asked = 0
        self._engine: Any = None
        threads = torch.set_num_threads
        try:
            with self._said("start on"):
                self._engine = self._start(bank)
        except SipoError:
            self.stop()
            raise
        finally:
            torch.set_num_threads = threads  # on a CPU vLLM takes it away

    def _start(self, bank: Bank) -> Any:
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform

        device = bank.device
        if device.type != current_platform.device_type or device.index:
            raise SipoError(
                f"execution.engine: the vllm installed here computes on {current_platform.device_type}:0, "
                f"execution.device is {device}"
            )
        config, on_cpu = bank.model.config, device.type == "cpu"
        lora = {"max_loras": self.sizes.adapters, "max_lora_rank": self.sizes.rank} if self.sizes.rank else {}
        free, total = _memory(device)
        arguments = EngineArgs(
            model=self.source,
            revision=getattr(config, "_commit_hash", None),
            dtype=str(bank.model.dtype).removeprefix("torch."),
            skip_tokenizer_init=True,
            generation_config="vllm",
            max_model_len=self.sizes.context,
            max_num_seqs=self.sizes.rows,
            max_num_batched_tokens=self.step_tokens,
            kv_cache_memory_bytes=min(_cache_bytes(config, self.sizes, bank.model.dtype), int(MEMORY * free)),
            gpu_memory_utilization=MEMORY * free / total,
            enable_lora=bool(lora),
            **lora,
            logits_processors=[_settling(self)],
            enforce_eager=on_cpu,  # there compiling costs more than it gains
            async_scheduling=False,  # a step's tokens must be known before the next
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
        return LLMEngine.from_engine_args(arguments)

    def ask(self, rows: Sequence[BatchRow]) -> None:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        for row in rows:
            name, self._asked = str(self._asked), self._asked + 1
            self._rows[name], self._names[row] = row, name
            draft, adapter = row.draft, self.adapters[row.point]
            parameters = SamplingParams(
                temperature=0.0,
                max_tokens=draft.limit - row.start,
                stop_token_ids=sorted(draft.stops),
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                extra_args={"sipo_row": name},
            )
            lora = LoRARequest(f"sipo-{adapter[0]}", adapter[0], str(adapter[1])) if adapter else None
            self._engine.add_request(name, {"prompt_token_ids": list(draft.prompt)}, parameters, lora_request=lora)

    def withdraw(self, rows: Sequence[BatchRow]) -> None:
        names = [self._names.pop(row) for row in rows if row in self._names]
        self._engine.abort_request(names)
        for name in names:
            del self._rows[name]

    def step(self) -> dict[BatchRow, int]:
        took = {}
        with self._said("decode with"):
            outputs = self._engine.step()
        for output in outputs:
            row = self._rows[output.request_id]
            (took[row],) = output.outputs[0].token_ids
            if output.finished:
                del self._rows[output.request_id], self._names[row]
        return took

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        """vLLM raises whatever the model and the machine lead it to."""
        try:
            yield
        except SipoError:
            raise
        except Exception as error:
            reason = first_line(error)
            raise SipoError(
                f"execution.engine: vllm cannot {doing} {self.source} ({reason}); set it to transformers"
            ) from error

    def forget(self) -> None:
        self._engine.reset_prefix_cache()

    def row(self, name: str) -> BatchRow | None:
        return self._rows.get(name)

    def stop(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        if self._engine:
            self._engine.engine_core.shutdown()
        self._engine = None
        cleanup_dist_env_and_memory()
        gc.collect()


def _settling(running: _Running) -> type:
    """vLLM's hook for logits, bound to this engine's rows."""
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class Settling(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, *_: Any) -> None:
            self.standing: dict[int, tuple[BatchRow, list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            process_dict_updates(self.standing, batch_update, self._found)

        def _found(self, parameters: Any, _: Any, output: list[int]) -> tuple[BatchRow, list[int]] | None:
            row = running.row((parameters.extra_args or {}).get("sipo_row", ""))
            return (row, output) if row else None

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            standing = [(index, row, len(output)) for index, (row, output) in self.standing.items()]
            settle(logits, standing, running.decoding)
            return logits

    return Settling


def _adapters(span: Span) -> tuple[Adapter, ...]:
    """Raises SipoError where the policies are whole models."""
    adapters = tuple(each for each in span.loaded if isinstance(each, Adapter))
    if len(adapters) < len(span.loaded):
        raise SipoError("execution.engine: vllm decodes adapters alone, not whole models; take transformers")
    return adapters


def _rank(adapters: Sequence[Adapter], point: Point) -> int:
    """Of the point's soup."""
    return sum(each.rank for each, w in zip(adapters, point, strict=True) if w) or adapters[0].rank


def _allowed_rank(rank: int) -> int:
    """The smallest rank of vLLM's that holds it. Raises SipoError where it has none."""
    from vllm.config.lora import MaxLoRARanks

    allowed = sorted(get_args(MaxLoRARanks))
    if rank > allowed[-1]:
        raise SipoError(
            f"execution.engine: vllm takes adapters up to rank {allowed[-1]}, and a soup here has rank {rank}; "
            "set it to transformers, or lora.r lower"
        )
    return next(each for each in allowed if each >= rank)


def _cache_bytes(config: Any, sizes: Sizes, dtype: torch.dtype) -> int:
    """What all rows need at their longest; vLLM keeps a block for itself."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    tokens = BLOCK * (1 + sizes.rows * math.ceil(sizes.context / BLOCK))
    return 2 * text.num_hidden_layers * width * tokens * dtype.itemsize


def rows_of_its_own() -> int:
    """As many as vLLM takes on this device where nobody says how many (`max_num_seqs`)."""
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    _, rows = EngineArgs.get_batch_defaults(world_size=1)
    return int(rows[UsageContext.LLM_CLASS])


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes free and in all, on the device or, for a CPU, in main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    import psutil  # vLLM needs it

    memory = psutil.virtual_memory()
    return memory.available, memory.total
