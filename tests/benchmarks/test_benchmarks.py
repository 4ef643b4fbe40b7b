"""The benchmarks on a tiny random model: what they compare is equal, and what is not equal is said so. Nothing is timed."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floors, threads
from benchmarks.__main__ import main
from benchmarks.agreement import close
from benchmarks.alternatives import merged, plain, replay
from benchmarks.bench import Bench
from benchmarks.endpoints import DYING, Server, ask
from benchmarks.hardware import Hardware, inspect
from benchmarks.measure import Measured, Route, interleaved, parameter_bytes, peak_growth
from benchmarks.model import load, twin
from benchmarks.records import Agreement, Record, time_record
from benchmarks.settings import Settings
from benchmarks.works import WORKS, mod_decode
from benchmarks.works.dpo import same_curves
from benchmarks.works.memory import kept_for_backward
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod
from sipo.errors import SipoError
from sipo.logprobs.packing import pack

pytestmark = pytest.mark.early

TINY = {"random_weights": "tiny", "device": "cpu", "dtype": "float32"}
SMALL = {"batch": 4, "prompt_tokens": 6, "new_tokens": 4, "rank": 3, "repeats": 1}
ARGUMENTS = ["--quick", *(f"--{key.replace('_', '-')}={value}" for key, value in {**TINY, **SMALL}.items())]
HERE = [work for work in WORKS if work != "serve-http"]
CPU = torch.device("cpu")
PAIR = {"ours", "alternative"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every work that needs no other process, once."""
    out = tmp_path_factory.mktemp("bench") / "deep" / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "FEW", 1)
        assert main([*HERE, *ARGUMENTS, "--out", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def bench() -> Bench:
    return small_bench()


def small_bench(**changed: Any) -> Bench:
    settings = Settings(**{**TINY, **SMALL, **changed})
    backbone = load(settings)
    return Bench(settings, backbone, inspect(CPU, backbone.model.dtype, small=True))


def of(records: list[dict[str, Any]], work: str) -> dict[str, dict[str, Any]]:
    return {record["alternative"]: record for record in records if record["work"] == work}


def test_every_work_gives_records_of_the_schema(records: list[dict[str, Any]]) -> None:
    here = [work for work in HERE if work != "mod-engine"]  # the tiny model's heads are too narrow for vLLM
    assert list(dict.fromkeys(record["work"] for record in records)) == here
    for record in records:
        assert record.keys() == {field.name for field in fields(Record)}
        assert record["ratio"] > 0 or record["work"] in ("growth", "memory")
        assert record["equal"] in (True, None)
        for name in ("seconds", "tokens_per_second", "peak_memory"):
            assert record[name].keys() == PAIR
        if record["spread"] is not None:
            assert record["spread"][0] <= record["ratio"] <= record["spread"][1]
        assert record["hardware"].keys() == {field.name for field in fields(Hardware)}
        assert {"model", "n", "batch", "new_tokens", "repeats"} < record["settings"].keys()


def test_streams_are_timed_and_counted(serving: Any) -> None:
    bodies = [
        {"model": f"tiny/mod:detail={share},brevity=1", "prompt": "tell me", "max_tokens": 9, "temperature": 0.0,
         "stream_options": {"include_usage": True}, "n": n}
        for share, n in ((0.5, 1), (2.0, 1), (2.0, 2))
    ]  # fmt: skip
    together, after = ask(serving().url, bodies), [ask(serving().url, [body])[0] for body in bodies]
    assert [stream.text for stream in together] == [stream.text for stream in after]
    assert [stream.tokens for stream in together] == [stream.tokens for stream in after]
    assert together[0].text != together[1].text == together[2].text and together[2].tokens == 2 * together[1].tokens
    assert all(stream.first > 0 and stream.longest >= 0 for stream in together)
    with pytest.raises(SipoError, match="status 404"):
        ask(serving().url, [{**bodies[0], "model": "other"}])


def test_a_server_that_does_not_come_up_is_told() -> None:
    fails = Server([sys.executable, "-c", "raise SystemExit('no room')"])
    with pytest.raises(SipoError, match="does not serve: no room"):
        fails.__enter__()


ONLY_WHERE_IT_IS = pytest.mark.skipif(not which(DYING[0]), reason=f"needs {DYING[0]}")


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=ONLY_WHERE_IT_IS)],
)
def test_a_signal_leaves_no_server_behind(number: int, status: int) -> None:
    """The server never comes up, so the benchmark waits for it when the signal comes."""
    server = "import os, time; os.write({}, str(os.getpid()).encode()); time.sleep(60)"
    read, write = os.pipe()
    code = f"""
from benchmarks.endpoints import Server, leaving_nothing
class Telling(Server):
    def start(self):
        import subprocess
        before = subprocess.Popen
        subprocess.Popen = lambda *given, **how: before(*given, **how, pass_fds=[{write}])
        super().start()
def work():
    with Telling([{sys.executable!r}, "-c", {server.format(write)!r}]):
        return 0
raise SystemExit(leaving_nothing(work))
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], pass_fds=[write]) as benchmark:
        os.close(write)
        assert int(os.read(read, 20))
        benchmark.send_signal(number)
        assert benchmark.wait(60) == status
    closed, _, _ = select.select([read], [], [], 20)
    assert closed and not os.read(read, 1), "somebody still holds the pipe"
    os.close(read)


@pytest.mark.slow
def test_serving_over_http_on_a_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert main(["serve-http", *ARGUMENTS, "--out", str(out)]) == 0
    found = {record["alternative"]: record for record in json.loads(out.read_text())}
    assert found.keys() == {
        "plain", "base-rows", "generate", "one-at-a-time", "transformers-serve", "transformers-serve-paged",
    }  # fmt: skip
    assert found["generate"]["equal"] is found["one-at-a-time"]["equal"] is True
    for name in ("base-rows", "transformers-serve", "transformers-serve-paged"):
        assert found[name]["settings"][f"{name}_first_median"] > 0


@pytest.mark.parametrize(
    ("work", "alternatives"),
    [
        ("mod-decode", ["sequential", "switched-batch", "peft-mixed", "merged"]),
        ("mod-ragged", ["leaving", "fixed-batch"]),
        ("mod-weights", ["one-weight-at-a-time"]),
        ("mod-n", ["n-1", "n-1-five-times"]),
        ("score", ["plain", "sequential"]),
        ("score-rows", ["one-row", "own-prompt"]),
        ("score-shared-prompt", ["own-prompt"]),
        ("dpo", ["trl", "trl-precomputed"]),
        ("dpo-together", ["in-turn", "trl", "trl-precomputed"]),
        ("dpo-together-few", ["in-turn", "trl", "trl-precomputed"]),
        ("by-weight", ["scored-in-every-run"]),
        ("upper-decode", ["own-rows"]),
        ("upper-dpo", ["own-rows"]),
        ("memory", ["score-all-logits"]),
        ("pipeline", [f"sequential:{stage}" for stage in ("align", "sample", "refine", "score", "answers")]),
    ],
)
def test_what_is_compared_is_equal(records: list[dict[str, Any]], work: str, alternatives: list[str]) -> None:
    for name in alternatives:
        record = of(records, work)[name]
        assert record["equal"] is True, record


def test_floors_are_reported_beside_the_alternatives(records: list[dict[str, Any]]) -> None:
    for work in (
        "mod-decode",
        "mod-ragged",
        "mod-weights",
        "mod-n",
        "score",
        "score-rows",
        "score-shared-prompt",
        "dpo",
    ):
        for name in ("floor-bytes", "floor-operations"):
            record = of(records, work)[name]
            share = record["seconds"]["alternative"] / record["seconds"]["ours"]
            assert record["ratio"] == pytest.approx(share) and record["equal"] is None


def test_references_and_margins_are_scored_in_the_first_run_alone(records: list[dict[str, Any]]) -> None:
    counts = of(records, "by-weight")["scored-in-every-run"]["settings"]["scoring_forwards"]
    assert counts["after_the_first_run"] == 0 < counts["first_run"]
    assert counts["scored_in_every_run"] > 4 * counts["first_run"]


def test_a_prompt_is_computed_once_a_policy(records: list[dict[str, Any]]) -> None:
    rows = of(records, "mod-weights")["prompt-rows-unshared"]["settings"]["prefilled_rows"]
    assert rows == {"ours": 2, "alternative": 8}  # one prompt, two policies, four weights


def test_responses_end_apart_in_the_ragged_batch(records: list[dict[str, Any]]) -> None:
    settings = of(records, "mod-ragged")["fixed-batch"]["settings"]
    assert settings["longest"] > 1.5 * settings["mean_length"]


def test_the_pipeline_is_broken_down_by_stage(records: list[dict[str, Any]]) -> None:
    mine = of(records, "pipeline")
    whole = mine.pop("sequential")
    breakdown = whole["settings"]["breakdown"]
    assert list(breakdown) == [
        "align",
        "sample",
        "refine",
        "score",
        "filter",
        "realign",
        "answers",
        "judged",
        "compare",
    ]
    asking = [stage for stage in breakdown if stage not in ("filter", "judged", "compare")]
    assert set(mine) == {f"sequential:{stage}" for stage in asking}
    for route in PAIR:  # of one round
        assert whole["seconds"][route] == pytest.approx(sum(seconds[route] for seconds in breakdown.values()))


@pytest.mark.parametrize(("alternative", "expected"), [("plain", 2.0), ("sequential", 0.5), ("floor-bytes", 0.5)])
def test_the_direction_of_ratios(alternative: str, expected: float) -> None:
    """Ours takes twice as long."""
    ours, theirs = Measured(None, 10, [2.0, 4.0, 6.0]), Measured(None, None, [1.0, 2.0, 1.0])
    record = time_record("w", alternative, ours, theirs, Agreement(True), 8, {}, {})
    assert record.ratio == expected and record.equal is True
    assert record.spread == ((2.0, 6.0) if alternative == "plain" else (1 / 6, 0.5))
    assert record.seconds == {"ours": 4.0, "alternative": 1.0}
    assert record.tokens_per_second == {"ours": 2.0, "alternative": 8.0}
    assert record.settings["rounds"] == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_unequal_result_is_reported(
    dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One token of one text is another."""
    original = merged.decode

    def wrong(*arguments: Any) -> list[tuple[int, ...]]:
        texts = original(*arguments)
        return [*texts[:-1], (*texts[-1][:-1], (texts[-1][-1] + 1) % 320)]

    monkeypatch.setattr(mod_decode.merged, "decode", wrong)
    out = tmp_path / "bench.json"
    assert main(["mod-decode", *ARGUMENTS, f"--dtype={dtype}", "--out", str(out)]) == 1
    mine = of(json.loads(out.read_text()), "mod-decode")
    assert mine["merged"]["equal"] is False
    assert all(mine[name]["equal"] for name in ("sequential", "switched-batch", "peft-mixed"))
    captured = capsys.readouterr()
    assert "NOT EQUAL: mod-decode merged" in captured.err and " NO " in captured.out


@pytest.mark.parametrize("exact", [True, False])
def test_wrong_numbers_are_unequal(exact: bool) -> None:
    assert close([-40.0, -8.0], [-40.0005, -8.0], [10, 2], exact).equal
    assert not close([-40.0, -8.0], [-40.0, -8.5], [10, 2], exact).equal
    assert same_curves([[0.69, 0.6]], [[0.69, 0.6001]], exact).equal
    assert not same_curves([[0.69, 0.6]], [[0.69, 0.65]], exact).equal


def test_routes_take_turns_and_only_what_they_run_counts() -> None:
    turns: list[str] = []
    routes = [
        Route("a", lambda state: turns.append(state), lambda: "a"),
        Route("b", lambda _: turns.append("b"), share=0.5),
    ]
    measured = interleaved(routes, CPU, repeats=3, budget=60)
    assert turns == ["a", "b"] * 4  # one to warm up
    assert [len(each.seconds) for each in measured.values()] == [3, 3]
    turns.clear()
    assert len(interleaved(routes, CPU, repeats=3, budget=0)["b"].seconds) == 1


def test_peak_memory_is_what_a_call_adds() -> None:
    size = 1 << 26
    result, growth = peak_growth(CPU, lambda: torch.ones(size, dtype=torch.uint8)[-1].item())
    assert result == 1
    if growth is None:
        pytest.skip("the kernel does not tell")
    assert size * 0.9 < growth < size * 2


def test_what_the_way_back_keeps_counts_each_storage_once_and_no_weights(
    bench: Bench, records: list[dict[str, Any]]
) -> None:
    x = torch.ones(100, requires_grad=True)
    weight = bench.model.get_output_embeddings().weight

    def call() -> None:
        y = x * 2
        (y.exp() * y + weight.sum() * y).sum().backward()  # keeps y, twice, and what exp gives; the sum keeps nothing

    scalar = 4
    assert kept_for_backward(bench.model, call) == 4 * 100 * 2 + scalar
    told = of(records, "memory")["train-floor"]["settings"]
    assert told["kept_for_backward_bytes"] > 0
    assert of(records, "memory")["train-floor"]["ratio"] is None or told["weights_bytes"] == parameter_bytes(
        [bench.model]
    )


def test_shared_parameters_count_once(bench: Bench) -> None:
    alone = parameter_bytes([bench.model])
    assert parameter_bytes([bench.model, twin(bench.model)]) == alone
    assert parameter_bytes([nn.Linear(4, 2), nn.Linear(4, 2)]) == 2 * 4 * (4 * 2 + 2)


def test_floors_count_the_operations_of_the_forward(bench: Bench) -> None:
    """Torch's own counter, which knows products of matrices; attention apart."""
    groups = bench.groups(3, 2, 8)
    packed = pack(groups)
    with FlopCounterMode(display=False) as counter:
        plain.forward(bench.model, packed)
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    shape = floors.Shape(bench.shape.linear, bench.shape.head, bench.shape.kv, 0, bench.shape.width)
    padding = 2 * shape.linear * (packed.ids.numel() - sum(group.tokens for group in groups))
    assert products == pytest.approx(floors.scoring(shape, groups, 1).operations + padding, rel=1e-3)


def test_a_decoding_floor_is_that_of_scoring_but_for_the_last_token(bench: Bench) -> None:
    """Writing T tokens behind a prompt computes what scoring the first T - 1 of them would."""
    groups = [*bench.groups(1, 1, 5, prompt_tokens=7), *bench.groups(1, 1, 9, prompt_tokens=4)]
    rows = [(len(group.prompt), len(group.responses[0]) + 1) for group in groups]
    written = floors.decoding(bench.shape, rows).operations - len(rows) * 2 * bench.shape.head
    assert written == floors.scoring(bench.shape, groups, 1).operations


def test_our_texts_depend_on_the_weights(bench: Bench) -> None:
    """Else equality between routes would say nothing about mixing."""
    prompts = bench.prompts(16)
    texts = [write(bench, bench.adapters, [Request(p, at_mod(w)) for p in prompts], 8) for w in ((1, 0), (0, 1))]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mod-fast"], "no work `mod-fast`; they are mod-decode"),
        (["score", "--model=/nowhere"], "model /nowhere: no such folder"),
        (["score", "--random-weights=tiny", "--device=cuda"], "execution.device: `cuda` cannot be used"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("it can")
    assert main([*arguments, "--out", str(tmp_path / "bench.json")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_default_settings_can_be_written() -> None:
    assert json.loads(json.dumps(asdict(Settings()), allow_nan=False))["repeats"] == 3


def test_threads_take_turns_and_their_medians_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, str]] = []

    def beside(busy: int, setting: dict[str, str]) -> dict[str, float]:
        asked.append((busy, str(setting)))
        return {"training": float(len(asked)), "decoding": 100.0 * busy}

    monkeypatch.setattr(threads, "beside", beside)
    threads.main(["--repeats", "3", "--busy", "0", "2"])
    cells = 2 * len(threads.SETTINGS)
    assert len(asked) == 3 * cells and asked[:cells] == asked[cells : 2 * cells], "round by round"
    first, *_, last = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ["0", "as", "torch", "comes", f"{1 + cells:.1f}", "0.0"]
    assert last.split() == ["2", "OMP_NUM_THREADS=1", f"{2 * cells:.1f}", "200.0"]
