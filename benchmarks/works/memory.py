"""Peak memory against what must be held: the backbone once, the adapters, the cache; and against all logits at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.agreement import close
from benchmarks.bench import Bench
from benchmarks.measure import parameter_bytes, peak_growth
from benchmarks.records import NOTHING, OURS, Pair, Record
from benchmarks.works.ours import write
from sipo.bank import Adapter, new_adapter
from sipo.decoding import Request, at_mod
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import score_rows
from sipo.settings import Lora, Training
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, train
from sipo.weights import corners

ROWS = 8
"""Scored or trained on at once."""


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    weights, width = parameter_bytes([bench.model]), bench.shape.width
    adapters = width * sum(factor.numel() for each in bench.adapters for factor in each.parameters)
    rows, length = settings.n * settings.batch, settings.prompt_tokens + settings.new_tokens
    requests = [
        Request(prompt, at_mod(weight))
        for prompt, weight in zip(bench.prompts(settings.batch), bench.weights(settings.batch), strict=True)
    ]
    cache = width * bench.shape.kv * rows * length
    groups = bench.groups(ROWS, 2, 4 * settings.new_tokens)
    point = corners(settings.n)[0]
    vocabulary = bench.bank.head.weight.shape[0]
    padded = ROWS * max(group.tokens for group in groups)

    def scored() -> list[float]:
        with bench.bank.mounted(bench.adapters):
            return [value for row in score_rows(bench.bank, [(group, point) for group in groups]) for value in row]

    def with_all_logits() -> list[float]:
        with bench.bank.mounted(bench.adapters):
            return _all_logits(bench, groups, point)

    start = new_adapter(bench.model, Lora(r=settings.rank, alpha=2.0 * settings.rank), settings.seed)
    state = 4 * 4 * sum(factor.numel() for factor in start.parameters)  # weights, gradient, two moments, float32

    ours, score_peak = _peak(bench, scored)
    theirs, logits_peak = _peak(bench, with_all_logits)
    lengths = [len(y) for group in groups for y in group.responses]
    judged = close(ours, theirs, lengths, bench.exact)
    logits: dict[str, Any] = {"full_vocabulary_float32_bytes": 4 * vocabulary * padded, "scored_tokens": padded}
    _, decode_peak = _peak(bench, lambda: write(bench, bench.adapters, requests, settings.new_tokens))
    _, train_peak = _peak(bench, lambda: _train(bench, start, groups))
    kept = kept_for_backward(bench.model, lambda: _train(bench, start, groups))
    parts = {"weights_bytes": weights, "state_bytes": state, "kept_for_backward_bytes": kept}
    return [
        _record(bench, "decode-floor", decode_peak, weights + adapters + cache, rows=rows, cache_bytes=cache),
        _record(bench, "score-floor", score_peak, weights + adapters, **logits),
        _record(bench, "score-all-logits", score_peak, logits_peak, equal=judged.equal, **logits, **judged.detail),
        _record(bench, "train-floor", train_peak, weights + state, **logits, **parts),
    ]


def _peak(bench: Bench, call: Callable[[], Any]) -> tuple[Any, int | None]:
    """After a call that warms up, as libraries keep what they set up once."""
    call()
    result, growth = peak_growth(bench.model.device, call)
    return result, None if growth is None else parameter_bytes([bench.model]) + growth


def kept_for_backward(model: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes that the way back finds kept, in a call of one forward: each storage once, without the model's weights."""
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(found.values())


def _record(
    bench: Bench, name: str, ours: int | None, theirs: int | None, equal: bool | None = None, **details: Any
) -> Record:
    ratio = theirs / ours if ours and theirs else None
    told = bench.told(measures="bytes", **details)
    peaks: Pair = {OURS: ours, "alternative": theirs}
    hardware = bench.hardware.as_json()
    return Record("memory", name, ratio, None, equal, told, hardware, NOTHING, NOTHING, peaks)


@torch.no_grad()
def _all_logits(bench: Bench, groups: list[Group], point: tuple[float, ...]) -> list[float]:
    """As it is often written: logits of every position, all of them in float32."""
    packed = pack(groups, bench.bank.device)
    output = bench.bank.hidden_states(
        torch.tensor([point] * len(groups)), layout=packed.layout, input_ids=packed.ids, use_cache=False
    )
    logprobs = bench.bank.head(output.last_hidden_state).float().log_softmax(-1).flatten(0, 1)
    each = logprobs[packed.predictors, packed.targets]
    return torch.zeros(len(packed.lengths), device=each.device).index_add(0, packed.owner, each).tolist()


def _train(bench: Bench, start: Adapter, groups: list[Group]) -> None:
    examples = [Example(group, (0.0,) * len(group.responses), ((1, 0, 1.0),)) for group in groups]
    settings = Training(epochs=1, batch_size=ROWS)
    train(bench.bank, start, Examples(examples), Recipe(settings, 1e-4, 0), Loss(settings.beta))
