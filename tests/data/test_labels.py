"""What data states of its rows, labels, scores and splits, as people and pandas write it, and what labels say together."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sipo.check import check
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.data import read_rows
from sipo.data.cleaning import Choice
from sipo.data.labels import as_label, as_number, as_split
from sipo.data.prepare import prepare
from sipo.errors import SipoError

MISSING = (None, "", " ", "nan", "NaN", "NA", "N/A", "<NA>", "null", "None", float("nan"))
PAIR = {"prompt": "p", "response_0": "A", "response_1": "B"}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


@pytest.mark.parametrize("index", [0, 1])
def test_labels_in_every_spelling(index: int) -> None:
    for found in (index, float(index), f"{index}", f"{index}.0", f" {index}", f"{index}.000 ", f"{index}e0"):
        assert as_label(found, "it") == index
    for name in ("AB"[index], "ab"[index], f"response_{index}", f"Response_{index} ", ("model_a", "model_b")[index]):
        assert as_label(name, "it") == index


@pytest.mark.parametrize("found", [*MISSING, "tie", "Tie", "draw", "both", "neither"])
def test_ties_and_missing_labels(found: Any) -> None:
    assert as_label(found, "it") is None


@pytest.mark.parametrize("found", [2, -1, 0.5, "2", "-1", "0.5", True, False, "True", "C", "inf", math.inf, [0], {}])
def test_what_is_no_label_is_one_line(found: Any) -> None:
    with pytest.raises(SipoError, match=r"it is .*; use 0, 1, or null"):
        as_label(found, "it")


def test_numbers() -> None:
    for found, value in ((3, 3), ("3.5", 3.5), (" -2 ", -2), ("1e3", 1000), *((each, None) for each in MISSING)):
        assert as_number(found, "it") == value
    for found in ("high", True, math.inf, "-inf", "1,5", [1], 10**400):
        with pytest.raises(SipoError, match=r"it is .*; it must be a number, a finite one"):
            as_number(found, "it")


def test_split_names() -> None:
    for found, split in (("Train", "train"), ("val", "validation"), ("dev ", "validation"), ("TEST", "test")):
        assert as_split(found, "it") == split
    assert {as_split(found, "it") for found in MISSING} == {None}
    for found in ("extra", 3, ["train"]):
        with pytest.raises(SipoError, match="use train, validation, test or null, or rename the column"):
            as_split(found, "it")


def test_a_csv_as_pandas_writes_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "prompt,response_0,response_1,good,kind,split\n"
        "p,A,B,1.0,A,train\nq,A,B,,b,train\nr,A,B,0.0,NA,test\ns,A,B,nan, 1,test\n"
    )
    prepare(str(tmp_path / "rows.csv"), tmp_path / "out", Choice(objectives=("good", "kind")))
    rows = {row.text: row for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert [tuple(rows[prompt].preferred.values()) for prompt in "pqrs"] == [(1, 0), (None, 1), (0, None), (None, 1)]
    assert {rows[prompt].split for prompt in "rs"} == {"test"} and "test" not in {rows[prompt].split for prompt in "pq"}


def test_labels_that_are_the_names_of_the_columns(tmp_path: Path) -> None:
    records = [
        {"q": q, "left": "A", "right": "B", "won": won} for q, won in (("p", "left"), ("r", "right"), ("s", "tie"))
    ]
    columns = {"prompt": "q", "response_0": "left", "response_1": "right", "good": "won"}
    prepare(str(lines(tmp_path / "a.jsonl", *records)), tmp_path / "out", Choice(columns=columns))
    assert [row.preferred["good"] for row in read_rows(tmp_path / "out" / "rows.jsonl")] == [0, 1, None]


@pytest.mark.parametrize("column", ["split", "data_split", "partition"])
@pytest.mark.parametrize(
    ("record", "objectives"),
    [
        ({"chosen": "A", "rejected": "B"}, ()),
        ({"response_0": "A", "response_1": "B", "good": 0}, ("good",)),
        ({"response_0": "A", "response_1": "B", "better_response_id": 0, "safer_response_id": 1}, ()),
    ],
)
def test_stated_splits_are_kept_by_every_source(
    record: dict[str, Any], objectives: tuple[str, ...], column: str, tmp_path: Path
) -> None:
    splits = {"p": "train", "q": "valid", "r": "test"}
    records = [{"prompt": prompt, **record, column: split} for prompt, split in splits.items()]
    prepare(str(lines(tmp_path / "a.jsonl", *records)), tmp_path / "out", Choice(objectives=objectives))
    found = {row.text: row.split for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert found == {"p": "train", "q": "validation", "r": "test"}


@pytest.mark.parametrize(
    "name", ["Train.jsonl", "train/x.jsonl", "helpful-TRAIN-00000-of-00001.jsonl", "training.jsonl"]
)
def test_splits_in_the_names_of_files_and_folders(name: str, tmp_path: Path) -> None:
    for folder, prompt in (
        (name, "p"),
        (name.replace("rain", "est").replace("RAIN", "EST").replace("esting", "esting"), "q"),
    ):
        path = tmp_path / "data" / folder.replace("Test", "Test")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines(
            path,
            {"prompt": prompt, "chosen": "A", "rejected": "B"},
            {"prompt": prompt * 2, "chosen": "A", "rejected": "B"},
        )
    prepare(str(tmp_path / "data"), tmp_path / "out", Choice(objectives=("good",)))
    found = {row.text: row.split for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert {found["q"], found["qq"]} == {"test"} and "test" not in {found["p"], found["pp"]}


DUPLICATES = {
    "label": '{"prompt": "p", "response_0": "A", "response_1": "B", "preferred": {"good": 0, "good": 1}}',
    "column": '{"prompt": "p", "prompt": "q", "response_0": "A", "response_1": "B", "preferred": {"good": 0}}',
}


@pytest.mark.parametrize("line", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("command", ["prepare", "inspect", "array"])
def test_a_key_twice_is_one_line(line: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = json.dumps({**PAIR, "preferred": {"good": 0}})
    path = lines(tmp_path / "rows.jsonl", good, line)
    if command == "array":
        path = tmp_path / "rows.json"
        path.write_text(f"[{good},\n{line}]")
    argv = (
        ["data", "inspect", str(path)]
        if command == "inspect"
        else ["data", "prepare", str(path), "--to", str(tmp_path / "out")]
    )
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "2: has the key `" in error and "` twice; keep one" in error and error.count("\n") == 1


def test_a_column_twice_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,chosen\np,A,B,C\n")
    table = pa.table([["p"], ["A"], ["B"], ["C"]], names=["prompt", "chosen", "rejected", "chosen"])
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(SipoError, match=f"{name}: has the column `chosen` twice"):
            prepare(str(tmp_path / name), tmp_path / "out")


@pytest.mark.parametrize("rare", ["helpfull", "Helpful", "helful", "help_ful", "helpfu1"])
@pytest.mark.parametrize("asked", [None, ["helpful"]])
def test_a_misspelt_objective_is_no_other_objective(rare: str, asked: list[str] | None, tmp_path: Path) -> None:
    labels = [{"helpful": at % 2, "kind": 1 - at % 2} for at in range(8)]
    labels[5] = {rare: 1, "kind": 0}
    records = [{**PAIR, "prompt": f"p{at}", "preferred": each} for at, each in enumerate(labels)]
    path = lines(tmp_path / "rows.jsonl", *records)
    with pytest.raises(SipoError, match=f"`{rare}` has labels in 1 rows.*is it `helpful` misspelt"):
        read_rows(path, asked)
    with pytest.raises(SipoError, match=f"`{rare}` has labels in 1 rows.*is it `helpful` misspelt"):
        prepare(str(path), tmp_path / "out", Choice(objectives=tuple(asked or ())))
    wide = [{**each, "preferred": dict.fromkeys(("helpful", "kind", rare)) | each["preferred"]} for each in records]
    pq.write_table(pa.Table.from_pylist(wide), tmp_path / "rows.parquet")
    with pytest.raises(SipoError, match="misspelt"):
        read_rows(tmp_path / "rows.parquet", asked)


@pytest.mark.parametrize(
    "labels",
    [
        [{"helpful": 0}, {"helpfull": 1}, {"helpful": 1, "helpfull": 0}],  # a row has both
        [{"honest": 0}] * 5 + [{"harmless": 1}],  # not alike
        [{"aspect1": 0}] * 5 + [{"aspect2": 1}],  # told apart by a number
        [{"helpful": 0}] * 3 + [{"helpfully": 1}] * 2,  # not rare
    ],
)
def test_objectives_that_are_meant(labels: list[dict[str, int]], tmp_path: Path) -> None:
    records = [{**PAIR, "prompt": f"p{at}", "preferred": each} for at, each in enumerate(labels)]
    read_rows(lines(tmp_path / "rows.jsonl", *records))


def circle(*winners: str, name: str = "good", prompt: str = "p") -> list[dict[str, Any]]:
    """Rows in which each of the texts wins against the next, and the last against the first."""
    pairs = zip(winners, (*winners[1:], winners[0]), strict=True)
    ordered = [((one, other), 0) if at % 2 else ((other, one), 1) for at, (one, other) in enumerate(pairs)]
    return [
        {"prompt": prompt, "response_0": pair[0], "response_1": pair[1], "preferred": {name: label, "other": 0}}
        for pair, label in ordered
    ]


@pytest.mark.parametrize("length", [3, 4, 7])
def test_labels_that_go_in_a_circle_are_counted(
    length: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = circle(*"XYZ", prompt="q")[:-1]
    path = lines(tmp_path / "rows.jsonl", *circle(*"ABCDEFG"[:length]), *straight, *circle(*"KLM", prompt="r"))
    for argv in (["inspect", str(path)], ["prepare", str(path), "--to", str(tmp_path / "out")]):
        assert main(["data", *argv]) == 0
        said = capsys.readouterr().out
        assert "`good`: for 2 prompts its labels go in a circle" in said and "`other`: for" not in said
    assert "go in a circle" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("space", ["", " "])
def test_the_same_pair_with_opposite_labels(swapped: bool, space: str, tmp_path: Path) -> None:
    first = {**PAIR, "preferred": {"good": 0, "kind": 1}}
    texts = ("B", "A" + space) if swapped else ("A" + space, "B")
    other = {"prompt": "p", "response_0": texts[0], "response_1": texts[1], "preferred": {"good": 0 if swapped else 1}}
    path = lines(tmp_path / "rows.jsonl", first, other, {**PAIR, "prompt": "q", "preferred": {"good": 1}})
    with pytest.raises(SipoError, match="line 2: contradicts line 1: `good`"):
        read_rows(path)
    made = prepare(str(path), tmp_path / "out")
    assert made.contradictions == 1
    assert [row.preferred for row in read_rows(tmp_path / "out" / "rows.jsonl")] == [
        {"good": None, "kind": 1}, {"good": 1, "kind": None}
    ]  # fmt: skip


def test_check_says_it_too(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(settings["data"]["path"])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*records, *circle(*"ABC", name="detail")]))
    check(parse_config(settings, "settings"))
    said = capsys.readouterr().out
    assert "`detail`: for 1 prompt its labels go in a circle" in said and "`brevity`: for" not in said


def test_labels_that_never_vary_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{**PAIR, "prompt": f"p{at}", "preferred": {"good": 1, "kind": at % 2}} for at in range(12)]
    path = lines(tmp_path / "rows.jsonl", *records)
    assert main(["data", "inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "`good` prefers response 1 in all 12 rows" in said and "`kind` prefers" not in said
