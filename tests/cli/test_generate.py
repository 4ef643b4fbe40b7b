"""`sipo generate` and `sipo chat` on a tiny run: what goes in from wherever it is, and what comes out."""

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import sipo
from sipo.cli.chat import Conversation
from sipo.cli.generate import in_order
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.finished import answering
from sipo.models.load import load_backbone
from sipo.runs.pipeline import run

GREEDY = {"temperature": 0.0, "max_new_tokens": 8}
DRAWN = ["--temperature", "0", "--max-tokens", "8"]
HALF = {"detail": 0.5, "brevity": 0.5}


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without sipo, as far as its policies."""
    settings = make_settings(tmp_path_factory.mktemp("generate"))
    settings |= {"methods": ["base", "soups", "mod"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    return run(parse_config(settings, "settings"), only="align", quiet=True)


@pytest.fixture(scope="module")
def opened(finished: Path) -> sipo.FinishedRun:
    return sipo.open(finished)


class Piped(io.StringIO):
    def __init__(self, text: str, terminal: bool = False) -> None:
        super().__init__(text)
        self.isatty = lambda: terminal  # type: ignore[method-assign]


def generate(finished: Path, *options: str) -> int:
    return main(["generate", str(finished), *options, *DRAWN])


def test_without_a_method_a_run_answers_by_what_it_has(
    finished: Path, opened: sipo.FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(finished, "--prompt", "what is rain", "--weights", "detail=1/3,brevity=2/3") == 0
    expected = opened.at({"detail": 1 / 3, "brevity": 2 / 3}, method="mod").generate("what is rain", **GREEDY)
    assert capsys.readouterr().out == expected + "\n"


def test_many_prompts_weights_and_methods_at_one_load(
    finished: Path,
    opened: sipo.FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "what is snow"}]
    records = [{"prompt": "what is ice"}, {"prompt": chat}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    loads = []
    monkeypatch.setattr("sipo.task.load_backbone", lambda *given: loads.append(given) or load_backbone(*given))
    asked = ["--prompt", "what is rain", "--prompts", str(tmp_path / "prompts.jsonl")]
    shares = ["--weights", "detail=1,brevity=0", "--weights", "detail=0.5,brevity=0.5"]
    methods = ["--method", "soups", "--method", "base", "--method", "policy:detail"]
    assert generate(finished, *asked, *shares, *methods, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(loads) == 1
    models = [
        *(opened.at(each, "soups") for each in ({"detail": 1.0, "brevity": 0.0}, HALF)),
        *(opened.at(None, name) for name in ("base", "policy:detail")),
    ]
    asks = [(prompt, model) for prompt in ("what is rain", "what is ice", chat) for model in models]
    answers = opened.generate(asks, **GREEDY)
    assert found == [
        {"prompt": prompt, "method": model.method, "weights": model.weights, "response": answer}
        for (prompt, model), answer in zip(asks, answers, strict=True)
    ]
    assert generate(finished, *asked, *shares, *methods) == 0
    said = capsys.readouterr().out
    assert said.count("\n[soups detail=0.5,brevity=0.5]\n") == 3 and said.count("[base]") == 3
    blocks = said.rstrip("\n").split("\n> ")
    assert [each.split("\n")[0] for each in blocks] == ["> what is rain", "what is ice", "system: be kind"]
    assert all(answer in said for answer in answers)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_answers_are_told_in_order_while_others_are_written(
    finished: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch at a time, also of a method that answers after several draws; Ctrl-C leaves what was told until then."""
    (tmp_path / "prompts.txt").write_text("".join(f"{i} what is rain\n" for i in range(40)))
    asked = [
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--method",
        "base",
        "--method",
        "best-of-n",
        "--weights",
        "detail=1,brevity=0",
    ]
    assert generate(finished, *asked, *options) == 0
    whole = capsys.readouterr().out
    told: list[str] = []

    def watched(*given: Any) -> list[Any]:
        told.append(capsys.readouterr().out)
        if len(told) == 3:
            raise KeyboardInterrupt
        return decode(*given)

    decode = answering.decode
    monkeypatch.setattr(answering, "decode", watched)
    monkeypatch.setattr(answering, "REFILLS", 1)
    assert generate(finished, *asked, *options) == 130
    left = capsys.readouterr()
    assert left.err == "stopped\n" and whole.startswith("".join(told)) and told[1]
    assert not left.out or left.out == "\n"


def test_in_order() -> None:
    for order in permutations(range(5)):
        told: list[tuple[int, str]] = []
        done = in_order(lambda *each, told=told: told.append(each))
        for at, place in enumerate(order):
            done(place, str(place))
            first = next(place for place in range(6) if place not in order[: at + 1])
            assert told == [(place, str(place)) for place in range(first)]


@pytest.mark.parametrize("verb", ["schema", "data inspect {rows}"])
def test_where_nobody_reads_it_ends_quietly(verb: str, rows_file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = f"{shlex.quote(sys.executable)} -m sipo {verb.format(rows=shlex.quote(str(rows_file)))} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("what is rain\n\nwhat is ice\n", ["what is rain", "what is ice"]),
        ('{"prompt": "what is rain"}\n', ["what is rain"]),
        ('[{"role": "user", "content": "what is rain"}]', ["what is rain"]),
        ("{what is this\n", ["{what is this"]),
        ("[rain] what", ["[rain] what"]),
    ],
)
@pytest.mark.parametrize("way", ["piped", "-", "file"])
def test_lines_of_stdin_and_of_a_text(
    text: str,
    prompts: list[str],
    way: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(text))
    (tmp_path / "prompts.txt").write_text(text)
    options = {"piped": [], "-": ["--prompts", "-"], "file": ["--prompts", str(tmp_path / "prompts.txt")]}[way]
    assert generate(finished, *options, "--method", "base", "--json") == 0
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == prompts


@pytest.mark.parametrize(
    ("options", "stdin", "message"),
    [
        ([], Piped("", terminal=True), "say what to answer by --prompt TEXT or --prompts FILE, or pipe prompts in"),
        ([], Piped("\n"), "stdin: holds no prompt; write one a line"),
        ([], Piped('{"text": "what"}\n'), "stdin line 1: has no `prompt`; write a text"),
        ([], Piped('ok\n[{"role": "assistant", "content": "what"}]\n'), "stdin line 2: prompt ends with the role"),
        (["--prompt", " "], Piped(""), "--prompt: prompt is empty"),
        (["--prompt", "p", "--method", "mod"], Piped(""), "such as --weights detail=0.5,brevity=0.5"),
        (["--prompt", "p", "--method", "magic"], Piped(""), "`magic` is no method"),
        (["--prompt", "p", "--weights", "detail=0.5"], Piped(""), "the shares sum to 0.5, not to 1"),
        (["--prompts", "absent.txt"], Piped(""), "absent.txt: no such file or directory"),
        (["--prompts", "absent.jsonl"], Piped(""), "absent.jsonl: no such file"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    finished: Path,
    options: list[str],
    stdin: io.StringIO,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    assert generate(finished, *options) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and message in said.err and not said.out


def test_a_chat_whose_knob_is_turned(
    finished: Path, opened: sipo.FinishedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["what is rain", "/weights brevity=0.25", "and snow", "/method soups", "/again", "/weights detail=2"]
    lines += ["/nonsense", "/method base", "/clear", "", "what is rain", "/help", "/quit", "never read"]
    monkeypatch.setattr("sys.stdin", Piped("\n".join(lines) + "\n"))
    assert main(["chat", str(finished), *DRAWN]) == 0
    said = capsys.readouterr()
    turned = {"detail": 0.75, "brevity": 0.25}
    chat = [sipo.Message("user", "what is rain")]
    first = opened.at(HALF, "mod").generate(chat, **GREEDY)
    chat += [sipo.Message("assistant", first), sipo.Message("user", "and snow")]
    second, again = (opened.at(turned, method).generate(chat, **GREEDY) for method in ("mod", "soups"))
    knobs = ["[mod detail=0.75,brevity=0.25]", "[soups detail=0.75,brevity=0.25]", "[base]"]
    last = opened.at(None, "base").generate("what is rain", **GREEDY)
    expected = [first, knobs[0], second, knobs[1], again, knobs[2], last]
    assert said.out.startswith("\n".join(expected) + "\n/weights A=0.3 ") and said.out.endswith("end of input\n")
    assert said.err.splitlines() == [
        "error: weights: detail=2.0 is off the simplex; shares lie between 0 and 1",
        "error: /nonsense: is no command, or lacks what it needs; /help lists them",
    ]


def test_the_rest_of_a_knob_is_shared_as_it_was(opened: sipo.FinishedRun) -> None:
    talk = Conversation(opened, None, None, {})
    talk.run = type("Three", (), {"objectives": ("a", "b", "c")})()  # type: ignore[assignment]
    talk.shares = {"a": 0.5, "b": 0.4, "c": 0.1}
    assert talk._completed("a=0") == pytest.approx({"a": 0, "b": 0.8, "c": 0.2})
    talk.shares = {"a": 1.0, "b": 0.0, "c": 0.0}
    assert talk._completed("a=1/3") == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert talk._completed("a=1,b=0,c=0") == {"a": 1, "b": 0, "c": 0}


def test_a_question_that_does_not_fit_leaves_the_conversation_as_it_was(opened: sipo.FinishedRun) -> None:
    talk = Conversation(opened, None, "base", {"max_new_tokens": 4})
    talk.answer("what is rain")
    before = list(talk.turns)
    with pytest.raises(sipo.SipoError, match="over the model's context"):
        talk.answer("word " * 5000)
    assert talk.turns == before and talk.command("/again") and len(talk.turns) == 2
