"""Every block of the documentation: commands are run on a tiny model or, where that takes long, as far as a dry run goes."""

import ast
import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from sipo.cli.app import app
from sipo.cli.main import main
from sipo.config.file import load_config
from sipo.data.sources.registry import known_sets
from sipo.studies.registry import find_study
from sipo.testbed import ENVIRONMENTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
PROGRAMS = ("sipo", "make", "python", "pip")
SHOWN = {
    "# yaml-language-server": "a comment for an editor",
    '{"work": "mod-decode"': "the form of a line of build/bench.json, with dots for numbers",
    "prompt     c0": "a prompt of the testbed's language and what is written to it",
    "Give the best response": "what prompting adds to a prompt",
    "runs/quickstart/": "the files of a run",
}
"""How blocks begin that hold nothing to run, and what they are."""


class Block(NamedTuple):
    page: str
    line: int
    kind: str
    """What a fence calls it; empty for an indented block."""
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    lines, name = page.read_text(encoding="utf-8").splitlines(), page.relative_to(ROOT).as_posix()
    at = 0
    while at < len(lines):
        end = at + 1
        if lines[at].startswith("```"):
            while not lines[end].startswith("```"):
                end += 1
            yield Block(name, at + 1, lines[at][3:].strip(), "\n".join(lines[at + 1 : end]))
            end += 1
        elif lines[at].startswith("    ") and not (at and lines[at - 1].strip()):
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(name, at + 1, "", "\n".join(line[4:] for line in lines[at:end]).rstrip())
        at = end


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell block, without comments, their variables filled in."""
    known: dict[str, str] = {}
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for name, value in known.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.*)", words[0], re.DOTALL)):
            known[given[1]] = given[2]
        elif words:
            found.append(words)
    return found


def in_shell(text: str) -> bool:
    return bool(re.match(rf"({'|'.join(PROGRAMS)}) |[A-Z]+=", text))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_block_is_run_or_read(block: Block) -> None:
    if in_shell(block.text) or block.kind in ("sh", "bash"):
        for words in commands_of(block.text):
            DRY[words[0]](words[1:])
    elif block.kind == "mermaid":
        assert block.text.startswith("flowchart ")  # tests/graph holds it to what --graph draws
    elif any(block.text.startswith(start) for start in SHOWN):
        return
    elif block.text.startswith("{"):
        assert [json.loads(line) for line in block.text.splitlines()]
    elif re.match(r"\w+: ", block.text):
        assert all(isinstance(yaml.safe_load(line), dict) for line in block.text.splitlines())
    else:
        ast.parse(block.text)


def test_what_is_only_shown_is_there() -> None:
    for start in SHOWN:
        assert any(block.text.startswith(start) for block in BLOCKS), start


def dry_sipo(words: list[str]) -> None:
    """As far as the command's own function, and what it would look up first."""
    called: list[tuple[str, dict[str, Any]]] = []

    def record(verb: Any, name: str) -> None:
        if subs := getattr(verb, "commands", None):
            for each, sub in subs.items():
                record(sub, f"{name} {each}".strip())
        else:
            verb.callback = lambda **given: called.append((name, given))

    tree = typer.main.get_command(app)
    record(tree, "")
    tree(words, prog_name="sipo", standalone_mode=False)
    ((verb, given),) = called
    if verb == "study":
        find_study(given["name"])
    if verb in ("check", "run") and (ROOT / given["config"]).is_relative_to(ROOT / "configs"):
        load_config(ROOT / given["config"], given["overrides"])
    if verb == "testbed":
        assert given["environment"] in ENVIRONMENTS
    if verb == "data prepare" and not re.search(r"[./]", given["source"]):
        assert given["source"] in known_sets()


def dry_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words[0] in targets


def dry_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert words[1].partition(".")[0] in ("benchmarks", "sipo")
        module = ROOT.joinpath(*words[1].split("."))
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        if words[1] == "benchmarks":
            from benchmarks.__main__ import _parser, _works

            parsed = _parser().parse_args(words[2:])
            assert _works(parsed.works, parsed.quick)
    else:
        assert (ROOT / words[0]).is_file()


def dry_pip(words: list[str]) -> None:
    """sipo is installed from its checkout."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    match words:
        case ["install", "-e", what] if found := re.fullmatch(r"\.\[(\w+(?:,\w+)*)\]", what):
            assert set(found[1].split(",")) <= set(extras)
        case _:
            pytest.fail(f"pip {' '.join(words)}: not from the checkout")


DRY = {"sipo": dry_sipo, "make": dry_make, "python": dry_python, "pip": dry_pip}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_text(page: Path) -> None:
    """Those in backticks name a verb that there is, and options that it has."""
    tree: Any = typer.main.get_command(app)
    prose = re.sub(r"^```.*?^```|^    .*?$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"`((?:sipo|pip|make) [^`]+)`", prose):
        words = shlex.split(" ".join(line.split()))
        if words[0] != "sipo":
            DRY[words[0]](words[1:])
            continue
        verb, rest = tree, words[1:]
        while rest and rest[0] in getattr(verb, "commands", {}):
            verb, *rest = verb.commands[rest[0]], *rest[1:]
        known = {option for each in verb.params for option in each.opts} | {"--install-completion", "--help"}
        assert not getattr(verb, "commands", None) or not rest or rest[0].startswith("-") or rest == ["..."], line
        assert {word for word in rest if word.startswith("--")} <= known, line


def test_the_readme_s_own_data(
    make_settings: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its commands in their order, as they stand; between them what it asks people to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    small = make_settings(tmp_path)
    rows = Path("rows.jsonl")
    rows.write_text(
        rows.read_text()
        .replace('"detail"', '"helpful"')
        .replace('"brevity"', '"harmless"')
        .replace(', "tone": null', "")
        .replace(', "tone": 0', "")
        .replace(', "tone": 1', "")
    )
    starts = ("sipo data inspect", "sipo choose", "sipo compare")
    texts = [block.text for block in BLOCKS if block.page == "README.md" and block.text.startswith(starts)]
    assert len(texts) == len(starts)
    done = []
    for words in [words for text in texts for words in commands_of(text)]:
        if words[1] == "check":
            complete(Path(words[2]), small)
        if "ours.jsonl" in words:
            for name in ("ours", "theirs"):
                answers = [
                    {"prompt": f"p{i}", "rewards": {"helpful": i % 3 + (name == "ours"), "length": i}} for i in range(9)
                ]
                Path(f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in answers))
        assert main(words[1:]) == 0, (words, capsys.readouterr().err)
        done.append(words[1])
    assert done == [
        "data",
        "init",
        "check",
        "run",
        "status",
        "choose",
        "generate",
        "chat",
        "export",
        "compare",
        "compare",
    ]


def complete(config: Path, small: dict[str, Any]) -> None:
    """Say what the placeholders ask for, and make the run a tiny one."""
    settings = yaml.safe_load(config.read_text())
    assert [each["name"] for each in settings["objectives"]] == ["helpful", "harmless"]
    for ours, theirs in zip(settings["objectives"], small.pop("objectives"), strict=True):
        ours |= {"better": "It is good.", "reward": theirs["reward"]}
    settings["data"] |= {key: value for key, value in small.pop("data").items() if key != "path"}
    del small["run_dir"]
    config.write_text(
        yaml.safe_dump(
            {
                **settings,
                **small,
                "sample": {"prompts": 4, "per_weight": 2},
                "evaluate": {"bootstrap": 20, "prompts": 3},
            }
        )
    )
