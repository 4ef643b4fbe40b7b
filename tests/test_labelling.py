"""`sipo data label`: rows that can be read, labels of the texts that a run reads, and a refusal where there are none."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sipo.cli.main import main
from sipo.data import read_rows
from sipo.data.prompts import text_of
from sipo.decoding import Generated, Request
from sipo.models.chat import Codec
from sipo.models.load import Backbone

LIMIT = 6
FUNCTIONS = """
from hashlib import sha256

def digest(prompts, responses):
    "Different for any two texts, whatever they are."
    return [float(int(sha256(response.encode()).hexdigest()[:12], 16)) for response in responses]

def constant(prompts, responses):
    return [1.0] * len(responses)

def length(prompts, responses):
    return [float(len(response)) for response in responses]
"""


@pytest.fixture
def command(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`sipo data label` of four prompts by these objectives."""
    name = f"judges_{sha256(str(tmp_path).encode()).hexdigest()[:8]}"  # a module is imported once a process
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in ("soil", "sun", "light", "water")))

    def made(*options: str, **objectives: str) -> list[str]:
        judged = [text for each in objectives.items() for text in ("--objective", f"{each[0]}={name}:{each[1]}")]
        return [
            "data", "label", "--prompts", str(prompts), "--model", str(model_folder), "--device", "cpu",
            "--to", str(tmp_path / "rows.jsonl"), "--max-tokens", str(LIMIT), *judged, *options,
        ]  # fmt: skip

    return made


def test_rows_of_what_the_model_writes(command: Callable[..., list[str]], tmp_path: Path) -> None:
    argv = command("--direction", "low=minimize", "--temperature", "2", high="digest", low="digest")
    assert main(argv) == 0
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {frozenset(row.preferred.values()) for row in rows} == {frozenset((0, 1))}  # opposite, and never a tie
    written = (tmp_path / "rows.jsonl").read_bytes()
    assert main(argv) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == written


def test_a_row_stays_in_the_split_that_its_prompt_names(command: Callable[..., list[str]], tmp_path: Path) -> None:
    prompts = [{"prompt": "soil"}, {"prompt": "sun", "split": "test"}, {"prompt": "light", "split": None}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))
    assert main(command("--temperature", "2", high="digest")) == 0
    found = {text_of(row.prompt): row.split for row in read_rows(tmp_path / "rows.jsonl")}
    assert found == {"soil": None, "sun": "test", "light": None}


@pytest.mark.parametrize(
    ("second", "part"),
    [({"prompt": "sun", "split": "exam"}, "split is"), ({"prompt": "soil", "split": "test"}, "in another split")],
)
def test_a_prompt_in_no_split_or_in_two_is_one_line(
    second: dict[str, str], part: str, command: Callable[..., list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = [json.dumps(each) + "\n" for each in ({"prompt": "soil"}, second)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    assert main(command("--temperature", "2", high="digest")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'prompts.jsonl'} line 2: " in line and part in line
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("objectives", "options", "part"),
    [
        ({"even": "constant"}, (), "`even` prefers nothing in any of"),
        ({"high": "digest", "even": "constant"}, (), "`even` prefers nothing in any of"),
        ({"high": "digest"}, ("--temperature", "0"), "no prompt has two different answers"),
        ({"high": "digest"}, ("--max-tokens", "5000"), "prompt 1: has 1"),
    ],
)
def test_nothing_to_learn_from_is_said_and_not_written(
    objectives: dict[str, str], options: tuple[str, ...], part: str, command: Callable[..., list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    assert main(command("--temperature", "2", *options, **objectives)) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.fixture
def scripted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The model's place is taken by a script: the answers of a round end, or are cut; returns the rounds' sizes."""
    codec = Codec(backbone.tokenizer, 100, LIMIT)
    rounds: list[int] = []

    def decode(bank: Any, requests: Sequence[Request], *args: Any, **rows: Any) -> list[Generated]:
        rounds.append(len(requests))
        texts = [f"{len(rounds)}{number % 2}" for number in range(len(requests))]
        whole = [tuple(codec.encode_response(text)) for text in texts]
        cut = [tuple(codec.encode_response(f"{text} is the sun and the soil")) for text in texts]
        # in the first round none ends, in the second every other, in the third all
        ends = {1: lambda n: False, 2: lambda n: n % 2 == 0}.get(len(rounds), lambda n: True)
        return [Generated(whole[n], True) if ends(n) else Generated(cut[n], False) for n in range(len(requests))]

    monkeypatch.setattr("sipo.engines.batched.decode", decode)
    return rounds


def test_without_tries_answers_are_as_they_come_and_judged_as_cut(
    command: Callable[..., list[str]], scripted: list[int], backbone: Backbone, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command(high="digest")) == 0
    assert scripted == [8]
    assert (
        "two different answers to 4 of 4 prompts; 0 of 8 answers drawn end within 6 tokens" in capsys.readouterr().out
    )
    codec = Codec(backbone.tokenizer, 100, LIMIT)
    for row in read_rows(tmp_path / "rows.jsonl"):
        assert [codec.used(response) for response in row.responses] == list(row.responses)


def test_with_tries_only_answers_that_end_are_kept(
    command: Callable[..., list[str]], scripted: list[int], backbone: Backbone, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command("--tries", "9", high="digest")) == 0
    assert scripted == [8, 8, 8]  # and no more once each prompt has two
    assert "12 of 24 answers drawn end" in capsys.readouterr().out
    codec = Codec(backbone.tokenizer, 100, LIMIT)
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row.responses for row in rows] == [("20", "30")] * 4
    assert all(codec.ends(response) for row in rows for response in row.responses)


def test_too_few_tries_make_no_rows(
    command: Callable[..., list[str]], scripted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--tries", "2", high="digest")) == 2
    assert "raise the temperature, --max-tokens or --tries" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [1, 3, 6, 40])
@pytest.mark.parametrize("text", ["sun", "the sun is warm and the soil is dark", " light \n", "éß☀ sun", "a" * 50])
def test_the_text_that_is_used_is_read_as_the_whole_is(backbone: Backbone, limit: int, text: str) -> None:
    """Cutting the text says to a judge what cutting the tokens says to the model; what is not cut is not touched."""
    codec = Codec(backbone.tokenizer, 100, limit)
    used = codec.used(text)
    assert (used == text) or not codec.ends(text)
    assert codec.decode(codec.encode_response(text)) == used.strip()
