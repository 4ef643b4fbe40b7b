"""Adapters of upper layers: what lies below them is computed once, and nothing else changes."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, tiny
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sipo.bank import Adapter, Bank, load_adapter, new_adapter, save_adapter, soup
from sipo.bank.adapter import decoder_of
from sipo.bank.kept import Kept
from sipo.bank.trunk import Sharing
from sipo.decoding import Request, at_mod, at_soup, base
from sipo.decoding.running import Answer, Running
from sipo.errors import SipoError
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import response_logprobs, score_rows
from sipo.models.load import Backbone
from sipo.settings import Decoding, Lora

CORNERS = ((1.0, 0.0), (0.0, 1.0))
STEM = (20, 21, 22, 23, 24)
GROUP = Group((*STEM, 30, 31), ((40, 41, 42), (50,), (51, 52, 53, 54)))
OTHER = Group((7, 8, 9), ((60, 61, 62, 63), (70,)))
ALONE = {"bloom"}
"""Families in which rows would be wrong if they shared a trunk, so none do."""


def bank_of(family: str) -> Bank:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    return Bank(Backbone(tiny(family), tokenizer, ""))


def upper(family: str, seed: int, layers: object = 1) -> Adapter:
    fresh, random = new_adapter(tiny(family), Lora(r=2, alpha=4.0, layers=layers), seed), torch.Generator()  # type: ignore[arg-type]
    random.manual_seed(seed)
    factors = {n: (a, 0.3 * torch.randn(b.shape, generator=random)) for n, (a, b) in fresh.factors.items()}
    return Adapter(factors, fresh.scaling)


def apart(bank: Bank) -> None:
    bank.routes = replace(bank.routes, shares=False)


def counted(bank: Bank) -> Iterator[list[int]]:
    """The rows that the lowest layer reads."""
    decoder = decoder_of(bank.model)
    assert decoder is not None
    rows: list[int] = []

    def note(_: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        rows.append(len(args[0] if args else kwargs["hidden_states"]))

    hook = decoder[1][0].register_forward_pre_hook(note, with_kwargs=True)
    yield rows
    hook.remove()


def texts(bank: Bank) -> list[list[int]]:
    """Greedy ones and drawn ones, of requests of which some come later, and of which some leave early."""
    w = (0.3, 0.7)
    mixtures = [at_mod(w), at_soup(w), at_mod((1.0, 0.0)), base(2), at_mod((0.6, 0.4))]
    prompts = [(*STEM, 30), (*STEM, 30), (*STEM, 31, 32), STEM[:3], (*STEM, 30)]
    how = [Decoding(temperature=0.0), Decoding(temperature=1.0)]
    answers = [
        Answer(Request(prompt, mixture, seed), how[seed % 2], 3 + 2 * seed)
        for seed, (prompt, mixture) in enumerate(zip(prompts, mixtures, strict=True))
    ]
    running = Running(bank, ())
    running.join(answers[:3])
    running.read()
    running.step()
    running.join(answers[3:])
    while running:
        running.read()
        running.step()
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_shared_trunk_gives_is_what_rows_of_their_own_give(family: str) -> None:
    bank, adapters = bank_of(family), [upper(family, 1), upper(family, 2)]
    rows = [(group, point) for group in (GROUP, OTHER, GROUP) for point in (*CORNERS, (0.5, 0.5), (0.0, 0.0))]
    mixtures = [at_mod((0.4, 0.6)), at_mod((1.0, 0.0))]
    found = []
    with bank.mounted(adapters):
        assert bank.routes.shares == (family not in ALONE)
        for own in (False, True):
            if own:
                apart(bank)
            found.append((score_rows(bank, rows), mixture_logprobs(bank, GROUP, mixtures), texts(bank)))
    (scores, mixed, written), (own_scores, own_mixed, own_written) = found
    assert written == own_written
    for one, other in ((scores, own_scores), (mixed, own_mixed)):
        for mine, its in zip(one, other, strict=True):
            assert mine == pytest.approx(its, abs=1e-3)


def test_below_the_adapters_a_row_stands_for_all_policies() -> None:
    bank = bank_of("llama")
    with bank.mounted([upper("llama", 1), upper("llama", 2)]):
        counting = counted(bank)
        rows = next(counting)
        score_rows(bank, [(group, point) for group in (GROUP, OTHER) for point in (*CORNERS, (0.0, 0.0))])
        mixture_logprobs(bank, GROUP, [at_mod((0.4, 0.6))])
        running = Running(bank, ())
        prompts = (*STEM, 30), (*STEM, 31)
        running.join(
            [Answer(Request(p, at_mod((0.5, 0.5)), 0), Decoding(temperature=0.0), 3) for p in (*prompts, prompts[0])]
        )
        while running:
            running.read()
            running.step()
        next(counting, None)
    assert rows == [2, 1, *[1, 2], *[3, 3]], "groups, a group, the common stem and both prompts, three texts twice"


def test_policies_with_another_trunk_take_a_batch_over() -> None:
    """Adapters come and go in a server; those of all layers share nothing, and give back what is shared."""
    wide, high = [upper("llama", seed, 0) for seed in (1, 2)], [upper("llama", seed) for seed in (3, 4)]
    written = []
    for own in (False, True):
        bank = bank_of("llama")
        first = [Answer(Request((*STEM, 30), at_mod((0.5, 0.5)), 0), Decoding(temperature=0.0), 9) for _ in range(2)]
        running = Running(bank, ())
        with bank.mounted(high):
            if own:
                apart(bank)
            running.join(first)
            running.read()
            running.step()
        with bank.mounted([*high, *wide]):
            running.respan((0, 1), 4)
            running.step()
            second = Answer(Request(STEM, at_mod((0.0, 0.0, 0.5, 0.5)), 0), Decoding(temperature=0.0), 4)
            running.join([second])
            running.read()
            second.left = True
            running.step()
        with bank.mounted(high):
            running.respan((0, 1), 2)
            while running:
                running.step()
        written.append([answer.tokens for answer in (*first, second)])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("layers", "lowest"), [("all", 0), (0, 0), ("upper", 1), (1, 1)], ids=["all", "from 0", "upper", "from 1"]
)
def test_layers_are_adapted_from_a_number_on(layers: object, lowest: int) -> None:
    names = upper("llama", 0, layers).layers
    assert min(int(name.split(".")[2]) for name in names) == lowest
    assert len(names) == 4 * (2 - lowest)


@pytest.mark.parametrize("layers", [2, 7])
def test_a_layer_that_is_not_there_is_refused(layers: int) -> None:
    with pytest.raises(SipoError, match=f"lora.layers: {layers}, but the model's highest layer is 1"):
        new_adapter(tiny("llama"), Lora(layers=layers), 0)


def test_its_folder_names_the_layers_to_peft(tmp_path: Path) -> None:
    adapter, model = upper("llama", 3), tiny("llama")
    save_adapter(adapter, tmp_path, "somewhere")
    assert all(
        "layers.1" in name for name in json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    )
    assert load_adapter(tmp_path, deepcopy(model)).identity == adapter.identity
    ids = torch.tensor([[*STEM]])
    expected = torch.func.functional_call(model, adapter.merged(model), (ids,)).logits
    theirs = PeftModel.from_pretrained(deepcopy(model), tmp_path)(input_ids=ids).logits
    assert torch.allclose(theirs, expected, atol=1e-5)


def test_sharing_follows_its_rows() -> None:
    sharing = Sharing.by("aabca")
    assert sharing is not None
    assert (sharing.of.tolist(), sharing.first.tolist()) == ([0, 0, 1, 2, 0], [0, 2, 3])
    assert Sharing.by("abc") is None
    kept, trunk = sharing.selected(torch.tensor([4, 1, 3]), None)
    assert kept is not None and (kept.of.tolist(), kept.first.tolist(), trunk.tolist()) == ([0, 0, 1], [0, 2], [0, 2])
    alone, trunk = sharing.selected(torch.tensor([4, 1, 3]), (1, 2, 3))
    assert alone is None and trunk.tolist() == [0, 0, 2]
    both = kept.beside(Sharing.none(2, torch.device("cpu")))
    assert (both.of.tolist(), both.first.tolist()) == ([0, 0, 1, 2, 3], [0, 2, 3, 4])


def test_adapters_of_different_layers_have_a_span() -> None:
    """What one of them changes, the other leaves as it is, side by side and in a soup."""
    bank, adapters, point = bank_of("llama"), [upper("llama", 1), upper("llama", 2, 0)], (0.3, 0.7)
    groups = [GROUP, OTHER]
    scored = []
    for mounted, points in (
        (adapters, (point, *CORNERS)),
        ([soup(adapters, point)], ((1.0,),)),
        *(([each], ((1.0,),)) for each in adapters),
    ):
        with bank.mounted(mounted):
            scored.append([score_rows(bank, [(group, at) for group in groups]) for at in points])
    (souped, first, second), *others = scored
    for mine, (its,) in zip((souped, first, second), others, strict=True):
        assert [value for row in mine for value in row] == pytest.approx([v for row in its for v in row], abs=1e-4)


@pytest.mark.parametrize(("family", "recomputes"), [*((each, False) for each in FAMILIES), ("llama", True)])
def test_training_on_what_is_kept_has_the_same_gradient(family: str, recomputes: bool) -> None:
    """Also where all of it was kept under another policy."""
    bank = Bank(bank_of(family).backbone, recomputes=recomputes)
    groups = [[GROUP, OTHER, GROUP], [OTHER], [GROUP, OTHER, GROUP]]
    gradients = []
    for keeps in (True, True, False):
        policy = upper(family, 1).trainable_copy(bank.device)
        with bank.mounted([policy]):
            assert bank.routes.keeps == (family not in ALONE)
            counting = counted(bank)
            rows = next(counting)
            for batch in groups:
                packed = pack(batch, packs=bank.routes.packs)
                points = torch.linspace(0.5, 1.5, len(batch))[:, None]
                if not keeps:
                    bank.routes = replace(bank.routes, keeps=False)
                response_logprobs(bank, packed, points, again=True).square().sum().backward()
            next(counting, None)
        gradients.append([parameter.grad for parameter in policy.parameters])
        if keeps and bank.routes.keeps and bank.routes.packs and not recomputes:
            assert rows == ([] if len(gradients) > 1 else [1, 1]), "each group once"
    for mine, again, its in zip(*gradients, strict=True):
        assert torch.equal(mine, again) and torch.allclose(mine, its, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_many_layers_are_left_out_where_all_is_kept(family: str) -> None:
    """Whether they give tensors or, as GPT-J's do, tuples."""
    named = {name: 6 for name in ("num_hidden_layers", "n_layer") if name in FAMILIES[family].settings}
    config = AutoConfig.for_model(FAMILIES[family].model_type, **{**FAMILIES[family].settings, **named})
    bank = Bank(replace(bank_of(family).backbone, model=AutoModelForCausalLM.from_config(config).eval()))
    policy, packed = new_adapter(bank.model, Lora(r=2, alpha=4.0, layers=5), 0), pack([GROUP, OTHER])
    scores = []
    for again in (False, True, True):
        with bank.mounted([policy]):
            assert bank.routes.keeps
            scores.append(response_logprobs(bank, packed, torch.ones(2, 1), again=again))
    assert torch.allclose(scores[0], scores[1], atol=1e-4) and torch.equal(scores[1], scores[2])


def test_states_beyond_the_limit_are_made_each_time_and_are_the_same() -> None:
    made: list[int] = []

    def make(value: int) -> Tensor:
        made.append(value)
        return torch.full((2, 4), float(value))

    kept = Kept(limit=2 * 32)
    for _ in range(2):
        for value in range(3):
            assert kept.states(value, lambda value=value: make(value)).eq(value).all()  # type: ignore[misc]
    assert made == [0, 1, 2, 2] and kept.bytes == 64 and len(kept) == 2
    kept.clear()
    assert kept.bytes == len(kept) == 0
