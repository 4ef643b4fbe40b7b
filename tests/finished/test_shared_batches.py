"""Methods and weights of a run in one batch: every answer is what the method's model alone writes."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import asking_briefly

import sipo
from sipo import ranks
from sipo.bank import Bank
from sipo.config.file import parse_config
from sipo.data.prompts import parse_prompt
from sipo.decoding import JENSEN_SHANNON, BestOf, Request, at_mod, at_soup, decode, embedded, seed_of
from sipo.engines import batched, fitting
from sipo.errors import SipoError
from sipo.finished import answering, handle
from sipo.finished.handle import AlignedModel, FinishedRun
from sipo.graph.build import Graph
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.methods.interface import Method
from sipo.methods.registry import find
from sipo.models.footprint import decoding_bytes, shape
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.settings.running import Ray
from sipo.task import Task
from sipo.weights import corners

pytestmark = pytest.mark.early

NAMES = ("detail", "brevity", "tone")
METHODS = (
    *("base", "soups", "factor-soups", "mod", "mod-forward-kl", "mod-alpha", "mod-jensen-shannon"),
    *("sipo", "sipo-soups", "modpo", "lw"),
)
WEIGHTS = {"halves": (0.5, 0.5, 0.0), "corner": (0.0, 0.0, 1.0), "inside": (0.2, 0.5, 0.3)}
AT = {name: ("halves", "corner") if name in ("lw", "modpo") else tuple(WEIGHTS) for name in METHODS}
"""Those that train at a weight have no model at others."""
PROMPTS = ["how do I", "the sun is warm and the water is cold, so keep"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 10}


@pytest.fixture(scope="module")
def folder(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three objectives with the policies of every method, and no answers."""
    place = tmp_path_factory.mktemp("every")
    settings = asking_briefly(make_settings(place), place)
    settings["objectives"].append({"name": "tone", "better": "It is kind.", "reward": "sipo.rewards.text:words"})
    settings["methods"] = list(METHODS)
    settings["weights"] = {"grid": [dict(zip(NAMES, WEIGHTS[at], strict=True)) for at in ("halves", "corner")]}
    settings["sample"] = {"prompts": 8, "weights": {"divisions": 3}, "per_weight": 4}
    settings["filter"] = {"weights": {"divisions": 3}}
    settings["align"] = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    settings["realign"] = {"lr": 0.05}
    return run(parse_config(settings, "settings"), until="lw", quiet=True)


@pytest.fixture(scope="module")
def opened(folder: Path) -> FinishedRun:
    return with_rows(8, folder)


def with_rows(rows: int, folder: Path) -> FinishedRun:
    """Opened, to decode so many rows at a time."""
    opened = sipo.open(folder)
    execution = opened.config.execution.model_copy(update={"decode_rows": rows})
    opened.config = opened.config.model_copy(update={"execution": execution})
    return opened


def shares(weight: str) -> dict[str, float]:
    return dict(zip(NAMES, WEIGHTS[weight], strict=True))


@pytest.fixture(scope="module")
def models(opened: FinishedRun) -> dict[str, AlignedModel]:
    named = {f"{name} {at}": opened.at(shares(at), name) for name in METHODS for at in AT[name]}
    return named | {f"policy:{name}": opened.at(method=f"policy:{name}") for name in NAMES}


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return Task(sipo.open(folder).config)


@pytest.fixture(scope="module")
def alone(folder: Path, task: Task) -> Callable[..., str]:
    """A method's answer from its own adapters, nothing else mounted and nobody else asking."""
    outputs = Outputs(folder, task.config)

    @cache
    def built(name: str) -> dict[str, Method]:
        stage = Graph(task.config.model_copy(update={"methods": (name,)}))[f"answers/{name}"]
        return {each.name: each for each in find(name).build(task.config, **outputs.inputs(stage))}

    def answer(name: str, prompt: str, temperature: float = 0.0, seed: int = 0) -> str:
        method, _, at = name.partition(" ")
        found = built(method if at else "policies")[method].at(WEIGHTS[at or "inside"])
        request = Request(tuple(task.codec.encode_prompt(parse_prompt(prompt))), found.mixture, seed)
        decoding = task.config.decoding.model_copy(update={"temperature": temperature})
        with task.bank.mounted(found.adapters):
            (generated,) = decode(task.bank, [request], decoding, 10, task.codec.stops)
        return task.codec.decode(generated.tokens)

    return answer


@pytest.fixture(scope="module")
def expected(models: dict[str, AlignedModel], alone: Callable[..., str]) -> dict[tuple[str, str], str]:
    found = {(name, prompt): alone(name, prompt) for name in models for prompt in PROMPTS}
    assert len(set(found.values())) > len(found) // 3  # or equality would say nothing
    return found


def test_every_method_answers_alone_as_its_model_does(
    models: dict[str, AlignedModel], expected: dict[tuple[str, str], str]
) -> None:
    for name, model in models.items():
        assert model.generate(PROMPTS, **GREEDY) == [expected[name, prompt] for prompt in PROMPTS], name


@pytest.mark.parametrize("seed", [1, 2])
def test_every_method_answers_among_all_others_as_alone(
    seed: int, opened: FinishedRun, models: dict[str, AlignedModel], expected: dict[tuple[str, str], str]
) -> None:
    """In batches of eight rows, and in one of all."""
    order = [list(expected)[i] for i in torch.randperm(len(expected), generator=torch.Generator().manual_seed(seed))]
    asks = [(prompt, models[name]) for name, prompt in order]
    if seed == 2:
        opened = with_rows(1000, opened.path)
        asks = [(prompt, opened.at(model.weights, model.method)) for prompt, model in asks]
    assert opened.generate(asks, **GREEDY) == [expected[each] for each in order]


def test_an_answer_by_chance_is_its_own_seed_s(
    opened: FinishedRun, models: dict[str, AlignedModel], alone: Callable[..., str]
) -> None:
    told: Counter[int] = Counter()
    asks = [("how do I", model) for model in models.values()]
    answers = opened.generate(
        asks, temperature=1.0, max_new_tokens=10, seed=5, watch=lambda place, piece: told.update({place: len(piece)})
    )
    assert answers == [alone(name, "how do I", 1.0, seed_of(5, "generate", i)) for i, name in enumerate(models)]
    assert [told[i] for i in range(len(answers))] == [len(answer) for answer in answers]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often models were loaded, and adapters mounted."""
    import sipo.task

    counts: Counter[str] = Counter()
    load, mount = sipo.task.load_backbone, Bank.mounted

    def loading(*arguments: Any) -> Any:
        counts["loaded"] += 1
        return load(*arguments)

    def mounting(bank: Bank, adapters: Any) -> Any:
        counts["mounted"] += 1
        return mount(bank, adapters)

    monkeypatch.setattr("sipo.task.load_backbone", loading)
    monkeypatch.setattr(Bank, "mounted", mounting)
    return counts


def test_the_model_is_loaded_once_and_a_set_of_adapters_mounted_once(
    folder: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    opened = sipo.open(folder)
    assert opened.objectives == NAMES and opened.fronts is None
    soups, mod = opened.at(shares("inside"), "soups"), opened.at(shares("halves"), "mod")
    assert soups.generate([]) == soups.logprobs([], []) == opened.generate([]) == []
    assert not counted  # nothing has been asked
    first = soups.generate("how do I", **GREEDY)
    mod.generate(PROMPTS, **GREEDY)
    mod.logprobs("how do I", "keep")
    opened.at(method="base").generate("how do I", **GREEDY)
    soups.save_pretrained(tmp_path / "merged", merged=True)
    assert counted == {"loaded": 1, "mounted": 1}
    opened.at(shares("inside")).generate("how do I", **GREEDY)
    assert soups.generate("how do I", **GREEDY) == first
    assert counted == {"loaded": 1, "mounted": 3}


def test_threads_take_turns(
    folder: Path, models: dict[str, AlignedModel], expected: dict[tuple[str, str], str]
) -> None:
    opened = sipo.open(folder)
    names = ["soups inside", "sipo inside", "lw halves", "mod-alpha inside"] * 3

    def ask(name: str) -> str:
        return opened.at(models[name].weights, models[name].method).generate("how do I", **GREEDY)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, names)) == [expected[name, "how do I"] for name in names]


def test_the_methods_are_those_that_can_answer(opened: FinishedRun, folder: Path) -> None:
    """Soups stand on what MOD stands on, asked for or not; what has not been trained is not there."""
    found = opened.methods
    assert found[: len(METHODS)] == METHODS
    assert set(found[len(METHODS) :]) == {"prompting", "best-of-n", *(f"policy:{name}" for name in NAMES)}
    for name in found:
        assert opened.at(shares("halves"), name).method == name


def test_a_method_that_asks_in_words_is_not_there_where_the_tokenizer_has_none(folder: Path) -> None:
    class Wordless:
        unk_token_id = 7

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [self.unk_token_id] * len(text.split())

    one = sipo.open(folder)
    vars(one._built)["_tokenizer"] = Wordless()
    assert set(sipo.open(folder).methods) - set(one.methods) == {"prompting"}


def test_a_chat_is_asked_in_either_form(models: dict[str, AlignedModel], expected: dict[tuple[str, str], str]) -> None:
    model = models["mod inside"]
    texts = [("user", "how do I"), ("assistant", "keep"), ("user", "water")]
    typed = [sipo.Message(*turn) for turn in texts]
    plain = [{"role": role, "content": content} for role, content in texts]
    answer = model.generate(typed, **GREEDY)
    assert isinstance(answer, str) and answer == model.generate(plain, **GREEDY)
    assert model.generate([typed, "how do I", tuple(plain)], **GREEDY) == [
        answer,
        expected["mod inside", "how do I"],
        answer,
    ]
    assert model.generate(typed[:1], **GREEDY) == expected["mod inside", "how do I"]
    assert model.logprobs(typed, "keep") == pytest.approx(model.logprobs([plain], ["keep"])[0])
    assert model.logprobs(typed, "keep") != pytest.approx(model.logprobs("how do I", "keep"))


@given(st.permutations(range(5)), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_a_mixture_in_a_wider_span_is_the_same_sum_of_adapters(places: list[int], raw: list[float]) -> None:
    weight = tuple(share / sum(raw) for share in raw)
    updates = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixture = at_mod(weight, JENSEN_SHANNON)
    wider = embedded(mixture, places[:3], 5)
    assert (wider.weights, wider.divergence) == (mixture.weights, mixture.divergence)
    own = torch.tensor(mixture.points, dtype=torch.float64) @ updates[places[:3]]
    torch.testing.assert_close(torch.tensor(wider.points, dtype=torch.float64) @ updates, own)


def test_ways_of_asking_are_heeded(
    opened: FinishedRun,
    models: dict[str, AlignedModel],
    expected: dict[tuple[str, str], str],
    task: Task,
    tmp_path: Path,
) -> None:
    """An instruction is asked with, and of several draws that is given which the policies find best."""
    soups, weight = models["soups inside"], WEIGHTS["inside"]
    told = AlignedModel(opened, soups.weights, "told", replace(soups.aligned, instruct="Be kind."))
    best = AlignedModel(opened, soups.weights, "best", replace(soups.aligned, best_of=BestOf(4, weight, 1.0)))
    chat = [sipo.Message("system", "Be kind."), sipo.Message("user", "how do I")]
    pieces: dict[int, str] = {}
    asks = [("how do I", model) for model in (models["lw halves"], told, best)]
    answers = opened.generate(
        asks, **GREEDY, seed=3, watch=lambda at, piece: pieces.update({at: pieces.get(at, "") + piece})
    )
    assert answers[:2] == [expected["lw halves", "how do I"], soups.generate(chat, **GREEDY)]
    assert [pieces[at] for at in range(3)] == answers
    assert told.logprobs("how do I", "keep") == pytest.approx(soups.logprobs(chat, "keep"))

    first = Request(
        tuple(task.codec.encode_prompt(parse_prompt("how do I"))), soups.aligned.mixture, seed_of(3, "generate", 2)
    )
    warm = task.config.decoding.model_copy(update={"temperature": 1.0})
    with task.bank.mounted(soups.aligned.adapters):
        draws = decode(task.bank, BestOf(4, weight).draws(first), warm, 10, task.codec.stops)
        group = Group(first.prompt, tuple(draw.tokens for draw in draws))
        of = mixture_logprobs(task.bank, group, [at_soup(point) for point in (*corners(3), (0.0,) * 3)])
    logprobs = torch.tensor(of)
    values = torch.tensor(weight) @ (logprobs[:3] - logprobs[3])
    texts = [task.codec.decode(draw.tokens) for draw in draws]
    assert len(set(texts)) == 4 and answers[2] == texts[int(values.argmax())]
    with pytest.raises(SipoError, match="`best` gives the best of several draws"):
        best.logprobs("how do I", "keep")
    for model in (told, best):
        with pytest.raises(SipoError, match="no adapter can hold"):
            model.save_pretrained(tmp_path / "adapter")


def test_answers_that_memory_does_not_hold_are_given_by_fewer_rows_and_told_once(
    folder: Path, expected: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rows_tried = with_rows(8, folder), list[int]()

    def narrow(bank: Bank, requests: Any, decoding: Any, limit: int, stops: Any, stream: Any, rows: int) -> Any:
        rows_tried.append(rows)
        chosen = 0

        def some(request: int, token: int) -> None:
            nonlocal chosen
            stream(request, token)
            chosen += 1
            if rows > 3 and chosen == 17:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return decode(bank, requests, decoding, limit, stops, some, rows)

    monkeypatch.setattr(answering, "decode", narrow)
    names = [f"{name} {at}" for name in ("base", "soups", "mod") for at in AT[name]]
    asks = [(prompt, run.at(shares(name.split()[1]), name.split()[0])) for name in names for prompt in PROMPTS]
    pieces, whole = dict[int, str](), list[tuple[int, str]]()
    told: dict[str, Any] = {
        "watch": lambda at, piece: pieces.update({at: pieces.get(at, "") + piece}),
        "done": lambda at, text: whole.append((at, text)),
    }
    answers = run.generate(asks, **GREEDY, **told)
    assert answers == [expected[name, prompt] for name in names for prompt in PROMPTS]
    assert [pieces.get(at, "") for at in range(len(asks))] == answers
    assert sorted(whole) == list(enumerate(answers))
    assert rows_tried == [8, 4, 2]


def test_a_finished_run_has_the_memory_to_itself_whatever_engine_made_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, planned = with_rows(8, folder), list[int]()
    of = shape(run.task.bank.model)
    memory = of.weights + of.opened + decoding_bytes(of, 40, 20, GREEDY["max_new_tokens"])
    monkeypatch.setattr(ranks, "memory_of", lambda device: 2 * memory)
    monkeypatch.setattr(fitting, "free_memory", lambda device: memory)

    def noting(choose: Callable[..., int]) -> Callable[..., int]:
        def chosen(*asked: Any) -> int:
            planned.append(choose(*asked))
            return planned[-1]

        return chosen

    for module, name in ((handle, "rows_for"), (handle, "tokens_for"), (batched, "rows_free")):
        monkeypatch.setattr(module, name, noting(getattr(fitting, name)))

    def chosen_by(engine: str) -> list[int]:
        told = {"engine": engine, "workers": 40, "ray": Ray(actors=40), "decode_rows": "auto", "score_tokens": "auto"}
        one = sipo.open(folder)
        execution = one.config.execution.model_copy(update=told)
        one.config, one.__dict__["task"] = one.config.model_copy(update={"execution": execution}), run.task
        planned.clear()
        one.at(shares("halves"), "soups").generate(["how do I"], **GREEDY)
        one.at(shares("halves"), "soups").logprobs("how do I", "keep")
        return planned[:]

    here = chosen_by("transformers")
    assert len(here) == 3 and min(here) > 10
    assert chosen_by("pool") == chosen_by("ray") == here
