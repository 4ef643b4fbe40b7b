"""The table of log-probabilities against a plain dictionary: what is in it, what is not, and what it weighs."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sipo.logprobs.table
from sipo.disk.journal import Journal
from sipo.errors import SipoError
from sipo.logprobs.encoded import Encoded
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable
from sipo.progress import Progress

MODELS = ["reference", "policy:a", "policy:b", "soup:0.5,0.5"]


def groups(prompts: int, responses: int, length: int = 5, seed: int = 0) -> Iterator[Group]:
    draw = random.Random(seed)
    for number in range(prompts):
        prompt = (number, *(draw.randrange(9) for _ in range(draw.randrange(length))))
        yield Group(prompt, tuple((k, *(draw.randrange(9) for _ in range(length))) for k in range(responses)))


def filled(made: list[Group], models: list[str], seed: int = 1) -> tuple[LogprobTable, dict[tuple[object, ...], float]]:
    """A table, each group under some of the models, in random order, and the same as a dictionary."""
    draw, table, plain = random.Random(seed), LogprobTable(), dict[tuple[object, ...], float]()
    entries = [(model, group) for model in models for group in made if draw.random() < 0.7]
    draw.shuffle(entries)
    for model, group in entries:
        values = [draw.uniform(-1e3, 0) for _ in group.responses]
        table.put(model, group, values)
        plain |= {(model, group.prompt, y): value for y, value in zip(group.responses, values, strict=True)}
    return table, plain


def same(table: LogprobTable, plain: dict[tuple[object, ...], float], made: list[Group]) -> None:
    assert len(table) == len(plain)
    for model in MODELS:
        for group in made:
            wanted = [plain.get((model, group.prompt, y)) for y in group.responses]
            if None in wanted:
                with pytest.raises(SipoError, match=f"no log-probability under `{model}`.*--from align"):
                    table.of(group, [model])
            else:
                assert table.of(group, [model])[:, 0].tolist() == wanted


@pytest.mark.parametrize("seed", range(5))
def test_it_holds_what_a_dictionary_would_before_and_after_the_disk(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sipo.logprobs.table, "BATCH", 7)
    made = list(groups(9, 3, seed=seed))
    table, plain = filled(made, MODELS, seed)
    same(table, plain, made)
    table.write(tmp_path / "table.parquet")
    same(LogprobTable().read(tmp_path / "table.parquet"), plain, made)
    more, new = filled(made[3:], MODELS, seed + 100)
    more.write(tmp_path / "more.parquet")
    same(LogprobTable().read(tmp_path / "table.parquet").read(tmp_path / "more.parquet"), plain | new, made)
    LogprobTable().write(tmp_path / "empty.parquet")
    assert len(LogprobTable().read(tmp_path / "empty.parquet")) == 0


def test_a_response_is_its_prompt_s_and_the_border_between_them_counts() -> None:
    table = LogprobTable()
    table.put("reference", Group((1, 2), ((3, 4), (4, 3))), [-1.0, -2.0])
    for other in (
        Group((1, 2), ((3,),)),
        Group((1,), ((2, 3, 4),)),
        Group((1, 2, 3), ((4,),)),
        Group((2, 1), ((3, 4),)),
    ):
        with pytest.raises(SipoError, match="no log-probability"):
            table.of(other, ["reference"])
    table.put("reference", Group((1, 2), ((3, 4),)), [-5.0])
    assert table.of(Group((1, 2), ((4, 3), (3, 4))), ["reference"])[:, 0].tolist() == [-2.0, -5.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(SipoError, match=r"of a response of 2 tokens under `policy:a` is -?(nan|inf)"):
        LogprobTable().put("policy:a", Group((1,), ((2,), (3, 4))), [-1.0, value])


def test_a_file_of_another_form_is_one_line(tmp_path: Path) -> None:
    old = {"model": ["reference"], "prompt_tokens": [[1]], "response_tokens": [[2]], "logprob": [-1.0]}
    for number, table in enumerate((pa.table(old), pa.table({"x": [1]}))):
        pq.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(SipoError, match=f"{number}.parquet: an earlier version of sipo wrote it.*--from align"):
            LogprobTable().read(tmp_path / f"{number}.parquet")


def test_a_file_is_one_plain_table(tmp_path: Path) -> None:
    table = LogprobTable()
    table.put("reference", Group((1, 2), ((3,), (4, 5))), [-1.0, -2.0])
    table.put("policy:a", Group((1, 2), ((4, 5),)), [-3.0])
    table.write(tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").to_pylist() == [
        {"prompt_tokens": [1, 2], "response_tokens": [3], "reference": -1.0, "policy:a": None},
        {"prompt_tokens": [1, 2], "response_tokens": [4, 5], "reference": -2.0, "policy:a": -3.0},
    ]


def test_memory_grows_with_the_tokens_and_not_with_the_models(tmp_path: Path) -> None:
    """Python objects included: a response of 200 tokens, its digest and its values stay under two kilobytes."""

    def weighed(responses: int, models: list[str]) -> tuple[int, int]:
        table = LogprobTable()
        for group in groups(10, responses, length=200):
            for model in models:
                table.put(model, group, [-1.0] * responses)
        table.write(tmp_path / "table.parquet")
        del table
        tracemalloc.start()
        read = LogprobTable().read(tmp_path / "table.parquet")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held, read.nbytes

    (small, small_bytes), (large, large_bytes) = (weighed(n, MODELS) for n in (50, 200))
    assert 2 < large / small < 5 and 3 < large_bytes / small_bytes < 5
    assert large / 2000 < 2000
    many, _ = weighed(200, [f"policy:{i}" for i in range(40)])
    assert many < large + 2000 * 36 * 8 * 1.5


def test_encoded_rows_are_the_groups_that_were_put_in() -> None:
    """Prompts shared and alone, responses of any length, none among them, ids up to 2^31; or their lengths alone."""
    draw = random.Random(0)
    encoded, lengths, groups = Encoded(), Encoded(holds=False), {}
    prompts = {f"p{at}": tuple(draw.choices(range(2**31), k=1 + at)) for at in range(5)}
    for at in range(40):
        prompt = f"p{draw.randrange(5)}"
        responses = tuple(tuple(draw.choices(range(300), k=draw.randrange(4))) for _ in range(2))
        for each in (encoded, lengths):
            if not each.knows(prompt):
                each.add_prompt(prompt, prompts[prompt])
            each.add(f"r{at}", prompt, responses, [len(response) + at for response in responses])
        groups[f"r{at}"] = Group(prompts[prompt], responses)
    assert {name: encoded[name] for name in groups} == groups
    assert "r0" in encoded and "r40" not in encoded
    with pytest.raises(KeyError):
        encoded["r40"]
    asked = [*groups][::-3]
    expected = [
        [len(groups[name].prompt), *(len(y) + more for more in (0, int(name[1:])) for y in groups[name].responses)]
        for name in asked
    ]
    assert encoded.lengths(asked).tolist() == lengths.lengths(asked).tolist() == expected
    assert encoded.lengths([]).shape == (0, 5) and lengths._tokens == type(lengths._tokens)("i")


class Counting:
    """An engine of numbers, which breaks off after so many."""

    def __init__(self, breaks: int | None = None) -> None:
        self.asked: list[int] = []
        self.left = breaks

    def score(self, span: Any, requests: Any, done: Any = ()) -> Iterator[tuple[int, float]]:
        self.asked.append(len(requests) - len(done))
        for unit in reversed([unit for unit in range(len(requests)) if unit not in done]):
            if self.left == 0:
                raise InterruptedError
            self.left = None if self.left is None else self.left - 1
            prompt, response, mixture = requests[unit]
            yield unit, -float(sum(prompt) * 31 + sum(response) + 1000 * mixture.points[0][0])


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize("breaks", [None, 0, 20])
def test_what_is_lacking_is_asked_for_part_by_part(
    at_once: int, breaks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups with responses in common, some of them known: the same values however they are cut up, and after a break."""
    monkeypatch.setattr(sipo.logprobs.table, "AT_ONCE", at_once)
    span: Any = SimpleNamespace(moves=lambda point: point[0] > 0, policies=(0, 0))
    made = list(groups(6, 4, seed=3))
    made += [Group(each.prompt, (*each.responses[2:], (99,))) for each in made[:3]]
    models = {"reference": (0.0, 0.0), "a": (1.0, 0.0), "b": (0.5, 0.5), "still": (0.0, 1.0)}

    def table() -> LogprobTable:
        known = LogprobTable()
        known.put("a", made[0], [-1.0] * 4)
        return known

    if breaks is not None:
        with pytest.raises(InterruptedError):
            table().fill(Counting(breaks), span, made, models, Journal(tmp_path, "units", Progress()))  # type: ignore[arg-type]
    engine, found = Counting(), table()
    found.fill(engine, span, made, models, Journal(tmp_path, "units", Progress()))  # type: ignore[arg-type]
    assert sum(engine.asked) == 3 * (6 * 4 + 3) - 4 - (breaks or 0)
    assert all(each <= max(at_once + 3 * 5, 0) for each in engine.asked)
    for group in made:
        values = found.of(group, ["a", "b", "reference", "still"])
        for y, (a, b, reference, still) in zip(group.responses, values.tolist(), strict=True):
            base = -float(sum(group.prompt) * 31 + sum(y))
            known = group.prompt == made[0].prompt and y in made[0].responses
            assert [a, b, reference, still] == [-1.0 if known else base - 1000, base - 500, base, base]
