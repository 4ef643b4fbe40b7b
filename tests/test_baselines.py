"""Prompting and best-of-n against what they are by definition."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import TEMPLATES, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from small import random_adapter

from sipo.bank import Adapter
from sipo.config.file import parse_config
from sipo.declare.work import Lengths, Plan
from sipo.decoding import BestOf, Request, at_soup, base, decode, seed_of
from sipo.engines import Local
from sipo.engines.batched import Knee
from sipo.errors import SipoError
from sipo.estimate.sizes import counted
from sipo.graph.build import Graph
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.message import Message
from sipo.methods.base import base_model
from sipo.methods.best_of_n import BestOfN, best_of_n
from sipo.methods.interface import Aligned, Method
from sipo.methods.prompting import check_prompting, instruction, prompting
from sipo.methods.soups import soups
from sipo.models.chat import Codec
from sipo.progress import Progress
from sipo.records import Response
from sipo.settings import Decoding
from sipo.stages import answer as answering
from sipo.stages.answer import answer_prompts
from sipo.task import Task
from sipo.weights import corners

MIDDLE = (0.5, 0.5)


def objectives(n: int) -> list[Any]:
    return [SimpleNamespace(name=f"goal{i}", better=f"It is {i}.") for i in range(n)]


@pytest.fixture
def task(settings: dict[str, Any]) -> Task:
    return Task(parse_config(settings, "x"), Progress(quiet=True))


@pytest.fixture
def pair(task: Task) -> list[Adapter]:
    return [random_adapter(task.backbone, seed) for seed in (1, 2)]


def changed(task: Task, **sections: dict[str, Any]) -> Task:
    """The same data and model under other settings."""
    updates = {name: getattr(task.config, name).model_copy(update=keys) for name, keys in sections.items()}
    return Task(task.config.model_copy(update=updates), site=task.site)


def texts(responses: Sequence[Response]) -> list[tuple[str, int, str]]:
    """By prompt and weight, whatever the method."""
    return [(each.prompt, each.index, each.response) for each in responses]


# What prompting asks


@given(st.lists(st.integers(0, 6), min_size=2, max_size=6).filter(any))
def test_an_instruction_names_what_has_a_share_by_its_rank(counts: list[int]) -> None:
    weight = tuple(count / sum(counts) for count in counts)
    text = instruction(objectives(len(weight)), weight)
    named = [i for line in text.splitlines() for i in range(len(weight)) if line.startswith(f"- goal{i}")]
    assert named == sorted((i for i, share in enumerate(weight) if share), key=lambda i: (-weight[i], i))
    assert all((f"It is {i}." in text) == (share > 0) for i, share in enumerate(weight))
    worths = {count for count in counts if count}
    assert ("equally important" in text) == (len(worths) == 1 and len(named) > 1)
    assert ("the most important" in text) == (len(worths) > 1)
    assert ("%" in text) == (len(named) > 1), "one objective alone has no share to tell of"


def test_what_an_instruction_says() -> None:
    three = objectives(3)
    assert instruction(three, (0.2, 0.2, 0.6)) == (
        "Give the best response that you can by these standards, the most important first:\n"
        "- goal2 (60%, the most important): It is 2.\n"
        "- goal0 (20%, less important): It is 0.\n"
        "- goal1 (20%, less important): It is 1.\n"
        "Where they conflict, weigh them by these shares. Do not mention the standards."
    )
    assert instruction(three, (0.0, 1.0, 0.0)) == (
        "Give the best response that you can by this standard:\n- goal1: It is 1.\nDo not mention the standard."
    )
    words = [instruction(three, weight) for weight in [(0.4, 0.4, 0.2), (0.5, 0.4, 0.1), (1 / 3, 1 / 3, 1 / 3)]]
    assert "goal1 (40%, just as important)" in words[0] and "goal2 (20%, less important)" in words[0].replace(
        "slightly ", ""
    )
    assert "goal1 (40%, slightly less important)" in words[1] and "goal2 (10%, much less important)" in words[1]
    assert "equally important" in words[2] and "goal2 (33.3%)" in words[2]


@torch.no_grad()
def test_prompting_is_the_plain_model_asked_with_that_system_text(
    task: Task, pair: list[Adapter], tmp_path: Path
) -> None:
    greedy = changed(task, decoding={"temperature": 0.0})
    answers = answer_prompts(greedy, [prompting(task.config.objectives, pair)], tmp_path)
    assert len(answers) == len(task.weights) * len(answering.test_rows(task))
    asked = {row.key: row.prompt for row in answering.test_rows(task)}
    tokenizer, model = task.backbone.tokenizer, task.backbone.model
    for each in answers:
        assert each.weights is not None
        system = instruction(task.config.objectives, tuple(each.weights.values()))
        chat = [{"role": "system", "content": system}, *(message._asdict() for message in asked[each.prompt])]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        said: list[int] = []
        while len(said) < task.codec.max_response_tokens and not set(said) & task.codec.stops:
            said.append(int(model(torch.tensor([[*ids, *said]])).logits[0, -1].argmax()))
        assert each.response == task.codec.decode(said) and each.length == len(said)
    assert len({each.response for each in answers if each.prompt == answers[0].prompt}) > 1, "or weights change nothing"


@pytest.mark.parametrize("template", ["chatml", "gemma", "llama2"])
def test_an_instruction_is_rendered_as_any_system_text_is(template: str) -> None:
    codec = Codec(tokenizer_of("byte", TEMPLATES[template]), 4000, 60)
    aligned = prompting(objectives(2), []).at((0.75, 0.25))
    text = str(aligned.instruct)
    for chat in ([Message("user", "why?")], [Message("system", "be kind"), Message("user", "why?")]):
        read = codec.tokenizer.decode(codec.encode_prompt(aligned.asked(chat)))
        assert all(line in read for line in [*text.splitlines(), "why?"]) and ("be kind" in read) == (len(chat) == 2)
        assert codec.encode_prompt(chat) == codec.encode_prompt(base_model([]).at(MIDDLE).asked(chat))


def test_an_instruction_that_the_model_cannot_take_is_refused(task: Task, pair: list[Adapter], tmp_path: Path) -> None:
    check_prompting(task, answering.test_rows(task))
    long = [each.model_copy(update={"better": "It is long. " * 900}) for each in task.config.objectives]
    wordy = Task(task.config.model_copy(update={"objectives": tuple(long)}), site=task.site)
    line = r"with the instruction of `prompting` the prompt '.*' has \d+ tokens, .* over the model's context of 2048"
    with pytest.raises(SipoError, match=line):
        check_prompting(wordy, answering.test_rows(wordy))
    with pytest.raises(SipoError, match=line):
        answer_prompts(wordy, [prompting(wordy.config.objectives, pair)], tmp_path)
    strange = [each.model_copy(update={"better": "\N{SNOWMAN}"}) for each in task.config.objectives]
    foreign = Task(task.config.model_copy(update={"objectives": tuple(strange)}), site=task.site)
    check_prompting(foreign, answering.test_rows(foreign))
    task.site.codec = replace(task.codec, tokenizer=tokenizer_of("word", TEMPLATES["chatml"]))
    with pytest.raises(SipoError, match="`prompting` asks in English words, most of which the tokenizer"):
        check_prompting(task, answering.test_rows(task))


# Best of n


def test_best_of_one_is_the_model_that_it_is_drawn_from(task: Task, pair: list[Adapter], tmp_path: Path) -> None:
    ones: list[tuple[Method, BestOfN]] = [
        (base_model(pair), BestOfN(n=1)),
        (soups(pair), BestOfN(n=1, of="soups")),
    ]
    for number, (plain, settings) in enumerate(ones):
        expected = answer_prompts(task, [plain], tmp_path / f"plain {number}")
        best = answer_prompts(task, [best_of_n(pair, settings)], tmp_path / f"best {number}")
        assert texts(best) == texts(expected)
        assert all(each.weights for each in best)


def test_n_draws_are_the_first_of_more() -> None:
    request = Request((1, 2), base(2), 7)
    five = BestOf(5, MIDDLE).draws(request)
    assert five[0] == request and len({each.seed for each in five}) == 5
    assert all({each.prompt, each.mixture} == {request.prompt, request.mixture} for each in five)
    for n in range(1, 5):
        assert BestOf(n, (1.0, 0.0)).draws(request) == five[:n]


@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_the_best_draw_has_the_largest_weighted_sum(data: st.DataObject, n: int, goals: int) -> None:
    whole = st.integers(-50, 50)  # sums of whole numbers are exact
    rows = data.draw(st.lists(st.lists(whole, min_size=goals, max_size=goals), min_size=n, max_size=n))
    ratios = np.array(rows, dtype=float)
    for weight in corners(goals):
        assert BestOf(n, weight).pick(ratios) == int(ratios[:, weight.index(1.0)].argmax())
    eighths = tuple(data.draw(st.integers(1, 8)) / 8 for _ in range(goals))
    sums = [sum(share * value for share, value in zip(eighths, row, strict=True)) for row in rows]
    assert BestOf(n, eighths).pick(ratios) == sums.index(max(sums)), "the first of equals"


def drawn_by_hand(task: Task, pair: list[Adapter], n: int, of: str = "base") -> list[tuple[str, int, str]]:
    """Every draw decoded alone, every score computed alone."""
    found = []
    for weight in task.weights:
        for row in answering.test_rows(task):
            seed = seed_of(task.config.seed, "evaluate", row.key, weight, 0)
            request = Request(task.prompt_tokens(row), base(2) if of == "base" else at_soup(weight), seed)
            best, value = None, -np.inf
            for draw in BestOf(n, weight).draws(request):
                with task.bank.mounted(pair):
                    (said,) = decode(
                        task.bank, [draw], task.config.decoding, task.codec.max_response_tokens, task.codec.stops
                    )
                    group = Group(request.prompt, (said.tokens,))
                    reference, *scores = (
                        score_rows(task.bank, [(group, point)])[0][0] for point in ((0.0, 0.0), *corners(2))
                    )
                reward = sum(share * (score - reference) for share, score in zip(weight, scores, strict=True))
                if reward > value:
                    best, value = task.codec.decode(said.tokens), reward
            found.append((row.key, 0, str(best)))
    return found


@pytest.mark.parametrize("of", ["base", "soups"])
def test_best_of_n_is_the_best_of_its_draws_one_by_one(
    task: Task, pair: list[Adapter], tmp_path: Path, of: Any
) -> None:
    method = best_of_n(pair, BestOfN(n=3, of=of))
    best = answer_prompts(task, [method], tmp_path / "best")
    assert texts(best) == drawn_by_hand(task, pair, 3, of)
    one = answer_prompts(task, [best_of_n(pair, BestOfN(n=1, of=of))], tmp_path / "one")
    assert texts(best) != texts(one), "or the test would say nothing"
    cut = changed(task, execution={"decode_rows": 3, "score_tokens": 120})
    assert answer_prompts(cut, [method], tmp_path / "cut") == best


def test_draws_have_a_temperature_of_their_own(task: Task, pair: list[Adapter], tmp_path: Path) -> None:
    greedy = changed(task, decoding={"temperature": 0.0})
    own = BestOfN(n=2, temperature=1.0)
    methods = [base_model(pair), best_of_n(pair, own)]
    mixed = [each for each in answer_prompts(greedy, methods, tmp_path / "own") if each.method == "best-of-n"]
    assert mixed == answer_prompts(task, [best_of_n(pair, BestOfN(n=2))], tmp_path / "warm")
    with pytest.raises(SipoError, match="at temperature 0 the 2 draws of best-of-n are the same"):
        answer_prompts(greedy, [best_of_n(pair, BestOfN(n=2))], tmp_path / "greedy")


def test_greedy_draws_are_refused_in_a_configuration(settings: dict[str, Any]) -> None:
    greedy = {**settings, "methods": ["base", "best-of-n"], "decoding": {"temperature": 0}}
    with pytest.raises(SipoError, match=r"best_of_n: decoding.temperature is 0, where all draws are the same"):
        parse_config(greedy, "x")
    for fine in ({"best_of_n": {"temperature": 1}}, {"best_of_n": {"n": 1}}, {"methods": ["base"]}):
        parse_config({**greedy, **fine}, "x")


@pytest.mark.parametrize("ending", ["draws", "scores"])
def test_draws_and_scores_survive_a_kill(
    task: Task, pair: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    task, method = changed(task, execution={"score_tokens": 100}), best_of_n(pair, BestOfN(n=2))
    real, computed, limit = Local.compute, list[int](), 10**6

    def counted_or_killed(engine: Local, span: Any, batch: Any) -> Any:
        if not isinstance(batch, Knee):  # a question to the bank
            if len(computed) == limit:
                raise KeyboardInterrupt
            computed.append(1)
        return real(engine, span, batch)

    monkeypatch.setattr(Local, "compute", counted_or_killed)
    whole = answer_prompts(task, [method], tmp_path / "undisturbed")
    batches = len(computed)
    limit = 2 if ending == "draws" else batches - 2
    computed.clear()
    with pytest.raises(KeyboardInterrupt):
        answer_prompts(task, [method], tmp_path / "killed")
    done, limit = limit, 10**6
    computed.clear()
    assert answer_prompts(task, [method], tmp_path / "killed") == whole
    assert len(computed) == batches - done, "what it had is not computed again"


# What they cost


def test_costs_are_those_of_the_draws(settings: dict[str, Any]) -> None:
    names = ["base", "policies", "mod", "mod-jensen-shannon", "prompting", "best-of-n"]
    config = parse_config({**settings, "methods": names}, "x")
    task = Task(config, Progress(quiet=True))
    plan = Plan(config=config, sizes=counted(task), weights=task.weights, lengths=Lengths(10, 10))
    of = {name: Graph(config)[f"answers/{name}"].work(plan) for name in names}
    prompts, each = len(answering.test_rows(task)), 10 + config.data.max_response_tokens
    draws = 1 + 2 + 1  # at (1, 0), (.5, .5) and (0, 1)
    assert of["best-of-n"].written == draws * prompts and of["best-of-n"].scored == 2 * 3 * prompts
    assert of["best-of-n"].tokens - of["mod"].tokens == 2 * 3 * prompts * each, "MOD's tokens, and scoring on top"
    assert of["mod-jensen-shannon"].tokens - of["mod"].tokens == prompts * each, "the reference, between the corners"
    assert of["policies"].written == 2 * of["base"].written and of["policies"].tokens == 2 * of["base"].tokens
    assert of["prompting"].written == of["base"].written and of["prompting"].tokens > 1.5 * of["base"].tokens
    five = parse_config({**settings, "methods": names, "best_of_n": {"n": 5}}, "x")
    assert Graph(five)["answers/best-of-n"].work(replace(plan, config=five)).written == (5 * 3 * prompts)


def test_a_plain_model_is_asked_and_draws_as_before() -> None:
    chat = [Message("user", "why?")]
    aligned = Aligned((), base(2))
    assert aligned.asked(chat) is chat and aligned.best_of is None
    assert BestOf(2, MIDDLE).drawing(Decoding(temperature=0.5)) == Decoding(temperature=0.5)
