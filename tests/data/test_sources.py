"""Every schema in miniature, read as its owners write it; and the formats that go out and come back."""

import gzip
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import extract_prompt

from sipo.data import Row, read_rows
from sipo.data.prepare import prepare
from sipo.data.sources import trl
from sipo.data.sources.finding import find
from sipo.data.sources.grouping import grouped
from sipo.data.sources.interface import Dropped, Record
from sipo.data.sources.reading import read_file, read_path
from sipo.data.sources.registry import known_sets, sources
from sipo.errors import SipoError
from sipo.message import Message

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
CHAT = [{"role": "system", "content": "Be kind."}, USER, ANSWER, {"role": "user", "content": "And then?"}]
CHAT_MESSAGES = tuple(Message(**turn) for turn in CHAT)


def lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path, **choice: Any) -> tuple[str, list[Row], list[str]]:
    """The source, the rows, and the reasons of what was dropped."""
    found = find(str(path), **choice)
    results = list(found.rows)
    rows = [each for each in results if isinstance(each, Row)]
    return found.source.name, rows, [each.reason for each in results if isinstance(each, Dropped)]


def plain(row: Row) -> tuple[str, tuple[str, str], dict[str, int | None]]:
    return row.text, row.responses, row.preferred


PAIR = {"prompt": "Why?", "response_0": "A", "response_1": "B"}
PKU_10K = {**PAIR, "is_response_0_safe": True, "is_response_1_safe": False} | {
    "better_response_id": 1,
    "safer_response_id": 0,
}
PKU_V1 = {
    **PKU_10K,
    "prompt_source": "x",
    "response_0_harm_category": {"Drugs": False},
    "response_0_severity_level": 0,
    "response_0_sha256": "ef",
}
SCORES = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}


@pytest.mark.parametrize("record", [PKU_10K, PKU_V1], ids=["10K and 30K", "v1.0"])
def test_pku_saferlhf(record: dict[str, Any], tmp_path: Path) -> None:
    name, [row], _ = read(lines(tmp_path / "a.jsonl", record))
    assert name == "pku-saferlhf"
    assert plain(row) == ("Why?", ("A", "B"), {"helpful": 1, "harmless": 0})


def test_helpsteer_pairs_all_responses_and_keeps_ties(tmp_path: Path) -> None:
    said = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?"
    first = {"prompt": said, "response": "A", **SCORES}
    others = [{**first, "response": "B", "correctness": 1}, {**first, "response": "C", "verbosity": 3}]
    lone = {**first, "prompt": "Alone?"}
    name, rows, dropped = read(lines(tmp_path / "a.jsonl", first, lone, *others))  # not adjacent, and still a group
    assert name == "helpsteer"
    assert [row.responses for row in rows] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert rows[0].preferred == {**dict.fromkeys(SCORES), "correctness": 0}
    assert rows[1].preferred == {**dict.fromkeys(SCORES), "verbosity": 1}
    assert rows[2].preferred == {**dict.fromkeys(SCORES), "correctness": 1, "verbosity": 1}
    assert rows[0].prompt == (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))
    assert dropped == ["the only response to its prompt"]


@pytest.mark.parametrize(("strength", "label"), [(-3, 0), (-1, 0), (0, None), (1, 1), (3, 1)])
def test_preferences_from_minus_three_to_three(strength: int, label: int | None, tmp_path: Path) -> None:
    two = {"split": "val", "prompt": "Why?", "response_1": "A", "response_2": "B", "preference_strength": strength}
    name, [row], _ = read(lines(tmp_path / "2.jsonl", {**two, "preference_statement": "", "all_preferences": []}))
    assert name == "helpsteer2-preference" and row.split == "validation"
    assert plain(row) == ("Why?", ("A", "B"), {"overall": label})
    three = {"domain": "x", "language": "en", "context": CHAT, "response1": "A", "response2": "B"}
    three |= {"overall_preference": strength, "individual_preference": [{"score": 1, "reasoning": ""}]}
    name, [row], _ = read(lines(tmp_path / "3.jsonl", three))
    assert name == "helpsteer3" and row.prompt == CHAT_MESSAGES
    assert (row.responses, row.preferred) == (("A", "B"), {"overall": label})


def test_ultrafeedback(tmp_path: Path) -> None:
    def completion(response: str, *ratings: str) -> dict[str, Any]:
        names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
        notes = {name: {"Rating": rating, "Rationale": ""} for name, rating in zip(names, ratings, strict=True)}
        return {"model": "m", "response": response, "annotations": notes, "overall_score": 7.0}

    completions = [completion("A", "5", "1", "N/A", "3"), completion("B", "4", "2", "2", "3"), completion("C", *"5433")]
    name, rows, _ = read(lines(tmp_path / "a.jsonl", {"instruction": "Why?", "completions": completions}))
    assert name == "ultrafeedback"
    assert [row.responses for row in rows] == [("A", "B"), ("A", "C"), ("B", "C")]
    labels = [tuple(row.preferred.values()) for row in rows]
    assert labels == [(0, 1, None, None), (None, 1, None, None), (1, 1, 1, None)]
    assert tuple(rows[0].preferred) == ("instruction_following", "honesty", "truthfulness", "helpfulness")


def test_hh_rlhf_has_one_label_a_part_and_chats(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\nyou\n\nHuman: Why?\n\nAssistant:"
    pair = {"chosen": f"{start} A", "rejected": f"{start} B"}
    strays = [
        {"chosen": f"{start} A", "rejected": "\n\nHuman: Else\n\nAssistant: B"},
        {"chosen": "\n\nHuman: x", "rejected": "\n\nHuman: x"},
    ]
    for part, records in {"helpful-base": [pair, *strays], "harmless-base": [pair]}.items():
        path = tmp_path / part / "train.jsonl.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    name, rows, dropped = read(tmp_path)
    assert name == "hh-rlhf" and len(dropped) == 2
    assert [row.preferred for row in rows] == [{"harmless": 0}, {"helpful": 0}]
    chat = (Message("user", "Hi"), Message("assistant", "Hello\nyou"), Message("user", "Why?"))
    assert [row.prompt for row in rows] == [chat, chat] and rows[0].responses == ("A", "B")
    prepare(str(tmp_path), tmp_path / "out")
    assert read_rows(tmp_path / "out" / "rows.jsonl") == [Row(chat, ("A", "B"), {"harmless": 0, "helpful": 0})]


TRL = {
    "explicit": {"prompt": "Why?", "chosen": "A", "rejected": "B"},
    "implicit": {"chosen": "Why? A", "rejected": "Why? B"},
    "conversational": {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "B"}]},
    "conversational, implicit": {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "B"}]},
    "the prompt twice": {"prompt": "Why?", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "B"}]},
}


@pytest.mark.parametrize("record", TRL.values(), ids=TRL.keys())
def test_trl(record: dict[str, Any], tmp_path: Path) -> None:
    name, [row], _ = read(lines(tmp_path / "brief.jsonl", record))
    assert name == "trl" and row.preferred == {"brief": 0}
    assert row.prompt == (Message("user", "Why?"),)
    assert row.responses[0].strip() in ("A", "So.") and row.responses[1].strip() == "B"
    assert read(tmp_path / "brief.jsonl", objectives=("short",))[1][0].preferred == {"short": 0}


@given(st.text("ab \n"), st.text("ab "), st.text("ab "))
def test_an_implicit_prompt_ends_where_trl_ends_it(prompt: str, one: str, other: str) -> None:
    chosen, rejected = f"x{prompt}{one}", f"x{prompt}{other}"
    if all(a == b for a, b in zip(chosen, rejected, strict=False)):
        return  # one begins with the other: no answer is left of it
    theirs = extract_prompt({"chosen": chosen, "rejected": rejected})
    [row] = trl.rows([Record("", {"chosen": chosen, "rejected": rejected}, "a")], ())
    assert isinstance(row, Row)
    assert (row.prompt[0].content, *row.responses) == (theirs["prompt"], theirs["chosen"], theirs["rejected"])


LLAMA_FACTORY = {
    "alpaca": {"instruction": "Why", "input": "now?", "chosen": "A", "rejected": "B"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Why\nnow?"}],
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    },
    "openai": {
        "conversations": [{"role": "user", "content": "Why\nnow?"}],
        "chosen": {"role": "assistant", "content": "A"},
        "rejected": {"role": "assistant", "content": "B"},
    },
}


@pytest.mark.parametrize("record", LLAMA_FACTORY.values(), ids=LLAMA_FACTORY.keys())
def test_llama_factory_in_one_array(record: dict[str, Any], tmp_path: Path) -> None:
    with_system = {**record, "system": "Be kind.", "history": [["Hi", "Hello"]]}
    (tmp_path / "brief.json").write_text(json.dumps([record, with_system], indent=1))
    name, [row, other], _ = read(tmp_path / "brief.json")
    assert name == "llama-factory"
    assert plain(row) == ("Why\nnow?", ("A", "B"), {"brief": 0})
    assert other.prompt[0] == Message("system", "Be kind.") and other.prompt[-1] == row.prompt[0]
    assert other.prompt[1:-1] == (Message("user", "Hi"), Message("assistant", "Hello"))


def test_own_pairs_and_scores_by_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q,a,b,h\n"Why, so?",A,B,1\nWho?,A,B,\n')
    columns = {"prompt": "q", "response_0": "a", "response_1": "b", "helpful": "h"}
    name, rows, _ = read(tmp_path / "a.csv", columns=columns)
    assert name == "pairs"
    assert [plain(row) for row in rows] == [
        ("Why, so?", ("A", "B"), {"helpful": 1}),
        ("Who?", ("A", "B"), {"helpful": None}),
    ]
    scored = [{"q": "Why?", "a": text, "index": i, "h": h} for i, (text, h) in enumerate([("A", 1.5), ("B", None)])]
    pq.write_table(pa.Table.from_pylist([*scored, {**scored[0], "a": "C", "h": 0.5}]), tmp_path / "a.parquet")
    columns = {"prompt": "q", "response": "a", "helpful": "h"}
    name, rows, _ = read(tmp_path / "a.parquet", columns=columns)
    assert name == "scored"
    assert [plain(row) for row in rows] == [
        ("Why?", ("A", "B"), {"helpful": None}),
        ("Why?", ("A", "C"), {"helpful": 0}),
        ("Why?", ("B", "C"), {"helpful": None}),
    ]
    assert read(tmp_path / "a.parquet", columns={"prompt": "q", "response": "a"}, objectives=("index",))[1][0].preferred
    chat = lines(tmp_path / "b.jsonl", {**PAIR, "prompt": CHAT, "preferred": {"a": 0, "b": None}, "split": "test"})
    assert read(chat)[1] == [Row(CHAT_MESSAGES, ("A", "B"), {"a": 0, "b": None}, "test")]


BAD: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "label": (
        [PKU_10K, {**PKU_10K, "safer_response_id": 2}],
        {},
        "line 2: column `safer_response_id` is 2",
        "0, 1, or null",
    ),
    "no column": (
        [PKU_10K, PAIR],
        {},
        "line 2: has no column `better_response_id`; it has prompt,",
        "--map better_response_id=",
    ),
    "not text": ([{**PKU_10K, "response_1": 3}], {}, "line 1: column `response_1` is a number", "make it a string"),
    "score": (
        [{"prompt": "a", "response": "b", **SCORES, "verbosity": "high"}],
        {},
        'column `verbosity` is "high"',
        "a number",
    ),
    "score of what": ([{"prompt": "a", "response": "b", "h": 1}], {}, "which columns are scores", "--objectives h"),
    "label of what": ([PAIR | {"h": 1}], {}, "which columns are labels", "it has h"),
    "unknown": ([{"a": 1}], {}, "has the columns a, which no source knows", "--map prompt=COLUMN"),
    "mapping": ([PAIR], {"columns": {"prompt": "question"}}, "has no column `question`", "among prompt, response_0"),
    "message": (
        [{**PKU_10K, "prompt": [{"role": "user"}]}],
        {},
        "column `prompt` has a message without `content`",
        "content",
    ),
    "rating": (
        [{"instruction": "a", "completions": [{"response": "b", "annotations": {"honesty": {"Rating": "x"}}}]}],
        {},
        'column `honesty` is "x"',
        "must be a number",
    ),
    "format": ([PAIR], {"format": "helpster"}, "--format helpster: no such format", "did you mean `helpsteer`"),
}


@pytest.mark.parametrize(("records", "choice", "problem", "way_out"), BAD.values(), ids=BAD.keys())
def test_a_bad_record_is_one_line_with_file_row_column_and_way_out(
    records: list[Any], choice: dict[str, Any], problem: str, way_out: str, tmp_path: Path
) -> None:
    path = lines(tmp_path / "a.jsonl", *records)
    with pytest.raises(SipoError) as caught:
        read(path, **choice)
    line = str(caught.value)
    assert (problem in line) and (way_out in line)
    assert line.startswith(f"{path} line") or "format" in choice


def test_files_of_every_kind_hold_the_same(tmp_path: Path) -> None:
    records = [{"prompt": f"{i}\u2028é\n,", "x": "y"} for i in range(5)]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.json").write_text(json.dumps(records, ensure_ascii=False, indent=2), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d.parquet")
    quoted = "".join(f'"{record["prompt"]}",y\r\n' for record in records)
    (tmp_path / "e.csv").write_bytes(f"prompt,x\r\n{quoted}".encode())
    (tmp_path / "dataset_info.json").write_text("{}")
    for path in sorted(tmp_path.glob("?.*")):
        assert [value for _, value in read_file(path)] == records, path
    assert [record.value for record in read_path(tmp_path)] == records * 5


@given(
    st.lists(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
)
def test_arrays_are_read_as_json_reads_them(items: list[Any]) -> None:
    from io import BytesIO, TextIOWrapper

    from sipo.data.sources import reading

    for indent in (None, 1):
        file = TextIOWrapper(BytesIO(json.dumps(items, indent=indent).encode()))
        reading.CHUNK, kept = 3, reading.CHUNK
        try:
            assert [value for _, value in reading._array(Path("a.json"), file)] == items
        finally:
            reading.CHUNK = kept


@pytest.mark.parametrize("content", ["[", '[{"a": 1}', '[{"a": 1} {"a": 2}]', '[{"a": 1}, nope]', "[1,"])
def test_a_broken_array_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SipoError, match=r"a\.json item [12]: not JSON"):
        list(read_file(tmp_path / "a.json"))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 999)[:-9])
    (tmp_path / "b.csv").write_text("a,b\n1\n")
    (tmp_path / "c.csv").write_bytes(b"a,b\n\xe9,1\n")
    for name, problem in {
        "a.jsonl.gz": "not a readable gzip file",
        "b.csv": "line 2: has not as many",
        "c.csv": "not UTF-8",
    }.items():
        with pytest.raises(SipoError, match=problem):
            list(read_file(tmp_path / name))
    (tmp_path / "d").mkdir()
    with pytest.raises(SipoError, match="no .jsonl, .json, .csv, .tsv, .parquet file in it"):
        list(read_path(tmp_path / "d"))


def test_names_tell_split_and_part(tmp_path: Path) -> None:
    names = {
        "helpful/train.jsonl": ("helpful", "train"),
        "harmless-test-00000-of-00001.jsonl": ("harmless", "test"),
        "brief.jsonl": ("brief", None),
        "gpt-4.jsonl": ("gpt-4", None),
        "validation/polite/0000.jsonl": ("polite", "validation"),
        "contest.jsonl": ("contest", None),
    }
    for name in names:
        lines(tmp_path / name, {"name": name})
    found = {record.value["name"]: (record.part, record.split) for record in read_path(tmp_path)}
    assert found == names


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=30))
def test_groups_and_members_come_in_order_of_appearance(items: list[tuple[str, int]]) -> None:
    expected: dict[str, list[int]] = {}
    for key, value in items:
        expected.setdefault(key, []).append(value)
    assert list(grouped(items)) == list(expected.values())


def steps_of_grouping(items: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Instructions that the database executes for so many items, two of a key."""
    steps, every, connect = 0, 10, sqlite3.connect

    def count(database: str) -> sqlite3.Connection:
        connection = connect(database)
        connection.set_progress_handler(told, every)
        return connection

    def told() -> None:
        nonlocal steps
        steps += every

    with monkeypatch.context() as counted:
        counted.setattr(sqlite3, "connect", count)
        assert sum(map(len, grouped((f"{i % (items // 2)}", i) for i in range(items)))) == items
    return steps


def test_grouping_takes_work_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (steps_of_grouping(items, monkeypatch) for items in (1_000, 4_000))
    assert few > 1_000 and many < 5 * few  # sixteen times as many if every item were compared with every other


def endless(record: dict[str, Any]) -> Iterator[Record]:
    return (Record("", record, "a") for _ in count())


@pytest.mark.parametrize("record", [PKU_10K, *TRL.values(), *LLAMA_FACTORY.values(), {**PAIR, "preferred": {"a": 0}}])
def test_sources_of_pairs_stream(record: dict[str, Any]) -> None:
    source = next(source for source in sources() if source.recognises(record))
    assert len(list(islice(source.rows(endless(record), ()), 3))) == 3


def fake_hub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))


def test_known_names_and_hub_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None, data_dir: str | None) -> dict[str, Any]:
        asked.append((name, config, data_dir))
        start = f"\n\nHuman: {data_dir}\n\nAssistant:"
        pair = {"chosen": f"{start} A", "rejected": f"{start} B"} if data_dir else PKU_10K
        return {"train": [pair], "test": [{**pair, "prompt": "Else?"}]}

    fake_hub(monkeypatch, load)
    found = find("hh-rlhf")
    rows = [row for row in found.rows if isinstance(row, Row)]
    assert [(row.preferred, row.split) for row in rows] == list(
        chain.from_iterable([({name: 0}, "train"), ({name: 0}, "test")] for name in ("helpful", "harmless"))
    )
    assert found.known is not None and found.known.licence == "MIT"
    [*_] = find("someone/some-pairs:main").rows
    assert asked == [("Anthropic/hh-rlhf", None, f"{p}-base") for p in ("helpful", "harmless")] + [
        ("someone/some-pairs", "main", None)
    ]
    beavertails = [(row.text, row.split) for row in find("beavertails").rows if isinstance(row, Row)]
    assert beavertails == [("Why?", "train"), ("Else?", "test")]
    for known in known_sets().values():
        assert known[1].licence and all(part.id.count("/") == 1 for part in known[1].parts)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Offline mode is enabled\nand more")

    fake_hub(monkeypatch, offline)
    with pytest.raises(
        SipoError, match=r"nvidia/HelpSteer: cannot be loaded from the hub \(Offline mode is enabled\); che"
    ):
        list(find("helpsteer").rows)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SipoError, match=r"pip install 'datasets>="):
        list(find("nvidia/HelpSteer").rows)
    with pytest.raises(SipoError, match="helpstear: no such file or folder; did you mean `helpsteer`?"):
        find("helpstear")
    with pytest.raises(SipoError, match="no such file or folder"):
        find("data/rows.jsonl")
