"""A whole small run, its tables held against what the models say when they are asked again."""

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from score_models import score_model
from transformers import AutoModelForCausalLM

from sipo.bank import save_adapter, soup
from sipo.config.file import parse_config
from sipo.declare.parts import CANDIDATES, LOGPROBS, POLICIES, REFINEMENTS, SAMPLES
from sipo.decoding import Request, at_mod, decode, seed_of
from sipo.disk.tables import read_json, read_records, write_records
from sipo.engines import batched
from sipo.errors import SipoError
from sipo.filters.paper import Implicit, Paper
from sipo.filters.random import Random
from sipo.graph.build import Graph
from sipo.logprobs.table import REFERENCE, LogprobTable, policy
from sipo.pareto.hypervolume import hypervolume
from sipo.progress import Progress
from sipo.records import Candidate, Refinement, Response, Sample
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.stages.filter import CHOSEN
from sipo.stages.filter import filter as filter_
from sipo.stages.realign import realign
from sipo.stages.sample import worked_rows
from sipo.stages.score import score
from sipo.task import Task
from sipo.training.loop import Example, Trainee, train_together

Tokens = tuple[int, ...]


def read_responses(run: Path) -> list[Response]:
    """Of all methods, in the order of the default ones."""
    return [
        each
        for name in ("base", "soups", "mod", "sipo")
        for each in read_records(run / "judged" / name / "responses.jsonl", Response)
    ]


class Finished:
    """A finished run, and its models loaded by PEFT alone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.config = parse_config(settings, "settings")
        self.path = run(self.config, quiet=True)
        self.task = Task(self.config, Progress(quiet=True))
        self.outputs = Outputs(self.path, self.config)
        self._models: dict[Path | None, Any] = {}

    def model(self, adapter: Path | None = None) -> Any:
        if adapter not in self._models:
            model = AutoModelForCausalLM.from_pretrained(self.config.model.path, dtype=torch.float32)
            self._models[adapter] = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()
        return self._models[adapter]

    def judge(self, name: str) -> Any:
        """The model that a judge's name stands for."""
        kind, _, which = name.partition(":")
        if kind == "policy":
            return self.model(self.path / "align" / "adapters" / which)
        if kind == "soup":
            folder = self.path.parent / name
            if not folder.exists():
                cooked = soup(self.outputs.read("align", POLICIES), [float(share) for share in which.split(",")])
                save_adapter(cooked, folder, self.config.model.path)
            return self.model(folder)
        return self.model()

    @torch.no_grad()
    def logprob(self, model: str, prompt: Tokens, response: Tokens) -> float:
        logits = self.judge(model)(input_ids=torch.tensor([[*prompt, *response]])).logits
        logprobs = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        return float(logprobs.gather(-1, torch.tensor(response)[:, None]).sum())

    def reward(self, judge: str, prompt: Tokens, response: Tokens) -> float:
        beta = self.config.filter.beta
        return beta * (self.logprob(judge, prompt, response) - self.logprob(REFERENCE, prompt, response))


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    settings = make_settings(tmp_path_factory.mktemp("stages"))
    settings["weights"] = {"divisions": 3}
    settings["sample"] = {"prompts": 8, "weights": {"divisions": 3}, "per_weight": 4}
    settings["filter"] = {"weights": {"divisions": 3}}
    settings["execution"]["decode_rows"] = 64
    return Finished(settings)


NUMBERS = {"rel": 1e-3, "abs": 1e-4}


def test_every_stage_is_there_and_nothing_else(finished: Finished) -> None:
    names = Graph(finished.config).names
    loop = ["align", "sample", "refine", "score", "filter", "realign"]
    answered = [f"{kind}/{name}" for kind in ("answers", "judged") for name in ("base", "soups", "mod", "sipo")]
    assert names == [*loop, *answered, "compare", "report"]
    assert all((finished.path / name / "stage.json").exists() for name in names)
    assert list((finished.path / ".partial").iterdir()) == []
    assert not list(finished.path.rglob(".journal")) and not list(finished.path.rglob("*.tmp"))
    kept = {f.name for f in finished.path.iterdir() if f.is_dir() and not f.name.startswith(".")}
    assert kept == {name.partition("/")[0] for name in names}


def test_references_are_the_base_s_log_probabilities(finished: Finished) -> None:
    task, known = finished.task, finished.outputs.read("align", LOGPROBS)
    rows = [*task.splits.train, *task.splits.validation]
    assert len(known) == len({(task.group(r).prompt, y) for r in rows for y in task.group(r).responses})
    for row in rows[:8]:
        group = task.group(row)
        expected = [finished.logprob(REFERENCE, group.prompt, response) for response in group.responses]
        assert known.of(group, [REFERENCE])[:, 0].tolist() == pytest.approx(expected, **NUMBERS)


def test_samples_cover_conflicting_prompts_at_weights_between_the_objectives(finished: Finished) -> None:
    task, samples = finished.task, finished.outputs.read("sample", SAMPLES)
    conflicts = {row.key for row in task.splits.train if len(set(row.preferred.values()) - {None}) > 1}
    assert len(conflicts) > 8, "the limit on prompts must matter here"
    prompts = {each.prompt for each in samples}
    assert len(prompts) == 8 and prompts < conflicts
    assert {tuple(each.weights.values()) for each in samples} == {(2 / 3, 1 / 3), (1 / 3, 2 / 3)}
    assert len({(s.prompt, tuple(s.weights.items()), s.index) for s in samples}) == len(samples) == 8 * 2 * 4


def test_samples_are_mod_s_answers(finished: Finished) -> None:
    task, config = finished.task, finished.config
    rows = {row.key: row for row in task.splits.train}
    with task.bank.mounted(finished.outputs.read("align", POLICIES)):
        for each in finished.outputs.read("sample", SAMPLES)[::5]:
            weight = tuple(each.weights.values())
            seed = seed_of(config.seed, "sample", each.prompt, weight, each.index)
            request = Request(task.prompt_tokens(rows[each.prompt]), at_mod(weight), seed)
            (alone,) = decode(task.bank, [request], config.decoding, 12, task.codec.stops)
            assert (alone.tokens, alone.finished) == (each.tokens, each.finished)
            assert each.response == task.codec.decode(alone.tokens)


def test_a_rewrite_stands_where_any_objective_finds_it_better(finished: Finished) -> None:
    task, refinements = finished.task, finished.outputs.read("refine", REFINEMENTS)
    samples = finished.outputs.read("sample", SAMPLES)
    rows = {row.key: row for row in task.splits.train}
    assert [(r.prompt, r.weights, r.index, r.sample) for r in refinements] == [
        (s.prompt, s.weights, s.index, s.response) for s in samples
    ]
    assert {each.kept for each in refinements} == {"rewrite", "sample"}, "both must happen here"
    for each in refinements:
        assert each.kept == ("rewrite" if each.rewrite and max(each.gains.values()) > 0 else "sample")
        assert each.review.startswith("The answer can be improved by:\n1.")
    for each, drawn in list(zip(refinements, samples, strict=True))[::4]:
        prompt = task.prompt_tokens(rows[each.prompt])
        for name, gain in each.gains.items():
            mine, before = (
                finished.reward(f"policy:{name}", prompt, tuple(y)) for y in (each.rewrite_tokens, drawn.tokens)
            )
            assert gain == pytest.approx(mine - before, **NUMBERS)


def test_the_filter_s_table_has_every_candidate(finished: Finished) -> None:
    task = finished.task
    rows, refinements = worked_rows(task), finished.outputs.read("refine", REFINEMENTS)
    expected: dict[str, set[Tokens]] = {}
    for row in rows:
        drawn = {
            tuple(s.tokens) for s in finished.outputs.read("sample", SAMPLES) if s.prompt == row.key and s.response
        }
        kept = {tuple(r.rewrite_tokens) for r in refinements if r.prompt == row.key and r.rewrite}
        expected[row.id] = drawn | kept
    found: dict[str, list[Tokens]] = {}
    for each in finished.outputs.read("filter", CANDIDATES):
        found.setdefault(each.row, []).append(tuple(each.tokens))
        assert each.length == len(each.tokens)
    assert {row: set(tokens) for row, tokens in found.items()} == expected
    assert all(len(tokens) == len(set(tokens)) for tokens in found.values())


def test_the_filter_s_scores_are_those_of_the_models_alone(finished: Finished) -> None:
    rows = {row.id: row for row in finished.task.splits.train}
    judges = ["policy:detail", "policy:brevity", "soup:0.666667,0.333333", "soup:0.333333,0.666667"]
    for each in finished.outputs.read("filter", CANDIDATES)[::9]:
        group = finished.task.group(rows[each.row])
        assert list(each.rewards) == list(each.originals) == judges
        for judge in judges:
            assert each.rewards[judge] == pytest.approx(
                finished.reward(judge, group.prompt, tuple(each.tokens)), **NUMBERS
            )
            originals = [finished.reward(judge, group.prompt, response) for response in group.responses]
            assert each.originals[judge] == pytest.approx(originals, **NUMBERS)


def test_what_was_chosen_dominates_and_what_fell_does_not(finished: Finished) -> None:
    by_row: dict[str, list[Candidate]] = {}
    for each in finished.outputs.read("filter", CANDIDATES):
        by_row.setdefault(each.row, []).append(each)
        against = [
            f"no better than response_{o} for {judge}"
            for o in (0, 1)
            for judge in each.rewards
            if each.rewards[judge] <= each.originals[judge][o]
        ]
        assert each.reasons == against
        assert each.mean_reward == pytest.approx(np.mean(list(each.rewards.values())))
    yields = 0
    for candidates in by_row.values():
        dominating = [each for each in candidates if not each.reasons]
        chosen = [each for each in candidates if each.fate == CHOSEN]
        yields += len(chosen)
        assert len(chosen) == min(len(dominating), 1)
        if chosen:
            assert chosen[0].mean_reward == max(each.mean_reward for each in dominating)
        for each in candidates:
            if each.reasons:
                assert each.fate == each.reasons[0]
            elif each not in chosen:
                assert each.fate == "dominates, but another has a larger mean reward"
    assert 0 < yields < len(by_row), "some rows must yield one and some none"


def test_a_margin_is_in_units_of_the_noise_and_lets_more_rows_stay_for_every_rule_that_counts_them(
    finished: Finished, tmp_path: Path
) -> None:
    read, generator = finished.outputs.read, np.random.default_rng(0)
    inputs = {"samples": read("sample", SAMPLES), "refinements": read("refine", REFINEMENTS)}

    def settings(rule: type[Implicit], margin: float = 0) -> Implicit:
        return rule(rule=rule.__name__.lower(), margin=margin, weights=finished.config.filter.weights)

    def filtered(known: LogprobTable, settings: Implicit) -> tuple[list[Candidate], dict[str, Any]]:
        config = finished.config.model_copy(update={"filter": settings})
        candidates = filter_(Task(config, Progress(quiet=True)), known=known, folder=tmp_path, **inputs)
        return candidates, read_json(tmp_path / "filter.json")

    known = deepcopy(read("score", LOGPROBS))
    strict, about = filtered(known, settings(Paper))
    assert strict == read("filter", CANDIDATES) and about["margins"] is None
    for row in finished.task.splits.validation:  # that tell the labels no better than chance
        for name in finished.task.objectives:
            known.put(policy(name), finished.task.group(row), generator.normal(-20, 2, size=2).tolist())
    kept = []
    for margin in (0.5, 2.0, 1e6):
        candidates, about = filtered(known, settings(Paper, margin=margin))
        soup, policies = about["margins"]["soup:0.666667,0.333333"], ("policy:detail", "policy:brevity")
        detail, brevity = (about["margins"][name] for name in policies)
        assert min(detail, brevity) > 0 and soup == pytest.approx((2 * detail + brevity) / 3)
        for each in candidates[::5]:
            gains = {name: [each.rewards[name] - theirs for theirs in each.originals[name]] for name in each.rewards}
            worse = [
                f"worse than response_{o} for {name}"
                for o in (0, 1)
                for name in gains
                if gains[name][o] < -about["margins"][name]
            ]
            assert [reason for reason in each.reasons if "worse" in reason] == worse
        kept.append({each.row for each in candidates if each.fate == CHOSEN})
        assert filtered(known, settings(Random, margin=margin))[1]["chosen"] == about["chosen"] == len(kept[-1])
    assert {each.row for each in strict if each.fate == CHOSEN} <= kept[0] <= kept[1] <= kept[2]
    assert about["chosen"] > sum(each.fate == CHOSEN for each in strict)


def test_judges_on_features_that_need_no_policies_are_chosen_by_held_out_labels(
    finished: Finished, tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "rewards").mkdir()
    score_model(tmp_path / "rewards", model_folder, bias=False, kind="reward", normalised=False)
    asked = {"reward_model": str(tmp_path / "rewards"), "reward_format": "{prompt} {response}"}
    keys = {"features": "auto", **asked, "components": 3, "keep": 1}
    config = parse_config({**finished.config.model_dump(mode="json"), "filter": {"rule": "calibrated", **keys}}, "auto")
    graph, read = Graph(config), finished.outputs.read
    stage = graph["filter"]
    assert "calibrate" not in graph and stage.inputs["labelled"] == graph.align[LOGPROBS]
    task = Task(config, Progress(quiet=True))
    candidates = filter_(
        task.of(stage), read("sample", SAMPLES), read("score", LOGPROBS), tmp_path,
        refinements=read("refine", REFINEMENTS), labelled=read("align", LOGPROBS),
    )  # fmt: skip
    judge, chosen = read_json(tmp_path / "filter.json")["judge"], [c for c in candidates if c.fate == CHOSEN]
    alone = ["embedding", "length", "reference-per-token", "reward", "surface"]
    widths = {"embedding": 3, "length": 1, "reference-per-token": 1, "reward": 1, "surface": 6}
    for name, tried in judge["tried"].items():
        assert sorted(each["features"][0] for each in tried[:-1]) == alone and sorted(tried[-1]["features"]) == alone
        assert all(each["numbers"] == sum(widths[feature] for feature in each["features"]) for each in tried)
        (taken,) = (each for each in tried if each["taken"])
        assert judge["accuracy"][name] == taken["accuracy"] and set(taken["features"]) <= set(judge["features"])
        best = max(tried, key=lambda each: each["accuracy"])
        assert taken["accuracy"] >= best["accuracy"] - best["error"]
    assert len(chosen) == len({each.row for each in candidates})
    for each in candidates:
        assert set(each.rewards) == {"judge:detail", "judge:brevity"}


def test_an_original_is_never_chosen(finished: Finished, tmp_path: Path) -> None:
    task = finished.task
    originals = [
        Sample(
            row.key,
            {"detail": 0.5, "brevity": 0.5},
            i,
            row.responses[i],
            task.group(row).responses[i],
            True,
        )
        for row in worked_rows(task)
        for i in (0, 1)
    ]
    known = finished.outputs.read("align", LOGPROBS)
    known = score(task, finished.outputs.read("align", POLICIES), originals, known, tmp_path)
    candidates = filter_(task, originals, known, tmp_path)
    assert len(candidates) == len(originals)
    assert not any(each.fate == CHOSEN for each in candidates)
    for each in candidates:
        assert {f"no better than response_{each.index} for {judge}" for judge in each.rewards} <= set(each.reasons)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Example]]:
    """The examples of every training that realignment starts."""
    seen: list[Sequence[Example]] = []

    def recorded(bank: Any, trainees: Sequence[Trainee], **options: Any) -> Any:
        seen.extend(each.examples.train for each in trainees)
        return train_together(bank, trainees, **options)

    monkeypatch.setattr("sipo.training.policies.train_together", recorded)
    return seen


def test_realignment_asks_no_reference_of_any_model(
    finished: Finished, trainings: list[Sequence[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its references are the filter's numbers, and equal what the frozen policies say live."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a reference pass")

    monkeypatch.setattr(batched, "score_rows", refuse)
    task, outputs = finished.task, finished.outputs
    candidates, policies = outputs.read("filter", CANDIDATES), outputs.read("align", POLICIES)
    again = realign(task, policies, candidates, outputs.read("score", LOGPROBS), tmp_path)
    assert [each.identity for each in again] == [each.identity for each in outputs.read("realign", POLICIES)]
    assert all(a.identity != b.identity for a, b in zip(again, policies, strict=True))

    chosen = {each.row: tuple(each.tokens) for each in candidates if each.fate == CHOSEN}
    rows = [row for row in task.splits.train if row.id in chosen]
    for objective, examples in zip(task.objectives, trainings, strict=True):
        assert len(examples) == len(rows) > 0
        for example, row in zip(examples, rows, strict=True):
            group = task.group(row)
            assert example.group.prompt == group.prompt
            assert example.group.responses == (chosen[row.id], *group.responses)
            assert example.pairs == ((0, 1, 1.0), (0, 2, 1.0)) and example.nll
            live = [finished.logprob(f"policy:{objective}", group.prompt, y) for y in example.group.responses]
            assert example.reference == pytest.approx(live, **NUMBERS)


def test_without_a_pareto_optimal_response_the_policies_stay(finished: Finished, tmp_path: Path) -> None:
    outputs = finished.outputs
    fallen = [each for each in outputs.read("filter", CANDIDATES) if each.fate != CHOSEN]
    policies = outputs.read("align", POLICIES)
    task = Task(finished.config, Progress())
    again = realign(task, policies, fallen, outputs.read("score", LOGPROBS), tmp_path)
    assert [each.identity for each in again] == [each.identity for each in policies]


def check_fronts(path: Path, objectives: dict[str, str], points: dict[str, int]) -> None:
    """fronts.json as it is promised, and its numbers from the responses."""
    fronts = read_json(path / "compare" / "fronts.json")
    responses = read_responses(path)
    assert fronts["objectives"] == [{"name": n, "direction": d} for n, d in objectives.items()]
    assert list(fronts["reference_point"]) == list(objectives)
    reference = np.array(list(fronts["reference_point"].values()))
    assert {name: len(front["points"]) for name, front in fronts["methods"].items()} == points
    for name, front in fronts["methods"].items():
        assert {"points", "hypervolume", "utility", "additive_epsilon", "igd_plus", "ranges"} <= set(front)
        for at, point in enumerate(front["points"]):
            assert set(point) == {"weights", "rewards", "interval", "length"}
            draw = at if point["weights"] is None else 0
            mine = [r for r in responses if (r.method, r.weights, r.draw) == (name, point["weights"], draw)]
            assert len(mine) == fronts["prompts"]
            assert point["length"] == pytest.approx(np.mean([r.length for r in mine]))
            for objective in objectives:
                assert point["rewards"][objective] == pytest.approx(np.mean([r.rewards[objective] for r in mine]))
                low, high = point["interval"][objective]
                assert low <= point["rewards"][objective] <= high
        vectors = np.array([list(point["rewards"].values()) for point in front["points"]])
        maximise = [direction == "maximize" for direction in objectives.values()]
        assert front["hypervolume"] == pytest.approx(hypervolume(vectors, reference, maximise))
        low, high = front["hypervolume_interval"]
        assert 0 <= low <= high


def test_fronts(finished: Finished) -> None:
    directions = {"detail": "maximize", "brevity": "minimize"}
    check_fronts(finished.path, directions, {"base": 4, "soups": 4, "mod": 4, "sipo": 4})
    responses = read_responses(finished.path)
    assert {r.prompt for r in responses} == {row.key for row in finished.task.splits.test}
    assert all(r.rewards == dict.fromkeys(directions, r.rewards["detail"]) for r in responses), "both count words here"


def test_at_the_corners_soups_and_mod_are_the_policies(finished: Finished) -> None:
    """One-hot: the same model, the same decoding, the same noise, so the same words."""
    responses = read_responses(finished.path)
    corner = {"detail": 1.0, "brevity": 0.0}
    texts = {
        method: [(r.prompt, r.response) for r in responses if r.method == method and r.weights == corner]
        for method in ("soups", "mod", "sipo")
    }
    assert texts["soups"] == texts["mod"] and len(texts["mod"]) == len(finished.task.splits.test)
    assert texts["sipo"] != texts["mod"]


def test_three_objectives_run_end_to_end(make_settings: Callable[[Path], dict], tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings["objectives"].append(
        {"name": "tone", "better": "It is kinder.", "reward": "sipo.rewards.text:distinct_words"}
    )
    settings["sample"] = {"prompts": 16, "weights": {"divisions": 2}, "per_weight": 4}
    settings["filter"] = {"weights": {"divisions": 2}}
    settings["align"]["batch_size"] = 4
    settings["execution"]["decode_rows"] = 64
    finished = Finished(settings)
    directions = {"detail": "maximize", "brevity": "minimize", "tone": "maximize"}
    check_fronts(finished.path, directions, {"base": 6, "soups": 6, "mod": 6, "sipo": 6})
    assert len({tuple(s.weights.items()) for s in finished.outputs.read("sample", SAMPLES)}) == 3
    assert {tuple(c.rewards) for c in finished.outputs.read("filter", CANDIDATES)} == {
        (
            "policy:detail",
            "policy:brevity",
            "policy:tone",
            "soup:0.5,0.5,0",
            "soup:0.5,0,0.5",
            "soup:0,0.5,0.5",
        )
    }
    # A tie trains no policy, and takes no part in a conflict.
    tied = [row for row in finished.task.splits.train if row.preferred["tone"] is None]
    assert tied and all(row.conflicting(finished.task.objectives) == (row.preferred["brevity"] == 0) for row in tied)
    training = [json.loads(line) for line in (finished.path / "align" / "training.jsonl").read_text().splitlines()]
    rows = finished.task.splits.train
    for name in directions:
        labelled = sum(row.preferred[name] is not None for row in rows)
        assert (labelled < len(rows)) == (name == "tone")
        assert max(r["step"] for r in training if r["objective"] == name) == 2 * math.ceil(labelled / 4)


def test_without_sipo_only_what_its_rivals_need_is_run(make_settings: Callable[[Path], dict], tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings["methods"] = ["base", "mod"]
    path = run(parse_config(settings, "settings"), quiet=True)
    assert {f.name for f in path.iterdir() if f.is_dir()} == {
        ".partial",
        "align",
        "answers",
        "judged",
        "compare",
        "report",
    }
    assert list(read_json(path / "compare" / "fronts.json")["methods"]) == ["base", "mod"]


def test_sampling_without_conflicts_says_so(make_settings: Callable[[Path], dict], tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    corners = {**settings, "sample": {"weights": {"grid": [{"detail": 1.0}, {"brevity": 1.0}]}}}
    with pytest.raises(SipoError, match="none lies between the objectives"):
        run(parse_config(corners, "settings"), quiet=True)
    rows = [json.loads(line) for line in Path(settings["data"]["path"]).read_text().splitlines()]
    for row in rows:
        row["preferred"] = dict.fromkeys(row["preferred"], 1)
    Path(settings["data"]["path"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SipoError, match="no two objectives conflict"):
        run(parse_config(settings, "settings"), quiet=True)
    assert not Path(settings["run_dir"]).exists(), "nothing is half-written"


def test_tables_keep_every_character(tmp_path: Path) -> None:
    """A model writes any Unicode, line separators included; one record stays one line."""
    text = "a\x85b\u2028c\u2029d\x1ce\r\nf\x00\U0001f600"
    records = [Refinement(text, {"x": 1.0}, 0, text, text, text, (1,), True, {"x": -0.1}, "sample")] * 2
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl", Refinement) == records
