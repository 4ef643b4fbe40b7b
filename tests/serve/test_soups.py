"""Soups by name: on the grid, exact there, boundedly many, and nothing but what the runs have."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from families import save_model, tokenizer_of

import sipo
from sipo.bank import load_adapter, soup
from sipo.bank.kinds import base_of
from sipo.cli.main import main
from sipo.commands import vllm_soups
from sipo.errors import SipoError
from sipo.finished.handle import FinishedRun
from sipo.serve import soups as module
from sipo.serve.kept import Kept
from sipo.serve.soups import STEPS, Soups
from sipo.serve.vllm_plugin import register, room
from sipo.serve.wire import ApiError


@pytest.fixture(scope="module")
def base(opened: FinishedRun) -> str:
    return base_of(opened.path / "align" / "adapters" / "detail")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with closing(Kept(tmp_path / "kept", 1 << 30)) as kept:
        yield kept


@pytest.fixture
def named(opened: FinishedRun, base: str, kept: Kept) -> Soups:
    return Soups({"tiny": opened}, base, kept)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("tiny:detail=0.3,brevity=0.7", (0.3, 0.7)),
        ("tiny/soups:detail=1,brevity=2", (0.35, 0.65)),  # thirds, to the nearest twentieths
        ("tiny:brevity=0.512,detail=0.488", (0.5, 0.5)),
        ("tiny", (0.5, 0.5)),
        ("tiny/policy:brevity", (0.0, 1.0)),
        ("tiny/base", (0.0, 0.0)),
        ("tiny:detail=1", (1.0, 0.0)),
    ],
)
def test_a_name_is_the_soup_at_the_nearest_weight_of_the_grid(
    named: Soups, opened: FinishedRun, base: str, name: str, weight: tuple[float, float]
) -> None:
    folder = named.folder_of(name)
    assert folder is not None and base_of(folder) == base and named.said == []
    policies = [load_adapter(opened.path / "align" / "adapters" / each) for each in opened.objectives]
    found, expected = load_adapter(folder), soup(policies, weight)
    for layer, (a, b) in expected.factors.items():
        down, up = found.factors[layer]
        torch.testing.assert_close(found.scaling * up @ down, expected.scaling * b @ a, rtol=1e-6, atol=1e-9)


def test_one_soup_has_one_folder_however_it_is_spelled(named: Soups) -> None:
    names = "tiny:detail=0.3,brevity=0.7", "tiny/soups:brevity=7,detail=3", "tiny:detail=0.301,brevity=0.699"
    assert len({named.folder_of(name) for name in names}) == 1
    assert named.folder_of("tiny:detail=0.35,brevity=0.65") != named.folder_of(names[0])


@pytest.mark.parametrize("name", ["", "other", "other:detail=1", "tiny2", "../tiny", "/tiny", "Tiny:detail=1", "tiny "])
def test_a_name_of_no_run_is_left_to_others(named: Soups, name: str) -> None:
    assert named.folder_of(name) is None


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("tiny:helpful=1", 400, "`helpful` is no objective"),
        ("tiny:detail=-1,brevity=2", 400, "0 or above"),
        ("tiny:detail=nan", 400, "nan"),
        ("tiny:detail=0,brevity=0", 400, "sum to 0"),
        ("tiny:detail", 400, "name=value"),
        ("tiny:detail=1,detail=1", 400, "twice"),
        ("tiny:../../etc=1", 400, "no objective"),
        ("tiny/../../etc", 404, "methods of tiny are base, "),
        ("tiny/mod:detail=1", 404, "methods of tiny are"),  # it mixes while decoding
        ("tiny/prompting", 404, "methods of tiny are"),
        ("tiny/policy:detail:detail=1", 400, "same at any weight"),
        ("tiny/policy:../x", 404, "methods of tiny are"),
        ("tiny:detail=1" + "0" * 2000, 400, "characters"),
    ],
)
def test_what_a_run_has_not_is_refused_and_nothing_is_written(named: Soups, name: str, status: int, why: str) -> None:
    with pytest.raises(ApiError, match=why) as told:
        named.folder_of(name)
    assert told.value.status == status
    assert not [each for each in named._kept.place.iterdir() if not each.name.startswith(".")]


def test_names_are_boundedly_many(named: Soups, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for: an engine keeps every name that it was given a folder for."""
    monkeypatch.setattr(module, "SPELLINGS", 3)
    for digit in range(3):
        assert named.folder_of(f"tiny:detail=0.30{digit + 1},brevity=0.7")
    with pytest.raises(ApiError, match="ask for the same as `tiny:detail=0.3,brevity=0.7`") as told:
        named.folder_of("tiny:detail=0.3000,brevity=0.7")
    assert told.value.status == 429
    assert named.folder_of("tiny:detail=0.301,brevity=0.7"), "one that is known already"
    every = [
        f"tiny{method}:detail={i / STEPS:g},brevity={1 - i / STEPS:.3g}" for i in range(21) for method in ("", "/soups")
    ]
    assert len({named.folder_of(name) for name in every}) == STEPS + 1, "those of the grid"


def test_a_base_of_other_layers_is_refused_and_one_of_another_name_is_told_of(
    opened: FinishedRun, base: str, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "same").symlink_to(base)
    assert Soups({"tiny": opened}, str(tmp_path / "same"), kept).said == []
    (line,) = Soups({"tiny": opened}, "owner/model", kept).said
    assert f"trained over {base}; that owner/model has the same weights is not checked" in line
    other = save_model(tmp_path / "other", tokenizer_of("byte", None), hidden_size=16)
    with pytest.raises(SipoError, match=f"do not fit {other}.*; serve {base}"):
        Soups({"tiny": opened}, str(other), kept)


def test_whole_models_are_no_adapters(opened: FinishedRun, base: str, kept: Kept) -> None:
    run = sipo.open(opened.path)
    run.config = run.config.model_copy(update={"policies": "full"})
    with pytest.raises(SipoError, match="policies: full"):
        Soups({"tiny": run}, base, kept)


def fill(size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / "file").write_bytes(bytes(size)) and None


def test_kept_folders_stay_while_anybody_uses_them_and_the_oldest_go_first(tmp_path: Path) -> None:
    first = Kept(tmp_path, 1000)
    for moment, name in enumerate("abcd"):
        os.utime(first.get(name, fill(300)), (moment, moment))
    with pytest.raises(SipoError, match="is full"):
        first.get("e", fill(1))
    second = Kept(tmp_path, 1000)
    assert {*"abcd"} <= {each.name for each in tmp_path.iterdir()}, "the first one may have given out any"
    os.utime(second.get("a", fill(0)))
    first.close()
    second.close()
    (tmp_path / ".f.tmp").mkdir()  # of a process that was killed
    with closing(Kept(tmp_path, 1000)) as third:
        assert {each.name for each in tmp_path.iterdir() if not each.name.startswith(".")} == {"a"}
        assert not (tmp_path / ".f.tmp").exists()
        assert (third.get("e", fill(1)) / "file").stat().st_size == 1


def test_processes_share_what_is_kept(tmp_path: Path) -> None:
    """Eight at once ask for the same three: each is made once, and whole."""
    code = """if True:
        import sys, time
        from pathlib import Path
        from sipo.serve.kept import Kept
        def make(folder):
            (folder / "half").write_text("1")
            time.sleep(.05)
            (folder / "whole").write_text("1")
            print(folder.name, flush=True)
        kept = Kept(Path(sys.argv[1]), 1 << 20)
        for name in "abc":
            assert (kept.get(name, make) / "whole").exists()
    """
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [each.communicate(timeout=60)[0] for each in started]
    assert [each.returncode for each in started] == [0] * 4
    assert len("".join(said).split()) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == [".held", "a", "b", "c"]


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "nan", "inf"])
def test_room_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SipoError, match="SIPO_VLLM_GIB is "):
        room({"SIPO_VLLM_GIB": text})
    assert room({}) == 10 << 30 and room({"SIPO_VLLM_GIB": "0.5"}) == 1 << 29


def test_vllm_without_runs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIPO_VLLM_RUNS", raising=False)
    register()


def test_export_prints_how_vllm_serves_the_soups(
    opened: FinishedRun, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With room for all of them (tests/serve/test_vllm_plugin.py starts one by this line)."""
    words = ["export", str(opened.path), "--weights", "detail=1", "--json"]
    assert main([*words, "--to", str(tmp_path / "corner")]) == 0
    told = json.loads(capsys.readouterr().out)
    ranks = [load_adapter(opened.path / "align" / "adapters" / each).rank for each in opened.objectives]
    assert told["rank"] < sum(ranks) and told["serve_soups"] == vllm_soups(opened.path, base, sum(ranks))
    assert shlex.split(told["serve_soups"]) == [
        "env", f"SIPO_VLLM_RUNS={opened.path}", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
        "vllm", "serve", base, "--enable-lora", "--max-lora-rank", "8",
    ]  # fmt: skip
    assert main([*words, "--to", str(tmp_path / "merged"), "--merged"]) == 0
    assert json.loads(capsys.readouterr().out)["serve_soups"] is None
