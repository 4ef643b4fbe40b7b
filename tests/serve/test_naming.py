"""Names of models and weights: read strictly, and shares in proportion."""

from collections.abc import Mapping
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sipo
from sipo.config.file import parse_config
from sipo.demo.shipped import Shipped
from sipo.errors import SipoError
from sipo.finished.handle import FinishedRun
from sipo.runs.pipeline import run
from sipo.serve.naming import Named, Served, named_runs, nearest_point, normalised, resolve
from sipo.serve.service import Limits, Service
from sipo.serve.wire import ApiError
from sipo.weights import as_weight

NAMES = ("detail", "brevity", "tone")


@pytest.fixture(scope="module")
def runs(opened: FinishedRun) -> dict[str, Served]:
    return {"tiny": Served.of("tiny", opened)}


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(lambda s: sum(s) > 1e-3), st.floats(1e-3, 1e3))
def test_shares_are_proportions(shares: list[float], scale: float) -> None:
    given = dict(zip(NAMES, shares, strict=True))
    found = as_weight(normalised(given, NAMES, "weights"), NAMES, "weights")
    other = as_weight(normalised({n: scale * s for n, s in given.items()}, NAMES, "weights"), NAMES, "weights")
    assert sum(found) == pytest.approx(1)
    assert found == pytest.approx(other, abs=2e-6)
    assert found == pytest.approx([share / sum(shares) for share in shares], abs=2e-6)


@given(st.integers(0, 1000))
def test_shares_that_are_1_in_all_stay_as_they_are(thousandths: int) -> None:
    share = thousandths / 1000
    assert normalised({"detail": share, "tone": 1 - share}, NAMES, "weights") == {
        "detail": share, "brevity": 0.0, "tone": 1 - share,
    }  # fmt: skip


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"detail": 0.0},
        {"detail": -0.1, "tone": 1.1},
        {"kind": 1.0},
        {"detail": float("nan")},
        {"detail": float("inf")},
        {"detail": 1e308, "tone": 1e308},
    ],
)
def test_shares_of_no_sense_are_refused(shares: Mapping[str, float]) -> None:
    with pytest.raises(SipoError, match="^weights: "):
        normalised(shares, NAMES, "weights")


def test_a_name_says_the_run_the_method_and_the_weights(runs: dict[str, Served]) -> None:
    def named(name: str, weights: Mapping[str, float] | None = None) -> str:
        return resolve(runs, name, weights).name

    assert named("tiny") == "tiny/mod:detail=0.5,brevity=0.5"
    assert named("tiny:detail=0.3,brevity=0.7") == named("tiny/mod", {"detail": 3, "brevity": 7})
    assert named("tiny/mod:brevity=1") == "tiny/mod:detail=0,brevity=1"
    assert named("tiny/mod-alpha:detail=1/3,brevity=2/3") == "tiny/mod-alpha:detail=1/3,brevity=2/3"
    assert named("tiny/base") == "tiny/base"
    assert named("tiny/policy:detail") == "tiny/policy:detail"


def test_every_full_name_names_itself(runs: dict[str, Served]) -> None:
    for name in runs["tiny"].names():
        found = resolve(runs, name, None)
        assert resolve(runs, found.name, None).name == found.name
        assert isinstance(found, Named) and found.about["method"] == found.model.method


@pytest.mark.parametrize(
    ("name", "weights", "status"),
    [
        ("other", None, 404), ("", None, 404), ("tiny/", None, 404), ("tiny/nothing", None, 404), ("tiny/mod ", None, 404),
        ("tiny/../tiny", None, 404), ("TINY", None, 404), ("tiny/policy", None, 404), ("tiny/policy:kind", None, 404),
        ("tiny:", None, 400), ("tiny:detail", None, 400), ("tiny:detail=x", None, 400), ("tiny:detail=1/0", None, 400),
        ("tiny:detail=.5,detail=.5", None, 400), ("tiny:kind=1", None, 400), ("tiny:detail=nan", None, 400),
        ("tiny:detail=-1,brevity=2", None, 400), ("tiny:detail=0", None, 400), ("tiny:detail=1", {"detail": 1.0}, 400),
        ("tiny/base:detail=1", None, 400), ("tiny/base", {"detail": 1.0}, 400), ("tiny/lw:detail=.3,brevity=.7", None, 404),
        ("tiny", {}, 400), ("tiny", {"kind": 1.0}, 400),
    ],
)  # fmt: skip
def test_other_names_are_refused(
    runs: dict[str, Served], name: str, weights: Mapping[str, float] | None, status: int
) -> None:
    with pytest.raises(ApiError) as refused:
        resolve(runs, name, weights)
    assert refused.value.status == status
    assert refused.value.param in ("model", "weights") and "\n" not in refused.value.message


@settings(max_examples=100)
@given(st.text(max_size=30) | st.text("tiny/mod:deail=brvy,.0123", max_size=30).map(lambda rest: f"tiny{rest}"))
def test_any_name_is_resolved_or_refused(runs: dict[str, Served], name: str) -> None:
    refused = None
    try:
        found = resolve(runs, name, None)
    except ApiError as error:
        refused = error.body["error"]
    if refused:
        assert refused["type"] == "invalid_request_error" and refused["param"] == "model"
    else:
        assert found.model.method in runs["tiny"].methods


def test_the_nearest_point_is_one_of_the_method_s(opened: FinishedRun) -> None:
    fronts = opened.fronts
    assert fronts is not None
    fronts = {**fronts, "prompts": 2}  # one has no interval
    points = fronts["methods"]["mod"]["points"]
    for share in (0.0, 0.2, 0.3, 0.6, 1.0):
        found = nearest_point(fronts, "mod", {"detail": share, "brevity": 1 - share})
        assert found is not None
        best = min(abs(point["weights"]["detail"] - share) for point in points)
        assert abs(found["weights"]["detail"] - share) == pytest.approx(best)
        assert {**found} in [
            {**{key: point[key] for key in found.keys() - {"prompts"}}, "prompts": 2} for point in points
        ]
        assert all(low <= found["rewards"][name] <= high for name, (low, high) in found["interval"].items())
    alone = nearest_point({**fronts, "prompts": 1}, "base", None)
    assert alone is not None and alone["interval"] is None and alone["rewards"]
    assert nearest_point(fronts, "policy:detail", None) is None and nearest_point(None, "mod", None) is None


def test_runs_are_called_by_their_folders_or_as_one_says(tmp_path: Path) -> None:
    for name in ("a", "b/a", "two words", "x=y"):
        (tmp_path / name).mkdir(parents=True)
    assert named_runs([str(tmp_path / "a")]) == {"a": tmp_path / "a"}
    assert named_runs([str(tmp_path / "a"), f"other={tmp_path}/b/a"]) == {
        "a": tmp_path / "a",
        "other": tmp_path / "b/a",
    }
    for texts in (
        [f"{tmp_path}/a", f"{tmp_path}/b/a"],
        [f"{tmp_path}/two words"],
        [f"{tmp_path}/x=y"],
        [f"a:b={tmp_path}/a"],
    ):
        with pytest.raises(SipoError, match="NAME="):
            named_runs(texts)


def test_a_run_that_is_gone_is_the_server_s_fault(served_run: Path, tmp_path: Path) -> None:
    copytree(served_run, tmp_path / "copy")
    runs = {"copy": Served.of("copy", sipo.open(tmp_path / "copy"))}
    rmtree(tmp_path / "copy")
    with pytest.raises(ApiError, match="damaged") as caught:
        resolve(runs, "copy/mod", None)
    assert caught.value.status == 500


def test_a_run_is_served_as_far_as_it_has_come(served_run: Path, tmp_path: Path) -> None:
    """MOD answers in place of SIPO where that is not there yet; without either there is nothing to serve."""
    folder = copytree(served_run, tmp_path / "tiny")
    written = yaml.safe_load((folder / "config.yaml").read_text())
    more = {**written, "run_dir": str(folder), "methods": ["base", "mod", "sipo", "policies"]}
    run(parse_config(more, "more"), until="align", quiet=True)  # which holds
    served = Served.of("tiny", sipo.open(folder))
    assert served.usual == "mod" and resolve({"tiny": served}, "tiny", None).model.method == "mod"
    said = served.lacking
    assert said.startswith("not there yet: sipo, so mod answers in place of sipo; ") and f"run {folder}" in said
    with pytest.raises(ApiError, match="methods of tiny are") as refused:
        resolve({"tiny": served}, "tiny/sipo", None)
    assert refused.value.status == 404
    rmtree(folder / "align")
    bare = Served.of("tiny", sipo.open(folder))
    assert bare.methods == () and "base, mod, sipo, policy:detail" in bare.lacking
    with pytest.raises(SipoError, match="`realign` is absent.* finishes it"):
        Service([bare], Limits(8)).start()


def test_of_a_finished_run_nothing_is_said(runs: dict[str, Served]) -> None:
    assert runs["tiny"].lacking == "" and Served.of("demo", Shipped()).lacking == ""
