"""The configuration: what is written comes back, every key does something, and does it to the right stages."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from stage_keys import stage_keys, stage_names

from sipo.config import Config
from sipo.config.file import dump_config, load_config, parse_config
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.key import subject_of
from sipo.settings.explain import rules_of
from sipo.settings.training import TRIED
from sipo.task import Task

BY_WEIGHT = ["lw", "modpo", "raco", "consensus"]
METHODS = ["base", "prompting", "best-of-n", "mod-alpha", *BY_WEIGHT, "sipo"]
ANSWERS = [f"answers/{name}" for name in METHODS]
JUDGED = [f"judged/{name}" for name in METHODS]
LOOP = ["sample", "refine", "score", "filter", "realign"]
ALL = ["sft", "align", *BY_WEIGHT, "calibrate", *LOOP, *ANSWERS, *JUDGED, "compare", "report"]
ROWS = [name for name in ALL if name != "compare"]
ALIGNED = ["align", *BY_WEIGHT, "calibrate"]
WEIGHED = [*BY_WEIGHT, *ANSWERS, "compare", "report"]
DRAWN = ["sample", "refine", *ANSWERS, "report"]
WORKED = ["sample", "score", "filter", "report"]
REFINE = ["refine"]
FILTER = ["filter"]
REALIGN = ["realign"]
REPORT = ["report"]
NONE: list[str] = []

# For every key: another value, and the stages that read it. These and all that is made from them are made anew.
TURNED: dict[str, tuple[Any, list[str]]] = {
    "seed": (77, ALL),
    "run_dir": ("elsewhere", NONE),
    "model.path": ("owner/other", ALL),
    "model.revision": ("v2", ALL),
    "model.dtype": ("float16", ALL),
    "model.quantise": ("4bit", ALL),
    "model.prompt_template": ("Q: {prompt} A:", ALL),
    "model.trust_remote_code": (True, ALL),
    "model.end_tokens": (["<|im_end|>"], ALL),
    "model.thinking": (True, ALL),
    "data.path": ("copy/rows.jsonl", NONE),  # the rows count, not where they are
    "data.source.name": ("owner/other", NONE),  # nor what they were made from
    "data.source.format": ("trl", NONE),
    "data.source.objectives": (["detail", "brevity"], NONE),
    "data.source.map": ({"prompt": "question"}, NONE),
    "data.source.minimize": (["brevity"], NONE),
    "data.source.drop_ties": ("all", NONE),
    "data.source.max_tokens": (99, NONE),
    "data.source.tokenizer": ("owner/other", NONE),
    "data.source.seed": (77, NONE),
    "data.validation": (0.3, ROWS),
    "data.test": (0.3, ROWS),
    "data.max_prompt_tokens": (99, ROWS),
    "data.max_response_tokens": (9, ROWS),
    "objectives.0.name": ("tone", ALL),
    "objectives.0.better": ("It says much more.", ["refine", "answers/prompting", "report"]),
    "objectives.0.reward": ("sipo.rewards.text:distinct_words", [*JUDGED, "report"]),
    "objectives.0.direction": ("minimize", [*JUDGED, "compare", "report"]),
    "weights.divisions": (3, WEIGHED),
    "weights.at_most": (2, WEIGHED),
    "weights.grid": ([{"detail": 0.5, "brevity": 0.5}], WEIGHED),
    "sft.enabled": (False, ALL),
    "sft.lora.r": (3, ["sft"]),
    "sft.lora.alpha": (3.0, ["sft"]),
    "sft.lora.target_modules": (["q_proj"], ["sft"]),
    "sft.lora.layers": (1, ["sft"]),
    "sft.lr": (1e-3, ["sft"]),
    "sft.epochs": (5, ["sft"]),
    "sft.batch_size": (3, ["sft"]),
    "sft.accumulate": (3, ["sft"]),
    "sft.max_tokens": (999, ["sft"]),
    "sft.warmup": (0.2, ["sft"]),
    "sft.weight_decay": (0.0, ["sft"]),
    "policies": ("full", [*ALIGNED, "realign", "report"]),
    "lora.r": (3, [*ALIGNED, "realign", "report"]),
    "lora.alpha": (3.0, [*ALIGNED, "realign", "report"]),
    "lora.layers": ("upper", [*ALIGNED, "realign", "report"]),
    "lora.target_modules": (["q_proj"], [*ALIGNED, "realign", "report"]),
    "decoding.temperature": (0.5, DRAWN),
    "decoding.top_k": (5, DRAWN),
    "decoding.top_p": (0.5, DRAWN),
    "align.beta": (0.2, ALIGNED),
    "align.lr": ({"detail": 1e-3, "brevity": 1e-4}, ALIGNED),
    "align.strengths": ([1.0, 3.0], ["align"]),
    "align.trial_prompts": (3, [f"trials/align/{each}/answers" for each in ("x0_2", "x1", "x5")]),
    "align.epochs": (5, ALIGNED),
    "align.batch_size": (3, ALIGNED),
    "align.warmup": (0.2, ALIGNED),
    "align.weight_decay": (0.0, ALIGNED),
    "align.max_grad_norm": (2.0, ALIGNED),
    "align.checkpoint": ("best", ALIGNED),
    "rounds": (2, ["answers/sipo"]),
    "sample.prompts": (3, WORKED),
    "sample.weights.divisions": (3, ["sample"]),
    "sample.weights.at_most": (2, ["sample"]),
    "sample.weights.grid": ([{"detail": 0.5, "brevity": 0.5}], ["sample"]),
    "sample.per_weight": (3, ["sample"]),
    "refine.reviewer": ({"detail": 1.0}, REFINE),
    "refine.review_tokens": (3, REFINE),
    "refine.review_template": ("template.yaml", REFINE),
    "refine.rewrite_template": ("template.yaml", REFINE),
    "filter.beta": (0.2, FILTER),
    "realign.beta": (0.2, REALIGN),
    "realign.lr": (1e-5, REALIGN),
    "realign.strengths": ([0.3, 1.0], REALIGN),
    "realign.trial_prompts": (3, [f"trials/realign/{each}/answers" for each in ("x0", "x0_1", "x0_3", "x1", "x3")]),
    "realign.keep_range": (0.2, REALIGN),
    "realign.epochs": (5, REALIGN),
    "realign.batch_size": (3, REALIGN),
    "realign.warmup": (0.2, REALIGN),
    "realign.weight_decay": (0.0, REALIGN),
    "realign.max_grad_norm": (2.0, REALIGN),
    "realign.alpha": (0.2, REALIGN),
    "methods": (["mod-alpha", "sipo"], ["compare"]),
    "mod.alpha": (0.3, ["answers/mod-alpha"]),
    "best_of_n.n": (3, ["answers/best-of-n"]),
    "best_of_n.of": ("soups", ["answers/best-of-n"]),
    "best_of_n.temperature": (0.7, ["answers/best-of-n"]),
    "modpo.objective": ("brevity", ["modpo"]),
    "raco.rule": ("mgda", ["raco"]),
    "raco.c": (0.2, ["raco"]),
    "sample.rows": ("all", WORKED),
    "refine.enabled": (False, ["refine", "score", "filter", "report"]),
    "filter.rule": ("rewards", ["calibrate", "filter"]),
    "filter.pool": ("kept", FILTER),
    "filter.judges": (["policies"], ["score", "filter"]),
    "filter.weights.divisions": (3, ["score", "filter"]),
    "filter.weights.at_most": (2, ["score", "filter"]),
    "filter.weights.grid": ([{"detail": 0.75, "brevity": 0.25}], ["score", "filter"]),
    "filter.reference": (False, FILTER),
    "filter.per_token": (True, FILTER),
    "filter.margin": (1.64, FILTER),
    "filter.features": (["logratios"], FILTER),
    "filter.tries": (["surface"], FILTER),
    "filter.components": (3, FILTER),
    "filter.reward_model": ("owner/rewards", FILTER),
    "filter.reward_format": ("pair", FILTER),
    "filter.ridge": (2.0, FILTER),
    "filter.folds": (3, ["calibrate", "filter"]),
    "filter.keep": (0.5, FILTER),
    "realign.pairs": ("chosen-preferred", REALIGN),
    "realign.start": ("merged", REALIGN),
    "realign.rows": (3, ["realign", "report"]),
    "data.train_rows": (9, ROWS),
    "data.conflict_ratio": (0.5, ROWS),
    "evaluate.prompts": (3, ANSWERS),
    "evaluate.per_prompt": (3, ANSWERS),
    "evaluate.validation_prompts": (3, ["trials/mixing/sipo", "trials/mixing/sipo-soups"]),
    "evaluate.reference_point": ({"detail": 0.0, "brevity": 9.0}, ["compare"]),
    "evaluate.labels": (True, ["compare"]),
    "evaluate.bootstrap": (9, ["compare"]),
    "report.cases": (3, REPORT),
    "report.title": ("A title", REPORT),
    "execution.device": ("cuda", NONE),
    "execution.engine": ("vllm", NONE),
    "execution.workers": (3, NONE),
    "execution.ray.address": ("127.0.0.1:6379", NONE),
    "execution.ray.engine": ("vllm", NONE),
    "execution.ray.actors": (3, NONE),
    "execution.ray.num_cpus": (3.0, NONE),
    "execution.ray.num_gpus": (1.0, NONE),
    "execution.decode_rows": (3, NONE),
    "execution.score_tokens": (30, NONE),
    "execution.train_tokens": (30, NONE),
    "execution.gradient_checkpointing": (True, NONE),
    "execution.train_together": (1, NONE),
    "execution.checkpoint_seconds": (3.0, NONE),
    "execution.report_to": (("tensorboard",), NONE),
}

PAPER_ALONE = tuple(f"filter.{key}" for key in ("beta", "judges", "weights", "reference", "per_token", "margin"))
"""Keys of the filter that the rule of `values` does not read."""


def leaves(section: type[BaseModel], place: str = "") -> Iterator[str]:
    """Every key that a user can write, with `0` for the first of a list of sections."""
    for name, field in section.model_fields.items():
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if rules := rules_of(field):
            yield from dict.fromkeys(key for each in rules.values() for key in leaves(each, f"{place}{name}."))
            continue
        if inner is None or str in candidates:  # a text is short for a section
            yield place + name
        else:
            several = inner is not field.annotation and type(None) not in candidates
            yield from leaves(inner, f"{place}{name}.0." if several else f"{place}{name}.")


@pytest.fixture
def values(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A configuration over a hub model, which is named and never loaded, with every path at its place."""
    rows = Path(settings["data"]["path"]).read_text()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "rows.jsonl").write_text(rows)
    (tmp_path / "template.yaml").write_text("- {role: user, content: 'Better: {{ response }}'}\n")
    return {
        **settings,
        "data": {**settings["data"], "source": {"name": "owner/rows", "tokenizer": "owner/name"}},
        "model": {"path": "owner/name", "dtype": "float32"},
        "methods": METHODS,
        "filter": {"rule": "calibrated"},
        "sft": {"lora": {"r": 4}},
    }


def turn(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *sections, last = key.split(".")
    target: Any = changed
    for section in sections:
        target = target[int(section)] if section.isdigit() else target.setdefault(section, {})
    target[last] = value
    return changed


def every_key(config: Config) -> dict[str, str]:
    return stage_keys(config, subject_of(Task(config)))


def test_no_key_is_without_a_test() -> None:
    assert sorted(TURNED) == sorted(leaves(Config))


@pytest.mark.parametrize("key", list(leaves(Config)))
def test_a_key_changes_the_configuration_and_the_stages_that_depend_on_it(
    key: str, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value, expected = TURNED[key]
    values = turn(values, "filter.rule", "paper") if key.startswith(PAPER_ALONE) else values
    values = turn(values, "filter.features", "auto") if key in ("filter.tries", "filter.reward_model") else values
    section, _, last = key.partition(".")
    values = turn(values, f"{section}.lr", "auto") if last in TRIED else values
    if key == "evaluate.validation_prompts":
        values = turn(values, "methods", [*METHODS, "sipo-soups"])
    if key == "policies":
        values.pop("lora")
    before, after = parse_config(values, "before"), parse_config(turn(values, key, value), "after")
    assert dump_config(after) != dump_config(before)
    old, new, graph = every_key(before), every_key(after), Graph(before)
    made = set(graph.after(*expected))
    changed = {stage for stage in old if stage in new and old[stage] != new[stage]}
    assert changed == made & new.keys()


def test_without_sipo_its_own_stages_are_left_out(values: dict[str, Any]) -> None:
    config = parse_config(turn(values, "methods", ["base", "mod"]), "settings")
    assert stage_names(config) == [
        "sft",
        "align",
        "answers/base",
        "answers/mod",
        "judged/base",
        "judged/mod",
        "compare",
        "report",
    ]


def test_a_template_counts_by_its_content(values: dict[str, Any], tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    config = parse_config(turn(values, "refine.review_template", str(template)), "settings")
    before = every_key(config)
    template.write_text(template.read_text() + "\n# another\n")
    after = every_key(config)
    assert [stage for stage in ALL if before[stage] != after[stage]] == Graph(config).after("refine")


def test_one_template_in_either_place_is_two_runs(values: dict[str, Any], tmp_path: Path) -> None:
    template = str(tmp_path / "template.yaml")
    reviewing, rewriting = (
        every_key(parse_config(turn(values, f"refine.{kind}_template", template), "settings"))
        for kind in ("review", "rewrite")
    )
    assert reviewing["refine"] != rewriting["refine"]


def test_a_dumped_configuration_is_read_back_equal(values: dict[str, Any], tmp_path: Path) -> None:
    values = turn(values, "weights.grid", [{"detail": 0.5, "brevity": 0.5}])
    values = turn(values, "refine.review_template", str(tmp_path / "template.yaml"))
    config = parse_config(values, "settings")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_relative_paths_are_the_file_s_and_survive_the_run_s_own_copy(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = tmp_path / "configs", tmp_path / "runs" / "deep" / "down"
    folder.mkdir()
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    source = {"name": "../pairs", "tokenizer": "../pairs"}
    values = {
        **values,
        "data": {"path": "../rows.jsonl", "source": source},
        "refine": {"review_template": "../template.yaml"},
    }
    del values["run_dir"]
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    config = load_config("configs/mine.yaml")
    assert config.data.path == tmp_path / "rows.jsonl"
    assert config.data.source is not None
    assert config.data.source.name == config.data.source.tokenizer == str(tmp_path / "pairs")
    assert config.refine.review_template == tmp_path / "template.yaml"
    assert config.model.path == "owner/name"
    assert config.run_dir == Path("runs/mine")
    (run / "config.yaml").write_text(dump_config(config))
    monkeypatch.chdir(folder)
    assert load_config(run / "config.yaml") == config


def test_overrides_lie_over_the_file_and_their_paths_are_the_working_directory_s(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "configs" / "run.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    config = load_config(path, ["align.lr=1e-4", "methods=[mod]", "data.path=copy/rows.jsonl"])
    assert config.align.lr == 1e-4
    assert config.methods == ("mod",)
    assert config.data.path == tmp_path / "copy" / "rows.jsonl"
    assert config.align.epochs == values["align"]["epochs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algin": {}}, "unknown key `algin`, did you mean `align`?"),
        ({"align": {"betta": 1}}, "unknown key `betta` in `align`, did you mean `beta`?"),
        ({"weights": {"zzz": 1}}, "unknown key `zzz` in `weights`, the keys here are divisions, at_most, grid"),
        ({"model": {}}, "`model.path` is missing; add it"),
        ({"seed": "many"}, "`seed` is 'many'; write a whole number"),
        ({"align": {"lr": {"speed": 1.0}}}, "align.lr: `speed` is no objective; they are detail, brevity"),
        ({"data": {"path": "x", "validation": 0.5, "test": 0.5}}, "`data`: validation + test must leave rows"),
        ({"data": {}}, "`data.path`: is missing; add it, or data.source, which rows are made from"),
        ({"data": {"source": []}}, "`data.source`: write a data set, hub id, file or folder, or a mapping"),
        ({"data": {"source": {}}}, "`data.source.name` is missing; add it"),
        ({"data": {"source": {"name": "x", "ties": "any"}}}, "unknown key `ties` in `data.source`"),
        ({"data": {"source": {"name": "x", "drop_ties": "one"}}}, "`data.source.drop_ties` is 'one'; write any or all"),
        ({"data": {"source": {"name": "x", "format": "tlr"}}}, "`data.source.format`: tlr: no such format; did you"),
        ({"data": {"source": {"name": "x", "max_tokens": 9}}}, "`data.source`: max_tokens needs a tokenizer"),
        ({"data": {"source": "x", "path": "mine.jsonl"}}, "`data`: path, with source, is a file rows.jsonl"),
        ({"data": {"source": "x", "path": 5}}, "`data.path` is 5; write a path"),
        ({"data": {"source": "x", "path": "x/rows.jsonl"}}, "in a folder of its own, outside of the source"),
        ({"data": {"source": ""}}, "`data.source` is empty; write a text that is not empty"),
        ({"methods": []}, "`methods` is empty; write at least 1"),
        ({"methods": ["sippo"]}, "`sippo` is no method; did you mean `sipo`?"),
        ({"modpo": {"objective": "speed"}}, "modpo.objective: `speed` is none; they are detail, brevity"),
        ({"weights": {"grid": []}}, "`weights.grid`"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(values: dict[str, Any], changes: Any, message: str) -> None:
    with pytest.raises(SipoError) as caught:
        parse_config({**values, **changes}, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)


def test_an_unknown_key_of_an_objective_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(SipoError, match=r"unknown key `beter` in `objectives\.0`, did you mean `better`\?"):
        parse_config(turn(values, "objectives.0.beter", "more"), "run.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [("align.lr", "expected key=value"), ("seed.x=1", "`seed` holds no keys"), ("seed=[1", "is not YAML")],
)
def test_a_bad_override_is_named(values: dict[str, Any], override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**values, "seed": 0}))
    with pytest.raises(SipoError, match="--set") as caught:
        load_config(path, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("lora.r", 8, "lora: .*is not read; leave it out"),
        ("execution.engine", "vllm", "execution.engine: .*vllm decodes adapters"),
        ("model.trust_remote_code", True, "model.trust_remote_code: "),
        ("methods", ["base", "factor-soups"], "factor-soups averages factors"),
    ],
)
def test_whole_models_refuse_what_is_an_adapter_s(values: dict[str, Any], key: str, value: Any, says: str) -> None:
    whole = {name: each for name, each in values.items() if name != "lora"} | {"policies": "full"}
    config = parse_config(whole, "settings")
    assert parse_config(yaml.safe_load(dump_config(config)), "its copy") == config
    with pytest.raises(SipoError, match=says):
        parse_config(turn(whole, key, value), "settings")
