"""Text from data, models, files and servers is shown as it is: on terminals, on pages and in cards it commands nothing."""

import html
import io
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pages import unpacked

import sipo
from sipo.cli.main import main
from sipo.commands import command
from sipo.errors import SipoError
from sipo.plain import code, escape, markdown_table, opening, plain
from sipo.progress import Progress

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end of script": "</script></title><script src=//evil></script>",
    "handler": '"><img src=x onerror=alert(1)>',
    "attribute": "' onmouseover='alert(1)",
    "entity": "&lt;script&gt;&#x3c;b",
    "colours": "\x1b[31mred\x1b[2J",
    "title": "\x1b]0;gotcha\x07",
    "C1": "\x9b31m\x9d0;gotcha\x9c",
    "NUL and bell": "a\x00b\x07\x08\x7f",
    "return": "honest\roverwritten",
    "reversed": "\u202eevil\u202c \u2066x\u2069",
    "separators": "a\u2028b\u2029c\x85d",
    "template": "{{ 7 * 7 }}{% raw %}{# #}",
    "markup": "[/b] [red]x[/red] [link=file:///]y[/link] :smile:",
    "markdown": "](http://evil) ![x](y) `code` | cell | **b** <http://evil>",
    "lines": "one\n# two\n---\n| three |",
}
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
TEXTS = (
    st.text() | st.sampled_from(list(HOSTILE.values())) | st.text("[](){}<>|\\`*_~!&#:=-\n\x1b\u202e ab", max_size=30)
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@given(TEXTS)
def test_plain_text_holds_no_command_and_all_else(text: str) -> None:
    shown = plain(text)
    assert not COMMANDS.search(shown) and plain(shown) == shown
    shown.encode()
    kept = [c for c in text.replace("\r\n", "\n") if not COMMANDS.match(c) and c not in "\ufff9\ufffa\ufffb"]
    assert [c for c in shown if c != "\ufffd"] == [c for c in kept if c != "\ufffd"]
    assert "\n" not in opening(text) and len(opening(text)) <= 85
    assert not COMMANDS.search(str(SipoError(text)))


@given(st.lists(TEXTS.filter(lambda text: "\x00" not in text), min_size=1))
def test_a_command_to_be_copied_has_the_words_it_was_made_of(words: list[str]) -> None:
    assert shlex.split(command(*words)) == words
    assert command("sipo", "run", Path("a/b.yaml")) == "sipo run a/b.yaml"


@example("__0__", "a__b__c _d_e_ f_g")
@given(TEXTS, TEXTS)
def test_markdown_shows_a_text_as_it_is(first: str, second: str) -> None:
    page = MarkdownIt("gfm-like", {"linkify": False, "html": True}).enable("table").render(
        str(markdown_table(["a", "b"], [[first, second], [code(first), "c"]]))
    )  # fmt: skip
    cells = [html.unescape(re.sub("</?code>", "", cell)) for cell in re.findall("<td>(.*?)</td>", page)]
    wanted = [plain(" ".join(text.split())) for text in (first, second, first)]
    assert [" ".join(cell.split()) for cell in cells] == [" ".join(text.split()) for text in [*wanted, "c"]]
    tags = set(re.findall(r"<(/?\w+)", page)) - {
        f"{s}{t}" for s in ("", "/") for t in ["table", "thead", "tbody", "tr", "th", "td", "code"]
    }
    assert not tags
    heading = MarkdownIt("gfm-like", {"linkify": False}).render(f"# {escape(first)} at 1")
    assert re.findall(r"<(\w+)", heading) == ["h1"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_terminal_shows_text_and_obeys_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("TERM", "dumb")
    progress, text = Progress(), HOSTILE[kind]
    progress.say(text)
    progress.table(text, [text, "b"], [[text, 1.0]])
    with progress.track(text, 1) as advance:
        advance(1)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue())
    assert not COMMANDS.search(shown)
    if kind == "markup":
        assert "[/b] [red]x[/red]" in shown and ":smile:" in shown


def test_a_pipe_gets_whole_tables(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().table("t" * 300, ["name", "b"], [["x" * 300, "y" * 300]])
    assert "x" * 300 in (told := capsys.readouterr().out) and "y" * 300 in told and "\u2026" not in told


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if "\x00" not in HOSTILE[kind]])
@pytest.mark.parametrize("command", [["check"], ["run"], ["data", "inspect"], ["status"], ["data", "convert"]])
def test_an_error_names_what_is_not_there(kind: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--to", "x"] if "convert" in command else []
    assert main([*command, f"{HOSTILE[kind]}.jsonl", *more]) == 2
    told = capsys.readouterr()
    assert told.out == "" and not COMMANDS.search(told.err) and told.err.count("\n") == 1
    assert told.err.startswith("error: ")


def test_names_that_look_like_markup_are_only_names(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[/b] [red] :smile: \x1b[31m\u202e"
    folder.mkdir(parents=True)
    rows = folder / "rows.jsonl"
    rows.write_bytes(Path(settings["data"]["path"]).read_bytes())
    settings["data"]["path"], settings["run_dir"] = str(rows), str(folder / "run")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    for words in (
        ["data", "inspect", str(rows)],
        ["check", str(folder / "run.yaml")],
        ["init", str(folder / "new.yaml")],
    ):
        assert main(words) == 0
        told = capsys.readouterr()
        assert "[/b] [red] :smile: \ufffd[31m\ufffd" in told.out and not COMMANDS.search(told.out + told.err)


@pytest.mark.parametrize(
    "surroundings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_of_few_letters_gets_all_lines(surroundings: dict[str, str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "caf\u00e9 \u96ea", "response_0": "\U0001f600", "response_1": "b", "preferred": {"x": 0, "y": 1}}
    rows.write_text(json.dumps(row))
    command = [sys.executable, "-m", "sipo", "data", "inspect"]
    clean = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LANG", "PYTHONIOENCODING")}
    for path, status in ((rows, 0), (tmp_path / "\u00e9\udce9.jsonl", 2)):
        done = subprocess.run([*command, path], env={**clean, **surroundings}, capture_output=True)
        assert done.returncode == status and b"Traceback" not in done.stderr
        assert done.stdout.isascii() and done.stderr.isascii()


def test_bars_of_other_libraries_are_silent_but_those_of_downloads() -> None:
    bars = """
from sipo.hush import settle
settle()
from tqdm.auto import tqdm
list(tqdm([1], desc="converting"))
list(tqdm([1], desc="downloading", disable=False))
"""
    done = subprocess.run([sys.executable, "-c", bars], capture_output=True, text=True, check=True)
    assert "downloading" in done.stderr and "converting" not in done.stderr


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            picture = (value or "").startswith("data:image/")  # in base64, where any word may stand by chance
            if name.startswith("on") or ("evil" in (value or "") and not picture):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_run_over_hostile_text_ends_in_a_page_and_a_card_of_text(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = list(HOSTILE.values())
    rows = Path(settings["data"]["path"])
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    for number, record in enumerate(records):
        record["prompt"] += " " + texts[number % len(texts)]
        record["response_0"] += texts[(number + 1) % len(texts)]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    everything = " ".join(texts).replace("\x00", "")  # a configuration takes none
    settings["objectives"][0]["better"] = everything
    settings["data"]["max_prompt_tokens"] = 400
    settings["run_dir"] = str(tmp_path / "a|b <script> `run` [x](y)")
    settings |= {"methods": ["base", "soups"], "report": {"title": everything}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    for words in ("check", "run"):
        assert main([words, str(config)]) == 0
        told = capsys.readouterr()
        assert not COMMANDS.search(told.out + told.err)

    run = Path(settings["run_dir"])
    page = (run / "report" / "report.html").read_text()
    seen = Page(page)
    assert not COMMANDS.search(page) and not seen.handlers
    assert seen.tags.count("script") == 1 and seen.tags.count("title") == 1
    shown = "".join(seen.texts)
    assert "<script>alert(1)</script>" in shown and "{{ 7 * 7 }}" in shown and "[/b] [red]x[/red]" in shown
    packed = json.dumps(unpacked(page), ensure_ascii=False)
    assert not COMMANDS.search(packed)
    assert any(json.dumps(plain(text), ensure_ascii=False)[1:-1] in packed for text in texts)

    soups = sipo.open(run).at({"detail": 0.5, "brevity": 0.5}, method="soups")
    card = (soups.save_pretrained(tmp_path / "out") / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert not COMMANDS.search(card) and "<script" not in body and "<img" not in body and "](http" not in body
    assert yaml.safe_load(header)["model-index"]  # what a hub reads is data
    [table] = re.findall(r"(?:^\| base .*\n)", card, re.MULTILINE)[:1]
    assert table.count("|") == 3
    assert main(["generate", str(run), "--method", "base", "--prompt", everything]) == 0
