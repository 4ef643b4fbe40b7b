"""Actors of a Ray cluster, on a real one of two nodes: what dies costs time, and no row."""

import os
import pickle
import random
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from chance import Chance, Process

import sipo.engines
from sipo.bank import Adapter, Bank
from sipo.decoding import Generated, Request, at_soup, base
from sipo.disk.journal import Journal
from sipo.engines import Engine, Local, Span, answer, check_engine, cluster
from sipo.engines.batched import Batch, Texts, score_plan
from sipo.engines.cluster import ENVIRONMENT, Cluster
from sipo.engines.ray import Actor, Failed, Ray, results
from sipo.errors import SipoError
from sipo.models.load import Backbone
from sipo.progress import Progress
from sipo.settings import Execution, Model
from sipo.testing.engines import MIXTURES, NEAR, NEW, SAMPLED, EngineConformance, requests, responses, scores, texts

pytestmark = [pytest.mark.early, pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")]
STORE = 80 * 2**20
"""Bytes of a node's object store, which is the least that Ray allows."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two with a processor each, and a head without."""
    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster as Nodes

    made = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with made as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # in its folder `ray` the address is noted, which is else the machine's
        Path(folder, "ray").mkdir()
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "temp_dir": folder}
        head["_system_config"] = {"health_check_period_ms": 500}
        cluster = Nodes(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE, wait=False)
        cluster.wait_for_nodes()
        try:
            yield cluster
        finally:
            cluster.shutdown()


def execution(nodes: Any, **more: Any) -> Execution:
    ray = {"address": nodes.address, **more.pop("ray", {})}
    return Execution(device="cpu", engine="ray", **{"decode_rows": 3, "score_tokens": 60, **more}, ray=ray)


def workers_of(node: Any) -> list[int]:
    """The processes of actors on a node: children of its raylet that are named after what they run."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet.process.pid and (folder / "cmdline").read_bytes().startswith(b"ray::Map"):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


class Deadly:
    """The engine; after so many results an actor is killed, and after so many the second node, if it is to be."""

    def __init__(self, engine: Ray, nodes: Any, actors: Collection[int] = (6,), node: int | None = 60) -> None:
        self.engine, self.nodes, self.actors, self.node, self.killed = engine, nodes, actors, node, list[int]()

    def generate(self, *asked: Any) -> Iterator[tuple[int, Generated]]:
        first, second = self.nodes.worker_nodes
        for count, result in enumerate(self.engine.generate(*asked)):
            yield result
            if count in self.actors and (working := workers_of(first) or workers_of(second)):
                os.kill(working[0], signal.SIGKILL)
                self.killed.append(count)
            if count == self.node:
                self.nodes.remove_node(second, allow_graceful=False)
                self.killed.append(count)


def test_a_killed_actor_and_a_killed_node_cost_no_row_and_a_bad_row_is_told_of_at_the_end(
    nodes: Any, bank: Bank, policies: list[Adapter], tmp_path: Path
) -> None:
    broken = Adapter({name: (a, 3e37 * b.sign()) for name, (a, b) in policies[0].factors.items()}, 1.0)
    span = Span(bank.backbone.settings, (*policies[1:], broken))
    bad = at_soup((0.0, 0.0, 1.0))
    good = [at_soup((share / 8, 1 - share / 8, 0.0)) for share in range(1, 8)] * 10
    asked = [*requests(*good), *requests(bad)[:2]]
    random.Random(0).shuffle(asked)
    with closing(Ray(execution(nodes), bank)) as engine:
        deadly = Deadly(engine, nodes)
        with pytest.raises(SipoError, match=r"logits are not finite.*\(2 of \d+ requests failed"):
            answer(deadly, span, asked, SAMPLED, NEW, (), Journal(tmp_path, "x", Progress(quiet=True)))  # type: ignore[arg-type]
        assert deadly.killed == [6, 60]
    kept = (tmp_path / ".journal" / "x.jsonl").read_text().count("\n")
    assert kept == len(set(asked)) - 2
    local, mended = Local(Execution(device="cpu"), bank), Span(span.model, (*policies[1:], policies[0]))
    found = answer(local, mended, asked, SAMPLED, NEW, (), Journal(tmp_path, "x", Progress(quiet=True)))
    assert found == texts(local, mended, asked, SAMPLED)


@pytest.mark.slow
@pytest.mark.faults(3)
def test_actors_that_are_killed(
    nodes: Any, bank: Bank, policies: list[Adapter], tmp_path: Path, chance: Chance
) -> None:
    """SIGKILL of an actor | `execution.engine: ray`, two nodes | every text once, as one process writes it"""
    span = Span(bank.backbone.settings, tuple(policies))
    asked = requests(*[at_soup((share / 8, 1 - share / 8, 0.0)) for share in range(1, 8)])
    local = Local(Execution(device="cpu"), bank)
    expected = texts(local, span, asked, SAMPLED)
    with closing(Ray(execution(nodes), bank)) as engine:
        for place in chance.trials(tmp_path):
            deadly = Deadly(engine, nodes, chance.rng.sample(range(len(asked) - 4), chance.least), None)
            chance.drawn += chance.least
            journal = Journal(place, "x", Progress(quiet=True))
            assert answer(deadly, span, asked, SAMPLED, NEW, (), journal) == expected  # type: ignore[arg-type]
            chance.struck += len(deadly.killed)


@pytest.fixture
def span(bank: Bank, policies: list[Adapter]) -> Span:
    return Span(bank.backbone.settings, tuple(policies))


def through(engine: Ray, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> Ray:
    """The engine with one actor, in this process, which is called in an order of chance."""

    def mapped(_: Any, made: type, given: tuple[Any, ...], calls: list[Any]) -> Iterator[Any]:
        assert made is Actor and pickle.loads(pickle.dumps(given))[2].key == actor.span.key
        yield from (actor(pickle.loads(pickle.dumps(call))) for call in random.Random(0).sample(calls, len(calls)))

    monkeypatch.setattr(Cluster, "mapped", mapped)
    return engine


def test_an_actor_gives_what_the_local_engine_gives(bank: Bank, span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Execution(device="cpu", engine="ray", decode_rows=7, score_tokens=120)
    engine = through(Ray(chosen, bank), Actor(chosen, bank.layers, span), monkeypatch)
    local, before = Local(chosen, bank), bank.computed
    asked, scored = requests(*MIXTURES.values()), responses(*MIXTURES.values())
    found = texts(engine, span, asked, SAMPLED), scores(engine, span, scored)
    by_actor, before = bank.computed - before, bank.computed
    assert found == (texts(local, span, asked, SAMPLED), pytest.approx(scores(local, span, scored), **NEAR))
    assert by_actor == bank.computed - before > 0


def test_a_batch_that_fails_is_halved_until_the_request_that_fails_is_alone(bank: Bank, span: Span) -> None:
    tried: list[int] = []

    def compute(batch: Batch) -> list[Any]:
        tried.append(len(batch))
        if any(3 in (request.prompt, request.seed) for request in batch.requests):  # type: ignore[attr-defined]
            raise SipoError("a three")
        return [request.seed for request in batch.requests]  # type: ignore[attr-defined]

    whole = Texts([Request((5,), base(0), seed) for seed in range(8)], SAMPLED, NEW, (), 3)
    found = results(compute, whole)
    assert [each for each in found if not isinstance(each, Failed)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(found[3], Failed) and str(found[3].error) == "a three"
    assert tried == [8, 4, 2, 2, 1, 1, 4]


def test_batches_of_scores_halve_down_to_single_responses(span: Span) -> None:
    for mixture in (MIXTURES["soup"], MIXTURES["mod"]):
        for units, batch in score_plan(responses(mixture), 10**6, 400):
            parts: list[Batch] = [batch]
            while any(len(part) > 1 for part in parts):
                parts = [half for part in parts for half in (part.halves() or [part])]
            assert len(parts) == len(units) == len(batch) and not any(part.halves() for part in parts)


def test_what_no_request_is_at_fault_for_ends_the_call(
    bank: Bank, span: Span, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent, chosen = Span(span.model, (tmp_path / "absent",)), Execution(device="cpu", engine="ray")
    actor = Actor(chosen, bank.layers, absent)
    for _ in range(2):
        index, found, _, error = actor((4, Texts(requests(at_soup((1.0,))), SAMPLED, NEW, (), 3)))
        assert index == 4 and not found and "absent: no readable PEFT adapter" in str(error)
    call = Cluster.mapped
    monkeypatch.setattr(Cluster, "mapped", lambda *_: iter([(0, [], 0, error)]))
    with pytest.raises(SipoError, match="no readable PEFT adapter"):
        texts(Ray(chosen, bank), absent, requests(at_soup((1.0,))))
    monkeypatch.setattr(Cluster, "mapped", lambda *_: iter([]))
    with pytest.raises(SipoError, match=r"every actor ended that wrote 6 texts .* \(6 of 6 requests failed"):
        texts(Ray(chosen, bank), span, requests(MIXTURES["base"]))
    assert call is not Cluster.mapped


@pytest.mark.slow
def test_a_call_that_ends_every_actor_is_left_out_and_what_one_raises_comes_last(nodes: Any) -> None:
    with closing(Cluster(execution(nodes).ray)) as cluster:
        calls = ["1 + 1", "__import__('os')._exit(1)", "2 + 2"]
        assert sorted(cluster.mapped(partial, (eval,), calls)) == [2, 4]
        replies = cluster.mapped(partial, (eval,), ["1 + 1", "1 / 0", "2 + 2"])
        assert sorted(islice(replies, 2)) == [2, 4]
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            next(replies)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestRay(EngineConformance):
    @pytest.fixture
    def model(self, backbone: Backbone) -> Model:
        return backbone.settings

    @pytest.fixture(scope="class")
    def engine(self, nodes: Any, bank: Bank) -> Iterator[Engine]:
        with closing(Ray(execution(nodes), bank)) as engine:
            yield engine


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sipo.engines, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(SipoError, match=r"execution.engine: ray is not installed; `.* -m pip install '(ray|sipo)\["):
        check_engine(Execution(engine="ray"))


@pytest.mark.parametrize(
    ("configured", "variable", "told"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", "execution.ray.address: no cluster can be used at 127.0.0.1:1 .*leave the"),
        (None, "127.0.0.1:1", "RAY_ADDRESS: no cluster can be used at 127.0.0.1:1 .*or unset it"),
        ("here", "", "execution.ray.address: .* at here .it is not HOST:PORT"),
        ("h:999999", "", "execution.ray.address: no cluster can be used at h:999999"),
        ("ray://127.0.0.1:10001", "", "execution.ray.address: .* run sipo on a node of the cluster"),
        (None, "ray://127.0.0.1:10001", "RAY_ADDRESS: .* run sipo on a node of the cluster"),
    ],
)
def test_an_address_without_a_cluster_is_one_line_before_any_work(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, variable: str, told: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(SipoError, match=told) as problem:
        check_engine(Execution(device="cpu", engine="ray", ray={"address": configured}))
    assert "\n" not in str(problem.value)
    check_engine(Execution(device="cpu", engine="transformers", ray={"address": configured}))


def test_an_address_without_a_cluster_is_one_line(bank: Bank, span: Span) -> None:
    nowhere = Execution(device="cpu", engine="ray", ray={"address": "127.0.0.1:1"})
    with closing(Ray(nowhere, bank)) as engine, pytest.raises(SipoError, match=r"execution.ray.address: no cluster"):
        texts(engine, span, requests(MIXTURES["base"]))


def test_where_the_head_of_a_cluster_has_gone_a_process_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PULSE", 0.01)
    monkeypatch.setattr(cluster, "HEAD", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as head:
        name = f"127.0.0.1:{head.getsockname()[1]}"

        def watch() -> None:
            head.close()  # the other's is open
            sys.stderr = os.fdopen(2, "w", closefd=False)  # where the process speaks
            cluster.end_without(name, threading.Event())

        process = Process(["--version"], tmp_path / "log", watch)
        process.join(0.5)
        assert process.exitcode is None
    assert process.end() == 2
    assert process.said().startswith(f"error: execution.ray: the head of the cluster, {name}, has gone;")


def test_who_has_left_a_cluster_does_not_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD", 0.0)
    left = threading.Event()
    left.set()
    cluster.end_without("127.0.0.1:1", left)
