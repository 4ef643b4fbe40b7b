"""`sipo data prepare`: what is kept, merged and dropped, splits, the card, and that nothing is left half-done."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sipo.cli.main import main
from sipo.data import Row, conflict_statistics, read_rows, split_rows, write_rows
from sipo.data.cleaning import Choice
from sipo.data.prepare import prepare
from sipo.errors import SipoError
from sipo.message import Message

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
HELPSTEER, PKU = SAMPLES / "helpsteer" / "sample.jsonl", SAMPLES / "pku-saferlhf" / "sample.jsonl"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
needs_samples = pytest.mark.skipif(not (HELPSTEER.exists() and PKU.exists()), reason="needs the real samples")


def lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pair(prompt: Any = "Why?", first: Any = "A", second: Any = "B", **labels: int | None) -> dict[str, Any]:
    return {"prompt": prompt, "response_0": first, "response_1": second, "preferred": labels}


def prepared(source: Path, to: Path, **choice: Any) -> list[Row]:
    made = prepare(str(source), to, Choice(**choice))
    rows = read_rows(to / made.file)  # which refuses whatever a run would
    assert made.statistics == conflict_statistics(rows)
    return rows


def test_what_compares_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    records = [
        pair(a=0, b=1),
        pair(first=" ", a=0),
        pair(first=None, a=0),
        pair(first="B ", a=0),
        pair(prompt="", a=0),
        pair(prompt=[], a=0),
        pair(prompt=talk, a=0),
        pair(prompt=[{"role": "tool", "content": "x"}, talk[0]], a=0),
        pair(first="\ud83d", a=0),
    ]
    made = prepare(str(lines(tmp_path / "a.jsonl", *records)), tmp_path / "out")
    assert made.dropped == {
        "an empty response": 2,
        "two identical responses": 1,
        "an empty prompt": 2,
        "a prompt that does not end with the user's turn": 1,
        "a role other than system, user and assistant": 1,
        "half a character (a lone surrogate)": 1,
    }
    [row] = read_rows(tmp_path / "out" / "rows.jsonl")
    assert row.preferred == {"a": 0, "b": 1}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| an empty response | 2 |" in card and str(tmp_path) not in card


def test_the_same_pair_is_one_row_with_all_its_labels(tmp_path: Path) -> None:
    records = [
        pair(a=0, b=None, c=1),
        pair("Else?", a=1, c=0),
        pair(first="B", second="A", a=1, b=0, c=1),
        pair(a=0, c=1),
        pair(second="C", a=1),
    ]
    made = prepare(str(lines(tmp_path / "a.jsonl", *records)), tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert [(row.text, row.responses, row.preferred) for row in rows] == [
        ("Why?", ("A", "B"), {"a": 0, "b": 1, "c": None}),
        ("Why?", ("A", "C"), {"a": 1, "b": None, "c": None}),
        ("Else?", ("A", "B"), {"a": 1, "b": None, "c": 0}),
    ]
    assert made.contradictions == 1 and sum(made.dropped.values()) == 2


TIES = [pair(f"{i}?", a=a, b=b) for i, (a, b) in enumerate(itertools.product([0, 1, None], repeat=2))]


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({}, 9),
        ({"drop_ties": "any"}, 4),
        ({"drop_ties": "all"}, 8),
        ({"drop_ties": "any", "objectives": ("b",)}, 6),
        ({"objectives": ("b", "a")}, 9),
    ],
)
def test_ties_are_dropped_by_choice_only(choice: dict[str, Any], kept: int, tmp_path: Path) -> None:
    rows = prepared(lines(tmp_path / "a.jsonl", *TIES), tmp_path / "out", **choice)
    assert len(rows) == kept
    assert list(rows[0].preferred) == list(choice.get("objectives", ("a", "b")))


def test_smaller_can_be_better(tmp_path: Path) -> None:
    rows = prepared(lines(tmp_path / "a.jsonl", *TIES), tmp_path / "out", minimize=("b",))
    flipped = {0: 1, 1: 0, None: None}
    assert [tuple(row.preferred.values()) for row in rows] == [
        (each["preferred"]["a"], flipped[each["preferred"]["b"]]) for each in TIES
    ]


def test_the_length_limit_is_of_prompt_and_longer_response(model_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    texts = ["Why?", "Because it is so.", "Who knows, it may well be the wind."]
    size = {text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
    limit = size[texts[0]] + size[texts[1]]
    source = lines(tmp_path / "a.jsonl", pair(texts[0], "A", texts[1], a=0), pair(texts[0], "A", texts[2], a=0))
    for longest, kept in [(limit - 1, 0), (limit, 1), (size[texts[0]] + size[texts[2]], 2)]:
        arguments = {"max_tokens": longest, "tokenizer": str(model_folder)}
        if kept:
            assert len(prepared(source, tmp_path / str(longest), **arguments)) == kept
        else:
            with pytest.raises(SipoError, match=f"no rows are left; left out: 2 with over {longest} tokens"):
                prepared(source, tmp_path / str(longest), **arguments)


@pytest.mark.parametrize("name", ["model.gguf", "package:a_model"])
def test_a_tokenizer_may_be_inside_a_gguf_file(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Which is converted as a model's is; here the conversion is there already."""
    converted = {tmp_path / "model.gguf": model_folder}
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("sipo.models.locate.converted", lambda file: converted[file])
    monkeypatch.setattr("sipo.models.locate.packaged", lambda package: tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    source = lines(tmp_path / "a.jsonl", pair("Why?", "A", "B", a=0), pair("Why?", "A", "Because " * 9, a=0))
    folder = prepared(source, tmp_path / "folder", max_tokens=20, tokenizer=str(model_folder))
    assert prepared(source, tmp_path / "gguf", max_tokens=20, tokenizer=name) == folder and len(folder) == 1


def many(prefix: str, number: int, **labels: int) -> list[dict[str, Any]]:
    return [pair(f"{prefix} {i}", answer, "B", **(labels or {"a": 0})) for i in range(number) for answer in ("A", "C")]


def splits_of(rows: list[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[str(row.split)].add(row.text)
    return found


def test_stated_splits_are_kept_and_those_missing_taken_from_train(tmp_path: Path) -> None:
    lines(tmp_path / "h" / "train.jsonl", *many("train", 60))
    lines(tmp_path / "h" / "validation.jsonl", *many("validation", 7), *many("train", 2))
    with_validation = splits_of(prepared(tmp_path / "h", tmp_path / "a"))
    assert {name: len(prompts) for name, prompts in with_validation.items()} == {
        "train": 53,
        "validation": 7,
        "test": 7,
    }
    assert with_validation["validation"] == {f"validation {i}" for i in range(7)}  # a prompt of train stays there
    lines(tmp_path / "k" / "train.jsonl", *many("train", 60))
    lines(tmp_path / "k" / "test.jsonl", *many("test", 9), *many("train", 3))
    with_test = splits_of(prepared(tmp_path / "k", tmp_path / "b"))
    assert {name: len(prompts) for name, prompts in with_test.items()} == {"train": 54, "validation": 6, "test": 9}
    assert splits_of(prepared(tmp_path / "k", tmp_path / "c", seed=1))["validation"] != with_test["validation"]
    assert set(splits_of(prepared(tmp_path / "k" / "test.jsonl", tmp_path / "d"))) == {"None"}  # one says nothing
    card = (tmp_path / "b" / "README.md").read_text()
    assert "| a prompt that an earlier split has | 6 |" in card and "| train | 108 | 54 | 0.00% |" in card


def test_the_papers_test_prompts(tmp_path: Path) -> None:
    def pku(prefix: str, number: int) -> list[dict[str, Any]]:
        labels = {"better_response_id": 0, "safer_response_id": 1}
        return [{**record, **labels} for record in many(prefix, number)]

    lines(tmp_path / "in" / "train.jsonl", *pku("train", 100))
    lines(tmp_path / "in" / "test.jsonl", *pku("test", 510), *pku("train", 5))
    rows = prepared(tmp_path / "in", tmp_path / "out", format="beavertails", parquet=True)
    found = splits_of(rows)
    assert {name: len(prompts) for name, prompts in found.items()} == {"train": 90, "validation": 10, "test": 500}
    assert all(prompt.startswith("test") for prompt in found["test"])
    assert conflict_statistics(rows).conflict_ratio == 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "| a test prompt beyond 500 | 20 |" in card


def test_a_run_keeps_to_stated_splits(tmp_path: Path) -> None:
    rows = [Row((Message("user", str(i)),), ("A", "B"), {"a": 0}, "test" if i % 2 else None) for i in range(20)]
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    splits = split_rows(read_rows(path), seed=0, validation=0.0, test=0.0)
    assert (splits.train, splits.test) == (rows[::2], rows[1::2])
    write_rows(path, [*rows, Row(rows[0].prompt, ("A", "C"), {"a": 0}, "test")])
    with pytest.raises(SipoError, match="line 21: has the prompt of line 1, but the split test and not null"):
        read_rows(path)
    lines(path, {**pair(a=0), "split": "train_sft"})
    with pytest.raises(SipoError, match='line 1: split is "train_sft"; use train, validation, test or null'):
        read_rows(path)


labels = st.sampled_from([0, 1, None])
rows = st.lists(
    st.builds(
        Row,
        st.sampled_from("abcdef").map(lambda text: (Message("user", text),)),
        st.sampled_from([("A", "B"), ("B", "A"), ("A", "C")]),
        st.fixed_dictionaries({"x": labels, "y": labels, "z": labels}),
        st.sampled_from([None, "train", "validation", "test"]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(rows=rows, ties=st.sampled_from([None, "any", "all"]))
def test_whatever_is_written_can_be_read_and_no_prompt_is_in_two_splits(
    rows: list[Row], ties: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = lines(folder / "a.jsonl", *(row.as_record() for row in rows))
    expected = expected_labels(rows, ties)
    if not expected or any(all(each[name] is None for each in expected.values()) for name in "xyz"):
        with pytest.raises(SipoError, match="no records|no rows are left|prefers no response"):
            prepared(source, folder / "out", drop_ties=ties)
        assert os.listdir(folder) == ["a.jsonl"]
        return
    found = prepared(source, folder / "out", drop_ties=ties)
    winners = {
        (row.text, *sorted(row.responses)): {
            n: None if p is None else row.responses[p] for n, p in row.preferred.items()
        }
        for row in found
    }
    assert winners == expected and len(winners) == len(found)


def expected_labels(rows: list[Row], ties: str | None) -> dict[tuple[str, ...], dict[str, str | None]]:
    """The winner of each pair and objective, if all rows of a split agree on it, from the prompt's earliest split."""
    order = {None: 0, "train": 0, "validation": 1, "test": 2}
    votes: dict[tuple[int, str, str, str], dict[str, set[str]]] = {}
    for row in rows:
        low, high = sorted(row.responses)
        of_pair = votes.setdefault((order[row.split], row.text, low, high), {name: set() for name in "xyz"})
        for name, label in row.preferred.items():
            of_pair[name] |= set() if label is None else {row.responses[label]}
    drop = {"any": any, "all": all}.get(ties or "", lambda _: False)
    kept = {
        where: {name: next(iter(said)) if len(said) == 1 else None for name, said in of_pair.items()}
        for where, of_pair in votes.items()
        if not drop(len(said) != 1 for said in of_pair.values())
    }
    earliest = {text: min(split for split, other, *_ in kept if other == text) for _, text, *_ in kept}
    return {where[1:]: winners for where, winners in kept.items() if where[0] == earliest[where[1]]}


@given(st.lists(st.tuples(labels, labels, labels, labels), min_size=1))
def test_ratios_of_any_number_of_objectives(cases: list[tuple[int | None, ...]]) -> None:
    names = ("a", "b", "c", "d")
    found = conflict_statistics(
        Row((Message("user", "?"),), ("A", "B"), dict(zip(names, case, strict=True))) for case in cases
    )
    for size, first, least, most in found.by_size():
        subsets = itertools.combinations(range(4), size)
        ratios = [sum({0, 1} <= {case[i] for i in subset} for case in cases) / len(cases) for subset in subsets]
        assert (first, least, most) == (ratios[0], min(ratios), max(ratios))
    assert [size for size, *_ in found.by_size()] == [2, 3, 4]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path / "a.jsonl", *({"q": f"{i}?", "a": "A", "b": "B", "h": 0, "s": i % 2} for i in range(4)))
    mapping = [f"--map={each}" for each in ("prompt=q", "response_0=a", "response_1=b", "helpful=h", "harmful=s")]
    to = tmp_path / "new" / "out"
    assert main(["data", "prepare", str(source), "--to", str(to), *mapping, "--direction", "harmful=minimize"]) == 0
    said = capsys.readouterr().out
    assert "a.jsonl read as pairs: 4 rows, 4 prompts" in said and "conflict ratio 50.0%" in said
    assert [row.preferred["harmful"] for row in read_rows(to / "rows.jsonl")] == [1, 0, 1, 0]
    assert main(["data", "inspect", str(to / "rows.jsonl")]) == 0
    assert main(["data", "convert", str(to / "rows.jsonl"), "--to", str(tmp_path / "trl")]) == 0
    assert f"{tmp_path / 'trl' / 'helpful.jsonl'}: 4 pairs" in capsys.readouterr().out


FAILURES = {
    "no such source": (["pku-saferhlf-10k"], "did you mean `pku-saferlhf-10k`"),
    "no such format": (["FILE", "--format", "x"], "--format x: no such format"),
    "no such objective": (["FILE", "--objectives", "c"], "has no objective `c`; it has a, b"),
    "tie": (["FILE", "--drop-ties", "some"], "--drop-ties some: write any"),
    "mapping": (["FILE", "--map", "prompt"], "--map: `prompt` is not of the form name=value"),
    "direction": (["FILE", "--direction", "a=down"], "a=down; write maximize or minimize"),
    "no tokenizer": (["FILE", "--max-tokens", "9"], "--max-tokens needs a tokenizer"),
    "no package": (["FILE", "--max-tokens", "9", "--tokenizer", "package:none"], "package:none: not installed"),
    "no GGUF": (
        ["FILE", "--max-tokens", "9", "--tokenizer", "none.gguf"],
        "--tokenizer: model none.gguf: no such file",
    ),
    "bad tokenizer": (["FILE", "--max-tokens", "9", "--tokenizer", "./none"], "tokenizer ./none: cannot be loaded"),
    "bad name": (["FILE", "--map", "b d=prompt"], "`b d` is no name for an objective"),
    "late in the file": (["LATE"], "late.jsonl line 3: column `a` is 7; use 0, 1, or null"),
    "never differs": (["TIED"], "`b` prefers no response in any row; leave it out, --objectives a"),
    "empty": (["EMPTY"], "empty.jsonl: no records in it"),
}


@pytest.mark.parametrize(("arguments", "problem"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_is_one_line_and_leaves_nothing(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "FILE": lines(tmp_path / "a.jsonl", pair(a=0, b=1)),
        "LATE": lines(tmp_path / "late.jsonl", pair(a=0), pair("b", a=0), pair(a=7)),
        "TIED": lines(tmp_path / "tied.jsonl", pair(a=0, b=None)),
        "EMPTY": lines(tmp_path / "empty.jsonl"),
    }
    if "b d=prompt" in arguments:
        lines(files["FILE"], {**{k: v for k, v in pair().items() if k != "preferred"}, "prompt": "?", "x": 0})
        arguments = ["FILE", "--map", "b d=x"]
    before = sorted(tmp_path.rglob("*"))
    argv = [str(files.get(each, each)) for each in arguments]
    assert main(["data", "prepare", *argv, "--to", str(tmp_path / "deep" / "out")]) == 2
    said = capsys.readouterr().err
    assert problem in said and len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", pair(a=0))
    (tmp_path / "out").mkdir()
    prepare(str(source), tmp_path / "out")
    with pytest.raises(SipoError, match="out: exists and is not empty"):
        prepare(str(source), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "rows.jsonl"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sipo.data.prepare.data_card", stop)
    source = lines(tmp_path / "a.jsonl", pair(a=0))
    with pytest.raises(KeyboardInterrupt):
        prepare(str(source), tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_every_process_makes_the_same_bytes(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "train.jsonl", *many("train", 30, a=0, b=1))
    lines(tmp_path / "in" / "validation.jsonl", *many("validation", 4, a=1, b=1))
    made = []
    for seed in ("1", "2"):
        to = tmp_path / seed / "out"
        command = [sys.executable, "-m", "sipo", "data", "prepare", str(tmp_path / "in"), "--to", str(to)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        made.append({path.name: path.read_bytes() for path in to.iterdir()})
    assert made[0] == made[1] and set(made[0]) == {"rows.jsonl", "README.md"}


@needs_samples
def test_the_real_pku_sample(tmp_path: Path) -> None:
    rows = prepared(PKU, tmp_path / "out")
    records = [json.loads(line) for line in PKU.read_text(encoding="utf-8").split("\n") if line]
    expected = Counter((r["better_response_id"], r["safer_response_id"]) for r in records)
    assert Counter((row.preferred["helpful"], row.preferred["harmless"]) for row in rows) == expected
    assert (
        (len(rows), len({row.key for row in rows})) == (len(records), len({r["prompt"] for r in records})) == (350, 344)
    )
    assert sum(row.conflicting(row.preferred) for row in rows) == expected[0, 1] + expected[1, 0] == 77


@needs_samples
def test_the_real_helpsteer_sample_against_a_count_made_another_way(tmp_path: Path) -> None:
    """Per prompt and unordered pair of different texts, the set of signs of the score differences."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for line in HELPSTEER.read_bytes().splitlines():
        record = json.loads(line)
        prompts.setdefault(record["prompt"], []).append(record)
    signs: dict[tuple[str, str, str], dict[str, set[bool]]] = {}
    for prompt, answers in prompts.items():
        for i, one in enumerate(answers):
            for other in answers[i + 1 :]:
                low, high = sorted([one, other], key=lambda answer: answer["response"])
                if low["response"].strip() == high["response"].strip():
                    continue
                found = signs.setdefault((prompt, low["response"], high["response"]), {a: set() for a in ATTRIBUTES})
                for a in ATTRIBUTES:
                    if low[a] != high[a]:
                        found[a].add(low[a] < high[a])
    made = prepare(str(HELPSTEER), tmp_path / "out")
    count = made.statistics
    assert count.rows == len(signs) == 447
    for a in ATTRIBUTES:
        assert count.ties[a] == sum(len(found[a]) != 1 for found in signs.values())
    for size, first, *_ in count.by_size():
        conflicts = sum(
            len(set().union(*(found[a] for a in ATTRIBUTES[:size] if len(found[a]) == 1))) == 2
            for found in signs.values()
        )
        assert first == conflicts / len(signs)
    pairs = sum(len(answers) * (len(answers) - 1) // 2 for answers in prompts.values())
    assert pairs == count.rows + sum(n for why, n in made.dropped.items() if "only response" not in why)
    assert made.dropped["the only response to its prompt"] == sum(len(answers) == 1 for answers in prompts.values())
    paper = prepared(HELPSTEER, tmp_path / "paper", objectives=("correctness", "verbosity"), drop_ties="any")
    assert len(paper) == sum(len(found["correctness"]) == len(found["verbosity"]) == 1 for found in signs.values())
