"""Every block of the documentation: commands are run on a tiny model or, where that takes long, as far as a dry run goes."""

import argparse
import ast
import io
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from blocks import BLOCKS, PAGES, ROOT, Block, commands_of
from pip._internal.commands import create_command

import sipo
from sipo.cli.app import app
from sipo.cli.main import main
from sipo.commands import vllm_soups
from sipo.config.file import load_config, parse_config
from sipo.data.sources.registry import known_sets
from sipo.studies.registry import find_study
from sipo.testbed import ENVIRONMENTS

PROGRAMS = ("sipo", "make", "python", "python3", "pip", "source", "cp", "docker", "bash", "accelerate", "torchrun")
SHOWN = {
    "# yaml-language-server": "a comment for an editor",
    '{"work": "mod-decode"': "the form of a line of build/bench.json, with dots for numbers",
    "prompt     c0": "a prompt of the testbed's language and what is written to it",
    "Give the best response": "what prompting adds to a prompt",
    "runs/quickstart/": "the files of a run",
    "runs in a store:": "the objects of a run",
}
"""How blocks begin that hold nothing to run, and what they are."""


def in_shell(block: Block) -> bool:
    return block.kind in ("sh", "bash") or (
        not block.kind and bool(re.match(rf"({'|'.join(PROGRAMS)}) |[A-Z]+=", block.text))
    )


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_block_is_run_or_read(block: Block) -> None:
    if in_shell(block):
        for words in commands_of(block.text):
            DRY[words[0]](words[1:])
    elif block.kind == "mermaid":
        assert block.text.startswith("flowchart ")  # tests/graph holds it to what --graph draws
    elif any(block.text.startswith(start) for start in SHOWN):
        return
    elif block.text.startswith("{"):
        assert [json.loads(line) for line in block.text.splitlines()]
    elif block.kind == "yaml":
        assert_configures(block.text, WALKS.get(block.page, ("helpful", "harmless")))
    elif block.kind == "text":
        assert block.page in (*WALKS, "docs/trouble.md")  # held there against what is printed
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
    if words[:2] == ["-m", "venv"]:
        assert re.fullmatch(r"\.venv(-vllm)?", words[2])
    elif words[0] == "-m":
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
    """sipo is installed from its checkout, other things in the versions that it knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "Makefile").read_text()
    parser: Any = create_command("install").parser
    given, names = parser.parse_args(words[1:])
    assert words[0] == "install" and (names or given.editables)
    for what in given.editables:
        found = re.fullmatch(r"\.\[(\w+(?:,\w+)*)\]", what)
        assert found and set(found[1].split(",")) <= set(project["optional-dependencies"]), what
    assert all((ROOT / path).is_file() for path in given.constraints)
    assert all(re.search(rf"\b{re.escape(name)}\b", pinned) for name in names), names
    assert given.index_url in ("https://pypi.org/simple", "https://download.pytorch.org/whl/cpu")


def dry_source(words: list[str]) -> None:
    """The environments that the Makefile makes."""
    (environment, rest) = words[0].split("/", 1)
    assert rest == "bin/activate" and f":= {environment}\n" in (ROOT / "Makefile").read_text()


def dry_cp(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file() and len(words) == 2


def dry_docker(words: list[str]) -> None:
    """Builds name a stage and a device of the Dockerfile; an image runs `sipo`, or `sipo serve`, with what follows its
    name.
    """
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("verb", choices=["build", "run"])
    for option in ("--tag", "--target", "--build-arg", "--volume", "--publish", "--env", "--gpus"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--rm", action="store_true")
    parser.add_argument("image")
    given, rest = parser.parse_known_args(words)
    if given.verb == "build":
        assert given.image == "." and not rest
        assert set(given.target) <= {*stages} and set(given.tag) <= {"sipo", "sipo-serve"}
        assert all(f"torch-{each.removeprefix('DEVICE=')}" in stages for each in given.build_arg)
    else:
        dry_sipo([*{"sipo": [], "sipo-serve": ["serve"]}[given.image], *rest])


def dry_bash(words: list[str]) -> None:
    """A script that is here (tests/test_jobs.py runs it)."""
    assert (ROOT / words[0]).is_file()


def dry_accelerate(words: list[str]) -> None:
    """A launch of sipo by a configuration that accelerate reads."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    given = launch_command_parser().parse_args(words[1:])
    assert load_config_from_file(str(ROOT / given.config_file)).num_processes > 1
    assert given.module and given.training_script == "sipo"
    dry_sipo(given.training_script_args)


def dry_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(words)
    assert given.module and given.training_script == "sipo"
    dry_sipo(given.training_script_args)


def dry_vllm(words: list[str]) -> None:
    """As `sipo.commands` has it (tests/serve/test_vllm_plugin.py starts one)."""
    rank = int(words[-1])
    assert shlex.join(["vllm", *words]) == vllm_soups(ROOT, words[1], rank).partition("=1 ")[2]


def dry_export(words: list[str]) -> None:
    """Variables that are read somewhere."""
    name, _, _ = words[0].partition("=")
    assert name.startswith("VLLM_") or any(f'"{name}"' in each.read_text() for each in (ROOT / "src").rglob("*.py"))


DRY = {"vllm": dry_vllm, "export": dry_export, "bash": dry_bash, "accelerate": dry_accelerate, "torchrun": dry_torchrun}
DRY |= {"sipo": dry_sipo, "make": dry_make, "python": dry_python, "python3": dry_python}
DRY |= {"docker": dry_docker, "pip": dry_pip, "source": dry_source, "cp": dry_cp}


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


WALKS = {
    "README.md": ("helpful", "harmless"),
    "docs/ten-minutes.md": ("detail", "plain"),
    "docs/use.md": ("detail", "plain"),
    "docs/three-objectives.md": ("correct", "complete", "brief"),
}
"""Pages whose commands are run in their order, as they stand, and the objectives that they speak of."""
NAMES = ("detail", "plain", "kind")
"""What they are called where they are walked."""
NOT_WALKED = ("testbed", "study", "demo")
"""Long; run elsewhere."""


@pytest.fixture(scope="module")
def finished(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """A finished run with so many objectives, made once, as the pages make it."""

    @cache
    def made(n: int) -> Path:
        folder = tmp_path_factory.mktemp("walk")
        with monkeypatched(folder):
            small = lay_out(NAMES[:n], make_settings(folder))
            assert main(["init", "run.yaml", "--data", "rows.jsonl"]) == 0
            complete(Path("run.yaml"), small)
            assert main(["run", "run.yaml"]) == 0
        return folder / "runs" / "run"

    return made


@contextmanager
def monkeypatched(folder: Path) -> Iterator[None]:
    """Where a page is walked: in the folder, from which functions are imported, with nothing on stdin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr("sys.stdin", io.StringIO(""))
        yield


@pytest.mark.parametrize("page", WALKS)
def test_a_page_in_its_order(
    page: str,
    finished: Callable[[int], Path],
    make_settings: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands and Python; between them what the page asks people to do. What is shown looks as what is printed."""
    there = finished(len(WALKS[page]))
    capsys.readouterr()
    with monkeypatched(tmp_path):
        small = lay_out(NAMES[: len(WALKS[page])], make_settings(tmp_path))
        shutil.copytree(there, "runs/quickstart" if page == "docs/use.md" else "runs/run")
        done = walk(page, small, capsys)
    assert len(done) > 4 and "choose" in done


def walk(page: str, small: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    done, said, names = list[str](), "", {"sipo": sipo}
    for block in (block for block in BLOCKS if block.page == page):
        text = block.text
        for ours, here in zip(WALKS[page], NAMES, strict=False):
            text = re.sub(rf"\b{ours}\b", here, text)
        if in_shell(block):
            said = ""
            for words in commands_of(text):
                if words[0] != "sipo" or words[1] in NOT_WALKED or "--measure" in words:
                    continue
                if words[1] == "check" and "check" not in done:
                    complete(Path(words[2]), small)
                assert main(words[1:]) == 0, (words, capsys.readouterr().err)
                said += capsys.readouterr().out
                done.append(words[1])
        elif block.kind == "text":
            assert not (missing := beginnings(text) - beginnings(said)), (missing, said)
        elif block.kind == "python" or text.startswith("run = "):
            exec(text, names)
    return done


def beginnings(text: str) -> set[str]:
    """How lines begin, up to the first number, name or text that may be another each time; answers are left out."""
    told = [re.split(r"[\d=\[']| --", line)[0] for line in text.splitlines() if not line.endswith("...")]
    return {" ".join(re.sub(r"^(sipo|mod|soups|base) at ", "METHOD at ", each).split()) for each in told}


def lay_out(names: tuple[str, ...], small: dict[str, Any]) -> dict[str, Any]:
    """The files that pages name, and the settings of a tiny run on rows with these objectives."""
    first, second, *more = names
    rows = Path("rows.jsonl")
    renamed = rows.read_text().replace('"detail"', f'"{first}"').replace('"brevity"', f'"{second}"')
    third = f', "{more[0]}": \\1' if more else ""
    rows.write_text(re.sub(r', "tone": (null|0|1)', third, renamed))
    # Rewards in whose range lies what the pages ask for.
    Path("worth.py").write_text(
        "def lengths(prompts, responses):\n    return [80 + len(each) % 9 for each in responses]\n"
    )
    small["objectives"] = [{"name": name, "better": "It is good.", "reward": "worth:lengths"} for name in names]
    small |= {"sample": {"prompts": 4, "per_weight": 2}, "evaluate": {"bootstrap": 20, "prompts": 3}}
    if more:
        small |= {
            "methods": ["base", "mod", "sipo"],
            "weights": {"grid": [*({name: 1} for name in names), dict.fromkeys(names, 1 / 3)]},
        }
    Path("questions.txt").write_text("What is rain?\nWhat is snow?\n")
    write(
        "scores.jsonl",
        (
            {"question": f"q{i // 2}", "answer": f"a{i}", "words": i % 5} | dict.fromkeys(names[:2], i % 3)
            for i in range(12)
        ),
    )
    for name in ("ours", "theirs"):
        write(
            f"{name}.jsonl",
            ({"prompt": f"p{i}", "rewards": {first: i % 3 + (name == "ours"), "length": i}} for i in range(9)),
        )
    return small


def write(path: str, records: Iterable[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(each) + "\n" for each in records))


def complete(config: Path, small: dict[str, Any]) -> None:
    """Say what the placeholders ask for, and make the run a tiny one."""
    settings = yaml.safe_load(config.read_text())
    assert [each["name"] for each in settings["objectives"]] == [each["name"] for each in small["objectives"]]
    data = {key: value for key, value in small["data"].items() if key != "path"}
    changed = {key: value for key, value in small.items() if key not in ("data", "run_dir")}
    config.write_text(yaml.safe_dump({**settings, **changed, "data": {**settings["data"], **data}}))


def assert_configures(text: str, names: tuple[str, ...]) -> None:
    """Sections that a page shows belong to a configuration with its objectives."""
    objectives = [{"name": name, "better": "It is good."} for name in names]
    least = {"run_dir": "run", "model": {"path": "model"}, "data": {"path": "rows.jsonl"}, "objectives": objectives}
    parse_config({**least, **yaml.safe_load(text)}, "a page")
