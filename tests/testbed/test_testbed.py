"""The synthetic language: rewards against hand-computed examples, writers against their probabilities, a small run."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sipo.cli.testbed
from sipo.cli.main import main
from sipo.config.file import load_config, parse_config
from sipo.data import conflict_statistics, read_rows
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import load_backbone
from sipo.prompts.template import load_template
from sipo.rewards.objective import Objective
from sipo.runs.pipeline import run
from sipo.testbed import ENVIRONMENTS, Environment, F, G, H, Sft, Testbed, prepare
from sipo.testbed.language import FINE, ITEMS, RISKY_AS_R, VOCABULARY, Pair, asked_for, make_pair, pairs, read, write
from sipo.testbed.preparation import relabelled
from sipo.testbed.requests import Requests, flaws
from sipo.testbed.rewards import few_risks, focused, harmless, helpful, ordered
from sipo.testbed.tiny import task_prompt

pytestmark = pytest.mark.early

TINY = Sft(examples=300, batch_tokens=2048)
PROMPT = "c0 i3 i17 i8 i20 i5"
ASKED = asked_for(PROMPT)
SAFE = [make_pair(item, risky=False) for item in ASKED]
RISKY = [make_pair(item, risky=True) for item in ASKED]
OFF_TOPIC = make_pair("i0", risky=False)
seeds = st.integers(0, 10**6)
requests = st.sampled_from([H, G, F])


def drawn(environment: Requests, number: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = Random(seed)
    prompts = [environment.draw_prompt(rng) for _ in range(number)]
    return prompts, [environment.respond(prompt, rng) for prompt in prompts]


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([], {helpful: 0, harmless: 0, few_risks: 0, ordered: 0, focused: 0}),
        (SAFE, {helpful: 3.5, harmless: 0, few_risks: 0, ordered: 5, focused: 0}),
        (RISKY, {helpful: 5, harmless: -5, few_risks: -5, ordered: 5, focused: 0}),
        ([RISKY[0]._replace(caveat=True)], {helpful: 1, harmless: -2.5, few_risks: -1, ordered: 1}),
        ([SAFE[0]._replace(caveat=True)], {helpful: 0.7, harmless: 0}),
        ([make_pair("i3", True, index=4)], {helpful: 0.5, harmless: -5}),
        ([make_pair("i3", False, index=4)], {helpful: 0.35}),
        ([RISKY[0], SAFE[1], SAFE[2]], {helpful: 2.4, harmless: -5 / 3, few_risks: -1, ordered: 3}),
        ([RISKY[0], OFF_TOPIC], {helpful: 0.9, harmless: -2.5, focused: -1}),  # what nobody asked for dilutes
        ([SAFE[0], RISKY[0]], {helpful: 0.7, harmless: -2.5, focused: -1, ordered: 1}),  # the first mention counts
        ([SAFE[1], SAFE[0]], {ordered: 0}),
        ([SAFE[0], SAFE[2]], {ordered: 1}),
        (["f1", SAFE[0], "f1", "i20"], {helpful: 0.7, focused: -3, ordered: 1}),  # an item alone is no pair
    ],
)
def test_rewards_of_examples(units, expected):
    for reward, value in expected.items():
        assert reward([PROMPT], [write(units)]) == pytest.approx([value])


def test_rewards_know_nothing_but_their_texts():
    prompts, responses = drawn(H, 50)
    for reward in (helpful, harmless, few_risks, ordered, focused):
        alone = [reward([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
        assert reward(prompts, responses) == alone
        assert reward(prompts[::-1], responses[::-1]) == alone[::-1]


@given(st.lists(st.sampled_from(VOCABULARY), max_size=24))
def test_any_words_are_read_and_written_back(words):
    text = " ".join(words)
    assert write(read(text)) == text
    assert 0 >= harmless([PROMPT], [text])[0] >= -5 and helpful([PROMPT], [text])[0] <= 5


def test_the_vocabulary_and_the_hidden_bits():
    assert len(VOCABULARY) + 7 == 59 and len(set(VOCABULARY)) == len(VOCABULARY)
    assert len(RISKY_AS_R) == len(ITEMS) / 2
    assert all(pair.matches and pair.risky for pair in RISKY) and not any(pair.risky for pair in SAFE)


@pytest.mark.parametrize(
    ("environment", "cover", "risk"),
    # at boldness and knowledge 1/2 on average; G's risk is clipped below .97 where k < .1
    [(H, 0.25 + 0.175 + 0.125, 0.30 + 0.325 - 0.125), (G, 0.15 + 0.05 + 0.30, 0.95 + 0.05 - 0.40)],
)
def test_responses_have_the_writers_probabilities(environment, cover, risk):
    prompts, responses = drawn(environment, 6000)
    given = [(set(asked_for(p)), pairs(r)) for p, r in zip(prompts, responses, strict=True)]
    on_topic = [pair for asked, each in given for pair in each if pair.item in asked]
    off_topic = sum(pair.item not in asked for asked, each in given for pair in each)
    slots = 5 * len(given)
    assert len(on_topic) / slots == pytest.approx(cover, abs=0.015)
    assert off_topic / (slots - len(on_topic)) == pytest.approx(0.10, abs=0.01)
    assert mean(not pair.matches for pair in on_topic) == pytest.approx(0.20, abs=0.015)
    assert mean(pair.caveat for pair in on_topic if pair.risky) == pytest.approx(0.15, abs=0.015)
    assert not any(pair.caveat for pair in on_topic if not pair.risky)
    assert sum(word.startswith("f") for r in responses for word in r.split()) / slots == pytest.approx(0.12, abs=0.01)
    assert max(len(r.split()) for r in responses) < environment.max_response_words
    # Weighted by what was covered: bold writers cover more in H and knowing ones in G, hence the looser bound.
    assert mean(pair.risky for pair in on_topic) == pytest.approx(risk, abs=0.12)


@given(requests, seeds)
def test_a_review_names_the_true_flaws(environment, seed):
    [prompt], [response] = drawn(environment, 1, seed)
    everything = replace(environment, recall=1.0).review(prompt, response, Random(seed)).split()
    found = {
        *(("miss", item) for item in asked_for(prompt) if item not in {pair.item for pair in pairs(response)}),
        *(("risk", pair.item) for pair in pairs(response) if pair.risky),
    }
    assert everything == [FINE] if not found else set(zip(everything[::2], everything[1::2], strict=True)) == found
    assert replace(environment, recall=0.0).review(prompt, response, Random(seed)) == FINE
    assert len(everything) < environment.max_review_words


@given(requests, seeds)
def test_a_rewrite_never_does_harm_and_never_says_less(environment, seed):
    [prompt], [response] = drawn(environment, 1, seed)
    rng = Random(seed)
    rewritten = environment.rewrite(prompt, response, environment.review(prompt, response, rng), rng)
    assert harmless([prompt], [rewritten]) >= harmless([prompt], [response])
    assert few_risks([prompt], [rewritten]) >= few_risks([prompt], [response])
    assert {pair.item for pair in pairs(response)} <= {pair.item for pair in pairs(rewritten)}
    assert environment.rewrite(prompt, response, FINE, rng) == response


@given(requests, seeds)
def test_a_full_review_and_a_sure_rewrite_leave_no_flaw(environment, seed):
    [prompt], [response] = drawn(environment, 1, seed)
    sure = replace(environment, recall=1.0, fix=1.0)
    rewritten = sure.rewrite(prompt, response, sure.review(prompt, response, Random(seed)), Random(seed))
    assert not flaws(prompt, rewritten)
    in_order = [item for item in asked_for(prompt) if item in {pair.item for pair in pairs(response)}]
    if [pair.item for pair in pairs(response) if pair.item in in_order] == in_order:
        assert ordered([prompt], [rewritten]) == [5.0]


def test_objectives_are_chosen_by_name():
    for environment in ENVIRONMENTS.values():
        assert [objective.name for objective in environment.chosen()] == ["helpful", "harmless"]
    assert [objective.name for objective in H.chosen(["focused", "helpful"])] == ["focused", "helpful"]
    with pytest.raises(SipoError, match="`brief` is no objective; it has helpful, harmless"):
        H.chosen(["helpful", "brief"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    return prepare(H, 7, tmp_path_factory.mktemp("testbed"), sft=TINY, pairs=240)


def test_texts_and_tokens(prepared):
    backbone = load_backbone(load_config_of(prepared).model, "cpu")
    assert len(backbone.tokenizer) == 59
    assert 90_000 < backbone.model.num_parameters() < 110_000
    codec = Codec(backbone.tokenizer, 100, 24)
    words = backbone.tokenizer.convert_ids_to_tokens
    for prompt, response in zip(*drawn(H, 30), strict=True):
        review = H.review(prompt, response, Random(0))
        assert codec.decode(codec.encode_response(response)) == response
        chat = (Message("user", prompt),)
        assert words(codec.encode_prompt(chat)) == task_prompt("respond", [prompt]).split()
        for task, texts in (("review", [prompt, response]), ("rewrite", [prompt, response, review])):
            template = load_template(prepared.folder / f"{task}.yaml", task)
            rendered = template.render(chat=chat, response=response, review=review, objectives=H.objectives)
            assert words(codec.encode_prompt(rendered)) == task_prompt(task, texts).split()


def load_config_of(prepared: Testbed, objectives: list[str] | None = None):
    return parse_config(prepared.settings(objectives), "settings")


def test_rows_carry_all_objectives_and_their_labels_are_the_noisy_rewards(prepared):
    rows = read_rows(prepared.rows)
    names = [objective.name for objective in H.objectives]
    assert 150 < len(rows) <= 240 and list(conflict_statistics(rows).objectives) == names
    assert relabelled(rows, H.objectives, 0.1, 7) == rows
    exact = relabelled(rows, H.objectives, 0.0, 7)
    for row in exact:
        gain = helpful([row.text], row.responses[1:])[0] - helpful([row.text], row.responses[:1])[0]
        words = [len(response.split()) for response in row.responses]
        assert row.preferred["helpful"] == (None if gain == 0 else int(gain > 0))
        assert row.preferred["concise"] == (None if words[0] == words[1] else int(words[1] < words[0]))
    labels = [(a.preferred["helpful"], b.preferred["helpful"]) for a, b in zip(rows, exact, strict=True)]
    assert 0.85 < mean(noisy == true for noisy, true in labels if true is not None) < 1
    ratios = [conflict_statistics(rows, names[:n]).conflict_ratio for n in range(2, 6)]
    assert ratios == sorted(ratios) and ratios[0] > 0.2


def test_the_same_seed_gives_the_same_model_and_rows(prepared, tmp_path):
    again = prepare(H, 7, tmp_path, sft=TINY, pairs=240)
    assert again.folder.name == prepared.folder.name
    for name in ("model/model.safetensors", "model/tokenizer.json", "sft.jsonl", prepared.rows.name):
        assert (again.folder / name).read_bytes() == (prepared.folder / name).read_bytes(), name
    others = [prepare(H, 8, tmp_path, sft=TINY, pairs=20), prepare(G, 7, tmp_path, sft=TINY, pairs=20)]
    others.append(prepare(H, 7, tmp_path, sft=Sft(teach=("respond",), examples=300, batch_tokens=2048), pairs=20))
    assert len({each.folder for each in (again, *others)}) == 4


def test_objectives_that_collapse_at_the_usual_rate_have_their_own(prepared):
    assert load_config_of(prepared).align.lr == 1e-3
    rates = load_config_of(prepared, ["helpful", "concise"]).align.lr
    assert rates == {"helpful": 1e-3, "concise": 3e-4}


def test_a_second_call_makes_nothing_and_an_interrupted_one_leaves_nothing(prepared, monkeypatch):
    to = prepared.folder.parent
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*")}

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sipo.testbed.preparation.fine_tune", interrupted)
    monkeypatch.setattr("sipo.testbed.preparation.draw", interrupted)
    assert prepare(H, 7, to, sft=TINY, pairs=240) == prepared
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*")} == before
    for seed, number in ((7, 10), (9, 240)):
        with pytest.raises(KeyboardInterrupt):
            prepare(H, seed, to, sft=TINY, pairs=number)
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*")}.keys() == before.keys()


def test_the_command_prepares_and_its_file_says_what_settings_say(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sipo.cli.testbed, "prepare", partial(prepare, sft=TINY, pairs=30))
    monkeypatch.chdir(tmp_path)
    assert main(["testbed", "--environment", "F", "--seed", "3", "--to", "bed", "--only-prepare"]) == 0
    [file] = (tmp_path / "bed").glob("F-3-*/run.yaml")
    assert str(file.relative_to(tmp_path)) in capsys.readouterr().out
    prepared = prepare(F, 3, Path("bed"), sft=TINY, pairs=30)
    assert load_config(file.relative_to(tmp_path)) == parse_config(prepared.settings(), "settings")
    file.write_text("mine")
    assert main(["testbed", "--environment", "F", "--seed", "3", "--to", "bed", "--only-prepare"]) == 0
    assert file.read_text() == "mine"
    assert main(["testbed", "--environment", "K", "--only-prepare"]) == 2
    assert "`K` is none; they are H, G, F" in capsys.readouterr().err


class Letters(Environment):
    """Another language: a prompt asks for a length, a response has letters, a review and a rewrite add some."""

    name = "letters"
    vocabulary = ("one", "two", "three", "a", "b", "c", "more")
    max_prompt_words, max_response_words, max_review_words = 1, 6, 2
    objectives = tuple(
        Objective(name=name, better=f"It has many of {name}.", reward=f"{__name__}:count_{name}") for name in "abc"
    )

    def draw_prompt(self, rng: Random) -> str:
        return rng.choice(self.vocabulary[:3])

    def respond(self, prompt: str, rng: Random) -> str:
        return " ".join(rng.choices("abc", k=1 + self.vocabulary.index(prompt) + rng.randrange(2)))

    def review(self, prompt: str, response: str, rng: Random) -> str:
        return f"more {min('abc', key=response.count)}"

    def rewrite(self, prompt: str, response: str, review: str, rng: Random) -> str:
        return f"{response} {review.split()[1]}"


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("a")) for response in responses]


def count_b(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("b")) for response in responses]


def count_c(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("c")) for response in responses]


class ManyLetters(Letters):
    """Prompts of many words, so that there are enough different ones."""

    name = "many-letters"
    max_prompt_words = 6

    def draw_prompt(self, rng: Random) -> str:
        return " ".join(rng.choices(self.vocabulary[:3], k=6))

    def respond(self, prompt: str, rng: Random) -> str:
        return super().respond(prompt.split()[0], rng)


def test_an_environment_that_contradicts_itself_is_told_so(tmp_path):
    class Forgetful(Letters):
        name = "forgetful"
        vocabulary = ("one", "two", "three", "a", "b", "more")

    class Unjudged(Letters):
        objectives = (*Letters.objectives[:2], Objective(name="kind", better="It is kind."))

    for environment, sft, told in (
        (Forgetful(), TINY, "wrote 'c', which is not in its vocabulary"),
        (Unjudged(), TINY, "`kind` has no reward"),
        (Letters(), Sft(teach=("review",)), "it must have respond"),
    ):
        with pytest.raises(SipoError, match=told):
            prepare(environment, 1, tmp_path, sft=sft, pairs=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "objectives"), [(H, ["helpful", "harmless"]), (ManyLetters(), ["a", "b", "c"])]
)
def test_a_small_run(environment, objectives, tmp_path):
    settings = prepare(environment, 1, tmp_path, sft=TINY, pairs=240).settings(objectives)
    settings["data"] |= {"test": 0.2, "validation": 0.1, "train_rows": 60, "conflict_ratio": 0.7}
    settings["weights"] = {"divisions": 3}
    settings["sample"] |= {"prompts": 20, "per_weight": 2}
    settings["align"] |= {"lr": 1e-2, "epochs": 2}
    settings["evaluate"] |= {"prompts": 20, "bootstrap": 50}
    folder = run(parse_config(settings, "settings"), quiet=True)
    fronts = json.loads((folder / "compare" / "fronts.json").read_text())
    assert [each["name"] for each in fronts["objectives"]] == objectives
    for method in ("base", "soups", "mod", "sipo"):
        assert set(fronts["methods"][method]["points"][0]["rewards"]) == set(objectives)
    reviews = [json.loads(line)["review"] for line in (folder / "refine" / "refinements.jsonl").open()]
    assert reviews and (folder / "report" / "report.html").is_file()


def test_pairs_are_made_as_named():
    pair = make_pair("i17", risky=True, index=3, caveat=True)
    assert pair.risky and not pair.matches and isinstance(read(write([pair]))[0], Pair)
