"""Preference data as hubs and spreadsheets have it: transcripts, shards, dividers, splits that say nothing."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipo.cli.main import main
from sipo.data import read_prompts, read_rows
from sipo.data.cleaning import Choice
from sipo.data.prepare import Prepared, prepare
from sipo.data.sources.reading import read_file, shards
from sipo.errors import SipoError
from sipo.message import Message

PAIR = {"response_0": "Water them.", "response_1": "No idea.", "preferred": {"good": 0, "safe": 1}}
TURNS = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "how?"))


def packed(content: bytes) -> bytes:
    """Without the time, so that all processes that collect the tests give them the same names."""
    return gzip.compress(content, mtime=0)


def lines(file: Path, *records: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def made(source: Path, choice: Choice | None = None) -> tuple[Prepared, list[Any]]:
    to = source.parent / f"{source.stem}-made"
    return prepare(str(source), to, choice), read_rows(to / "rows.jsonl")


@pytest.mark.parametrize(
    "prompt",
    [
        "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how?\n\nAssistant:",
        "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how?\n\nAssistant: ",
        "Human: hi\n\nAssistant: hello\n\nHuman: how?",
        [*(turn._asdict() for turn in TURNS), {"role": "assistant", "content": ""}],
    ],
)
def test_a_transcript_is_a_chat_wherever_a_text_can_stand(prompt: Any, tmp_path: Path) -> None:
    rows = lines(tmp_path / "rows.jsonl", {"prompt": prompt, **PAIR})
    assert read_rows(rows)[0].prompt == read_prompts(rows)[0] == TURNS
    pairs = lines(tmp_path / "pairs.jsonl", {"prompt": prompt, "chosen": "Water them.", "rejected": "No."})
    scored = [{"prompt": prompt, "response": text, "good": len(text)} for text in ("a", "bb")]
    assert made(pairs, Choice(objectives=("good",)))[1][0].prompt == TURNS
    assert made(lines(tmp_path / "scored.jsonl", *scored), Choice(objectives=("good",)))[1][0].prompt == TURNS


def test_an_answer_may_be_a_transcript_and_speak_of_one(tmp_path: Path) -> None:
    whole = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how?\n\nAssistant: Water them."
    spoken = "Write `Human:` before what a person says, and `Assistant:` before what it answers."
    row = {"prompt": "how?", "response_0": whole, "response_1": spoken, "preferred": {"good": 0}}
    found = read_rows(lines(tmp_path / "rows.jsonl", row))[0]
    assert (found.prompt, found.responses) == (TURNS, ("Water them.", spoken))


@pytest.mark.parametrize("prompt", ['["how?"]', '["how?", "and then?"]', "['how?']", '["how?", null]'])
def test_a_list_of_texts_is_no_prompt_and_may_be_an_answer(prompt: str, tmp_path: Path) -> None:
    bad = {"prompt": prompt, **PAIR}
    with pytest.raises(SipoError, match="row|line 1: a prompt that is a list of texts"):
        read_rows(lines(tmp_path / "rows.jsonl", bad))
    good = {"prompt": "Name two colours in JSON.", **PAIR, "response_0": '["red", "blue"]'}
    result, rows = made(lines(tmp_path / "pairs.jsonl", bad, good))
    assert result.dropped == {"a prompt that is a list of texts": 1}
    assert [row.responses[0] for row in rows] == ['["red", "blue"]']


@pytest.mark.parametrize("label", [1, 0])
def test_a_label_of_shp_is_one_where_a_is_better(label: int, tmp_path: Path) -> None:
    record = {"history": "how?", "human_ref_A": "a", "human_ref_B": "b", "labels": label, "score_A": 3}
    result, (row,) = made(lines(tmp_path / "train.json", record))
    assert (row.text, row.responses, row.preferred) == ("how?", ("a", "b"), {"helpful": 1 - label})
    assert list(result.unread) == ["score_A"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "above", ["", "\ufeff", "sep={}\r\n", "\ufeffsep={}\n"], ids=["plain", "bom", "sep", "bom, sep"]
)
def test_the_header_tells_what_divides_fields(delimiter: str, above: str, tmp_path: Path) -> None:
    words = ["a, b; c\td", 'says "no"', "two\r\nlines"]
    cells = [f'"{word.replace(chr(34), 2 * chr(34))}"' for word in words]
    text = above.format(delimiter) + "\r\n".join(map(delimiter.join, (["x", "y", "z"], cells, ["1", "2"])))
    for name, opened in {"a.csv": Path.write_bytes, "a.tsv": Path.write_bytes, "a.csv.gz": _packed}.items():
        opened(tmp_path / name, text.encode())
        found = read_file(tmp_path / name)
        assert next(found)[1] == dict(zip("xyz", words, strict=True))
        with pytest.raises(SipoError, match=rf"line {4 + ('sep' in above)}: has not as many fields"):
            next(found)


def _packed(file: Path, content: bytes) -> None:
    file.write_bytes(packed(content))


@pytest.mark.parametrize(
    ("names", "absent", "problem"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "train-00001-of-00003", "has 2 of 3 shards of train"),
        (["train-00000-of-00001", "test-00001-of-00002"], "test-00000-of-00002", "has 1 of 2 shards of test"),
        (["data/part-1-of-3", "data/part-2-of-3"], "data/part-3-of-3", "data: has 2 of 3 shards of part"),
        (["0000-of-0002"], "0001-of-0002", "has 1 of 2 shards;"),
        (
            ["train-00000-of-00002-a09b74b3ef9c3b56"],
            "train-00001-of-00002-b09b74b3ef9c3b57",
            "has 1 of 2 shards of train",
        ),
    ],
)
def test_shards_that_are_not_all_there_are_named(names: list[str], absent: str, problem: str, tmp_path: Path) -> None:
    for name in names:
        lines(tmp_path / f"{name}.jsonl", {"prompt": "how?", **PAIR})
    with pytest.raises(SipoError, match=problem):
        shards(tmp_path)
    assert len(shards(tmp_path / f"{names[0]}.jsonl")) == 1, "whoever names a file wants that one"
    lines(tmp_path / f"{absent}.jsonl", {"prompt": "how?", **PAIR})
    assert len(shards(tmp_path)) == len(names) + 1


@pytest.mark.parametrize(
    ("splits", "given_up"),
    [
        (["test", "test"], ("test",)),
        (["train", "test"], ("train", "test")),  # of one prompt
        (["train", "train"], ()),
        ([None, None], ()),
    ],
)
def test_splits_that_say_nothing_are_named(splits: list[str | None], given_up: tuple[str, ...], tmp_path: Path) -> None:
    records = [{"prompt": "how?", **PAIR, "response_0": f"{i}", "split": split} for i, split in enumerate(splits)]
    result, rows = made(lines(tmp_path / "rows.jsonl", *records))
    assert result.given_up == given_up and {row.split for row in rows} == {None}
    card = (tmp_path / "rows-made" / "README.md").read_text(encoding="utf-8")
    assert (f"({', '.join(given_up)})" in card) == bool(given_up)


NOTHING: dict[str, tuple[list[dict[str, Any]], list[str], str]] = {
    "no objective": ([{"prompt": "how?", **PAIR, "preferred": {}}], [], "no row names an objective"),
    "an objective twice": ([{"prompt": "how?", **PAIR}], ["good", "good"], "`good` is there twice"),
    "no prompt": ([{"prompt": " ", **PAIR}], ["good"], "no rows are left; left out: 1 with an empty prompt"),
}


@pytest.mark.parametrize(("records", "objectives", "problem"), NOTHING.values(), ids=NOTHING.keys())
def test_what_makes_no_rows_is_one_line(
    records: list[Any], objectives: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lines(tmp_path / "a.jsonl", *records)
    asked = ["--objectives", ",".join(objectives)] if objectives else []
    assert main(["data", "prepare", str(file), "--to", str(tmp_path / "out"), *asked]) == 2
    said = capsys.readouterr().err
    assert problem in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_what_is_next_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pasted: Callable[[str], list[str]]
) -> None:
    rows = lines(tmp_path / "my rows" / "it's.jsonl", {"prompt": "how?", **PAIR})
    out, config = tmp_path / "my rows" / "out", tmp_path / "my rows" / "a run.yaml"
    assert main(["data", "prepare", str(rows), "--to", str(out)]) == 0
    assert pasted(capsys.readouterr().out) == ["sipo", "init", "run.yaml", "--data", str(out / "rows.jsonl")]
    assert main(["init", str(config), "--data", str(out / "rows.jsonl")]) == 0
    assert pasted(capsys.readouterr().out) == ["sipo", "check", str(config)]
    assert main(["data", "prepare", str(rows), "--to", str(tmp_path / "one"), "--objectives", "good"]) == 0
    assert "`sipo init" not in capsys.readouterr().out


@pytest.fixture
def pasted() -> Callable[[str], list[str]]:
    """The words of the one command that a text holds in backticks, as a shell has them."""
    import re
    import shlex

    return lambda text: shlex.split(re.findall(r"`(sipo [^`]*)`", text)[-1])


TEXT = json.dumps({"prompt": "how?", **PAIR}) + "\n"


@pytest.mark.parametrize(
    "content",
    [TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode(), packed(TEXT.encode()), packed(TEXT.encode("utf-8-sig"))],
    ids=["plain", "mark", "gzip", "gzip and mark"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_bytes_and_not_names_tell_what_is_packed(content: bytes, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert [value["prompt"] for _, value in read_file(file)] == ["how?"]
    if not name.endswith(".gz"):
        assert [row.responses for row in read_rows(file)] == [("Water them.", "No idea.")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x28\xb5\x2f\xfd\x04\x00", "begins as a .zst file; unpack it first"),
        (bz2.compress(TEXT.encode()), "begins as a .bz2 file"),
        (lzma.compress(TEXT.encode()), "begins as a .xz file"),
        (packed(packed(TEXT.encode())), "begins as a .gz file"),
        (b"PK\x03\x04\x14", "begins as a .zip file"),
        (b"PAR1\x15\x04", "begins as a .parquet file; give it that ending"),
        (packed(TEXT.encode())[:-9], "not a readable gzip file"),
        *((TEXT.encode(each), "save it again as UTF-8") for each in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
        (TEXT.replace("how", "c\xf3mo").encode("latin-1"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv.gz"])
def test_what_is_no_text_is_one_line(content: bytes, named: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(SipoError, match=f"^{file}") as refusal:
        list(read_file(file))
    assert named in str(refusal.value) and "\n" not in str(refusal.value)
    if name == "rows.jsonl":
        with pytest.raises(SipoError, match=f"^{file}"):
            read_rows(file)


def test_a_packed_shard_is_not_passed_over(tmp_path: Path) -> None:
    lines(tmp_path / "data/train.jsonl", {"prompt": "how?", **PAIR})
    (tmp_path / "data/more.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(SipoError, match=r"more.jsonl.zst: .zst files are not read; unpack it"):
        shards(tmp_path / "data")


CHOSEN = {"prompt": "how?", "chosen": "Water them.", "rejected": "No idea."}
OPPOSITE = "chosen and rejected whose scores say the opposite"


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"score_chosen": 8, "score_rejected": 7.5}, 0),
        ({"score_chosen": "8", "score_rejected": "8.0"}, None),
        ({"chosen-rating": 1, "rejected-rating": 2}, OPPOSITE),
        ({"Chosen_Avg_Rating": 3.0, "Rejected_Avg_Rating": 3.5}, OPPOSITE),
        ({"score_chosen": 8, "score_rejected": 8, "rating_chosen": 2, "rating_rejected": 1}, 0),
        ({"score_chosen": 8, "score_rejected": 7, "rating_chosen": 1, "rating_rejected": 2}, OPPOSITE),
        ({"status": "tie"}, None),
        ({"status": " Tie", "score_chosen": 8, "score_rejected": 7}, None),
    ],
)
@pytest.mark.parametrize(
    "record",
    [
        CHOSEN,
        {**CHOSEN, "chosen": [{"role": "assistant", "content": "Water them."}]},
        {"instruction": "how?", "chosen": "Water them.", "rejected": "No idea."},
        {name: f"\n\nHuman: how?\n\nAssistant: {CHOSEN[name]}" for name in ("chosen", "rejected")},
    ],
    ids=["trl", "messages", "llama-factory", "hh-rlhf"],
)
def test_what_a_pair_says_of_itself_counts(
    record: dict[str, Any], columns: dict[str, Any], label: int | str | None, tmp_path: Path
) -> None:
    plain = {name: value.replace("how", "why") if isinstance(value, str) else value for name, value in record.items()}
    prepared, rows = made(lines(tmp_path / "good.jsonl", {**record, "prompt_id": 1, **columns}, plain, plain))
    if isinstance(label, str):
        assert prepared.dropped.get(label) == 1 and all(row.preferred == {"good": 0} for row in rows)
    else:
        assert rows[0].preferred == {"good": label} and label not in prepared.dropped
    assert set(prepared.unread) == ({"prompt_id"} if not isinstance(label, str) else set()), "they have been read"


@pytest.mark.parametrize(
    "columns",
    [
        {"toxicity_chosen": 0.9, "toxicity_rejected": 0.1},
        {"score_chosen": "good", "score_rejected": "bad"},
        {"score_chosen": 2, "score_rejected": None},
        {"score_chosen": 2},
        {"status": "swapped"},
    ],
)
def test_what_says_nothing_of_which_is_better_is_named(columns: dict[str, Any], tmp_path: Path) -> None:
    prepared, rows = made(lines(tmp_path / "good.jsonl", {**CHOSEN, **columns}))
    assert rows[0].preferred == {"good": 0}
    assert set(prepared.unread) == {name for name, value in columns.items() if value is not None}


@pytest.mark.parametrize(
    ("record", "column"),
    [
        ({"history": "how?", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "labels"),
        ({"prompt": "how?", "response_1": "a", "response_2": "b", "preference_strength": 1}, "preference_strength"),
        ({"context": "how?", "response1": "a", "response2": "b", "overall_preference": 1}, "overall_preference"),
    ],
)
def test_labels_that_mean_something_else_are_not_taken_for_ours(
    record: dict[str, Any], column: str, tmp_path: Path
) -> None:
    file = lines(tmp_path / "good.jsonl", record)
    prompt, first, second, _ = record
    columns = {"prompt": prompt, "response_0": first, "response_1": second, "good": column}
    with pytest.raises(SipoError, match=f"`{column}` mean other responses than in rows; leave --map out"):
        prepare(str(file), tmp_path / "out", Choice(columns=columns))
    other = lines(tmp_path / "mine.jsonl", {**{k: v for k, v in record.items() if k != column}, "best": 1})
    assert made(other, Choice(columns={**columns, "good": "best"}))[1][0].preferred == {"good": 1}


VICUNA = "A chat between a curious user and an assistant. USER: how? ASSISTANT:"
ALPACA = "Below is an instruction.\n\n### Instruction:\nhow?\n\n### Response:"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [(VICUNA, "'USER:'"), (ALPACA, "'### Instruction'"), ("Human: how?\nAssistant:", "'Human:'"), ("User: how? AI: ", "'User:'")],
)  # fmt: skip
def test_turns_in_a_text_are_counted_and_shown(
    prompt: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = "What does `USER:` mean in a log, and is an ASSISTANT a user? ### Response time"
    records = [{"prompt": prompt, **PAIR}, {"prompt": plain, **PAIR}, {"prompt": "why?", **PAIR, "response_1": prompt}]
    prepared, rows = made(lines(tmp_path / "rows.jsonl", *records))
    assert rows[0].prompt == (Message("user", prompt),)
    (line,) = prepared.doubts
    assert line.startswith(f"turns are written into the text of 2 rows, the first {named} in")
    assert main(["data", "inspect", str(tmp_path / "rows.jsonl")]) == 0
    assert "turns are written into the text of 2 rows" in " ".join(capsys.readouterr().out.split())
