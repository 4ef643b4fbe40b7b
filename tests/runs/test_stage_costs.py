"""What every stage costs: tokens, time and memory, of its own process alone, in metrics.jsonl, stage.json and the report."""

import gc
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

from sipo.bank import Bank
from sipo.config.file import parse_config
from sipo.disk.tables import read_checked
from sipo.runs import pipeline
from sipo.runs.peak import WORTH, peak_bytes, reset_peak
from sipo.runs.pipeline import run


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Token ids that an embedding was asked for, by stage: what the models computed, whoever ran them. What a bank
    finds out about a new backbone is no work of the stage that it is first asked in."""
    counts: Counter[str] = Counter()
    stage, make = "", pipeline.Work._make

    def entered(work: Any, made: Any, *given: Any) -> Any:
        return within(made.name, make, work, made, *given)

    def within(name: str, what: Any, *given: Any) -> Any:
        nonlocal stage
        before, stage = stage, name
        try:
            return what(*given)
        finally:
            stage = before

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            counts[stage] += inputs[0].numel()

    monkeypatch.setattr(pipeline.Work, "_make", entered)
    for trial in ("__init__", "proven"):
        found = getattr(Bank, trial)
        monkeypatch.setattr(
            Bank,
            trial,
            partialmethod(lambda bank, what, *given, **named: within("", partial(what, **named), bank, *given), found),
        )
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    yield counts
    hook.remove()


def costs(path: Path) -> dict[str, dict[str, Any]]:
    """What metrics.jsonl says at the end of each stage."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {record["stage"]: record for record in records if "seconds" in record}


SFT = {"lr": 3e-3, "epochs": 1, "batch_size": 4, "accumulate": 1, "max_tokens": 300}


@pytest.mark.parametrize("sft", [None, SFT])
def test_every_stage_counts_its_tokens(settings: dict[str, Any], embedded: Counter[str], sft: Any) -> None:
    more = {"methods": ["base", "soups"], "sft": sft} if sft else {}
    path = run(parse_config({**settings, **more}, "here"), quiet=True)
    found = costs(path)
    assert {name: each["tokens"] for name, each in found.items()} == {name: embedded[name] for name in found}
    loop = {"sft"} if sft else {"sample", "refine", "score", "realign", "answers/mod", "answers/sipo"}
    computing = {"align", "answers/base", "answers/soups", *loop}
    assert {name for name, each in found.items() if each["tokens"]} == computing
    for name, each in found.items():
        kept = read_checked(path / name / "stage.json")
        assert set(kept) - {"outside"} == {"fingerprint", "files", *each} - {"time", "stage"}
        assert all(each[key] == kept[key] for key in kept if key not in ("fingerprint", "files", "outside"))
        assert (each["tokens_per_second"] is not None) == (name in computing)
        assert each["resumed"] is False and 0 < each["peak_memory_gib"] < 64
    page = (path / "report" / "report.html").read_text()
    (table,) = [each for each in re.findall(r"<table>.*?</table>", page, re.DOTALL) if "Where the time went" in each]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr>")]
    shown = {row[0]: row[2:] for row in rows if row}
    assert shown.keys() == {*found, "all"} - {"report"} and "resumed" not in page
    assert int(shown["all"][1].replace(",", "")) == sum(each["tokens"] for each in found.values())
    for name in computing:
        each = found[name]
        numbers = f"{each['seconds']:,.1f}", f"{each['tokens']:,}", f"{each['tokens_per_second']:,.0f}"
        assert shown[name] == [*numbers, f"{each['peak_memory_gib']:.2f}"]
    assert sft or shown["filter"][1:3] == ["0", "\N{EN DASH}"]


def test_a_peak_is_of_the_work_since_it_was_counted_anew() -> None:
    size, device = 1 << 27, torch.device("cpu")
    held = reset_peak(device)
    if held is None:
        pytest.skip("the kernel does not tell")
    assert torch.ones(size, dtype=torch.uint8)[-1] == 1
    assert peak_bytes(device) > held + 0.9 * size
    reset_peak(device)
    assert peak_bytes(device) < held + 0.5 * size


def test_what_nothing_leads_to_is_searched_for_where_it_may_be_much() -> None:
    """A search takes longer than most stages of a small run."""
    device = torch.device("cpu")
    held = reset_peak(device)
    if held is None:
        pytest.skip("the kernel does not tell")
    searches: list[str] = []
    gc.callbacks.append(lambda phase, about: searches.append(phase) if about["generation"] == 2 else None)
    gc.disable()
    try:
        reset_peak(device)
        assert not searches
        circle: list[Any] = [torch.ones(8 * WORTH, dtype=torch.uint8)]
        circle.append(circle)
        del circle
        assert (reset_peak(device) or 0) < held + 2 * WORTH and searches
    finally:
        gc.enable()
        gc.callbacks.pop()


class Killed(BaseException):
    """As a signal would end it."""


@pytest.mark.parametrize("stage", ["sft", "align", "score"])
def test_a_resumed_stage_tells_of_its_own_process(
    settings: dict[str, Any], embedded: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    if stage == "sft":
        settings = {**settings, "sft": SFT}
    path = run(parse_config({**settings, "run_dir": str(tmp_path / "undisturbed")}, "here"), until=stage, quiet=True)
    undisturbed = embedded[stage]
    assert costs(path)[stage]["resumed"] is False

    def kill(*_: Any) -> None:
        if embedded[stage] > 1.5 * undisturbed:
            raise Killed

    config = parse_config(settings, "here")
    hook = torch.nn.modules.module.register_module_forward_pre_hook(kill)
    with pytest.raises(Killed):
        run(config, until=stage, quiet=True)
    hook.remove()
    assert stage not in costs(config.run_dir)
    embedded.clear()
    found = costs(run(config, until=stage, quiet=True))
    assert found[stage]["tokens"] == embedded[stage]
    assert 0 < found[stage]["tokens"] < 0.7 * undisturbed
    assert [name for name, each in found.items() if each["resumed"]] == [stage]
    before = costs(config.run_dir)
    assert costs(run(config, until=stage, quiet=True)) == before, "a stage that holds keeps its numbers"
