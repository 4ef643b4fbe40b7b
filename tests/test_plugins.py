"""Plug-ins from other packages: one file each and an entry point, from the command line to the front.

sipo's own are held to the same suites.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from sipo.config import run as configuration
from sipo.config.file import parse_config
from sipo.data.sources import registry as source_registry
from sipo.data.sources import trl
from sipo.data.sources.registry import known_sets, sources
from sipo.declare.parts import POLICIES, SAMPLES
from sipo.errors import SipoError
from sipo.filters import rewards
from sipo.filters.registry import specs as rules
from sipo.filters.spec import Filter, RuleSpec
from sipo.graph import build, key
from sipo.methods import policies
from sipo.methods.by_weight import Trainer, by_weight_spec
from sipo.methods.interface import Method
from sipo.methods.lw import lw_needs, lw_work
from sipo.methods.raco import Mgda
from sipo.methods.registry import built, find, specs
from sipo.methods.spec import MethodSpec
from sipo.rewards import objective, scoring
from sipo.rewards.kinds.spec import RewardSpec
from sipo.rewards.objective import Objective
from sipo.settings import Execution
from sipo.settings.section import Section
from sipo.testing.plugins import MethodConformance, RewardConformance, RuleConformance, SourceConformance
from sipo.testing.tiny import tiny_settings

METHOD = '''
"""The policy of one objective where it has more than its share, else the soup."""

from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec
from sipo.settings.section import Fraction, Section


class Bold(Section):
    share: Fraction = 0.5
    """More than this takes all."""


def build(config, policies):
    from sipo.decoding import at_soup

    def at(weight):
        bold = [share > config.bold.share for share in weight]
        return Aligned(tuple(policies), at_soup(tuple(map(float, bold)) if any(bold) else weight))

    return [Method("bold", at)]


MINE = MethodSpec(
    "bold", "one policy alone where the weight leans to it", needs=lambda graph: {"policies": graph.policies},
    build=build, reads=("bold.share",), section="bold", settings=Bold,
)
'''
RULE = '''
"""The longest candidate of the pool."""

from typing import Literal

import numpy as np

from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, Decision
from sipo.filters.spec import Filter, Outcome, RuleSpec
from sipo.settings.section import Natural


class Longest(Filter):
    rule: Literal["wordiest"]
    """The longest candidate."""
    least: Natural = 0
    """Shorter ones are left out, in tokens."""


def decide(task, contests, known):
    decisions = []
    for contest in contests:
        lengths = np.array([[float(len(each))] for each in contest.group.responses])
        fates = ["shorter" if may else NOT_IN_THE_POOL for may in contest.eligible(task.config.filter.pool)]
        open_ = [at for at, fate in enumerate(fates) if fate == "shorter" and lengths[2 + at] >= task.config.filter.least]
        if open_:
            fates[max(open_, key=lambda at: lengths[2 + at])] = CHOSEN
        decisions.append(Decision(("length",), lengths, tuple(fates), ((),) * len(fates)))
    return Outcome(decisions)


MINE = RuleSpec(Longest, "the longest candidate", decide)
'''
SUITES = """
from pathlib import Path

import bold_method, longest_rule
from sipo.cli.main import main
from sipo.disk.tables import read_json
from sipo.testing.plugins import MethodConformance, RuleConformance

RUN = Path(__file__).parent / "run.yaml"


class TestBold(MethodConformance):
    spec = bold_method.MINE
    test_it_answers_at_every_weight_and_alike_when_made_again = None  # the run below does


class TestLongest(RuleConformance):
    spec = longest_rule.MINE
    test_it_chooses_one_of_the_pool_at_most_and_alike_when_asked_again = None


def test_they_go_from_the_command_line_to_the_front():
    assert main(["run", str(RUN), "--run-dir", str(RUN.parent / "run")]) == 0
    fronts = read_json(RUN.parent / "run" / "compare" / "fronts.json")["methods"]
    assert set(fronts) == {"bold", "sipo"} and len(fronts["bold"]["points"]) == 3
    assert read_json(RUN.parent / "run" / "filter" / "filter.json")["rule"] == "wordiest"


def test_a_key_of_another_rule_is_refused(capsys):
    assert main(["check", str(RUN), "--set", "filter.keep=0.5"]) == 2
    line = "the rule wordiest does not read keep; leave it out, or set filter.rule to calibrated"
    assert capsys.readouterr().err.strip().endswith(line)
"""
FILES = {"bold_method": ("sipo.methods", METHOD), "longest_rule": ("sipo.filters", RULE)}


def install(site: Path, files: dict[str, tuple[str, str]]) -> None:
    """As pip leaves packages of one file."""
    for module, (group, code) in files.items():
        (site / f"{module}-1.dist-info").mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (site / f"{module}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (site / f"{module}-1.dist-info" / "entry_points.txt").write_text(f"[{group}]\nmine = {module}:MINE\n")


def ask(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=site)


def test_a_method_and_a_filter_rule_of_one_file_each(tmp_path: Path) -> None:
    install(tmp_path, FILES)
    settings = tiny_settings(tmp_path)
    settings |= {"methods": ["bold", "sipo"], "bold": {"share": 0.6}, "filter": {"rule": "wordiest", "least": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "test_mine.py").write_text(SUITES)
    done = ask(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_mine.py")
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("group", "code", "line"),
    [
        ("sipo.methods", "import nothing_of_that_name", "cannot be imported (ModuleNotFoundError: No module named"),
        ("sipo.methods", "import sys; sys.exit(3)", "cannot be imported (SystemExit: 3)"),
        ("sipo.methods", "MINE = 5", "the entry point broken:MINE of sipo.methods: is no MethodSpec, nor a tuple of them"),
        ("sipo.filters", "from sipo.filters.paper import RULES\nMINE = RULES * 2", None),
        ("sipo.filters", RULE.replace('"wordiest"]', '"paper"]'), "the filter rule `paper` is there already; remove one"),
    ],
)  # fmt: skip
def test_a_package_that_is_broken_is_one_line(group: str, code: str, line: str | None, tmp_path: Path) -> None:
    install(tmp_path, {"broken": (group, code)})
    done = ask(tmp_path, "sipo", "status", "nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ") and (line or "nowhere") in said


def spec(name: Any = "mine", **more: Any) -> MethodSpec:
    return MethodSpec(name, "says", build=lambda config, policies: [], **more)


class Keys(Section):
    share: float = 0.5


class Needy(Section):
    share: float


class Other(Filter):
    rule: Literal["other"] = "other"


class Both(Filter):
    rule: Literal["one", "two"]


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        *((lambda name=name: spec(name), "is no name") for name in ("../x", "..", "", "a b", "<b>", "policy:x", 5)),
        (lambda: spec(reads="seed"), "no tuple"),
        (lambda: spec(settings=Keys), "settings without a section"),
        (lambda: spec(section="mine"), "a section without settings"),
        (lambda: spec(section="my-own", settings=Keys), "the section `my-own`"),
        (lambda: spec(section="_mine", settings=Keys), "the section `_mine`"),
        (lambda: spec(section="mine", settings=5), "no class of Section"),
        (lambda: spec(section="mine", settings=Needy), "Needy.share has no default"),
        (lambda: spec(section="mine", settings=(Keys, Keys)), "no Literal"),
        (lambda: spec(section="mine", settings=(Both, Both)), "two are the same"),
        (lambda: RuleSpec(Filter, "says", print), "no Literal"),
        (lambda: RuleSpec(Both, "says", print), "declare each by itself"),
        (lambda: RuleSpec(Mgda, "says", print), "no class of Filter"),
        (lambda: RuleSpec(Other, "says", print, reads="seed"), "no tuple"),
        (lambda: RewardSpec("mine", Keys, "says", print), "has no key `mine`"),
        (lambda: RewardSpec("share", Keys, "says", print, places=("folder",)), "has no key `folder`"),
        (lambda: RewardSpec("share", dict, "says", print), "no class of Section"),
    ],
)
def test_what_no_configuration_could_hold_is_refused_where_it_is_declared(declare: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        declare()


@pytest.mark.parametrize("section", ["align", "seed", "filter", "names", "model_dump", "mod", "raco"])
def test_a_methods_section_takes_no_other_keys_place(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = spec(section=section, settings=Keys)
    monkeypatch.setattr(configuration, "specs", lambda: {**specs(), "mine": mine})
    with pytest.raises(SipoError, match=f"the method `mine`: there is a key `{section}` already"):
        configuration._sections()


def test_of_the_filter_rules_one_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "rules", lambda: {**rules(), "other": RuleSpec(Other, "says", print)})
    with pytest.raises(SipoError, match="the filter rules: 2 of .*, other have a default"):
        configuration._filter()


def test_a_data_set_has_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = next(iter(known_sets()))
    twice = replace(trl.SOURCE, name="mine", known=(known_sets()[taken][1],))
    monkeypatch.setattr(source_registry, "sources", lambda: (*sources(), twice))
    with pytest.raises(SipoError, match=f"both have a data set `{taken}`"):
        known_sets.__wrapped__()


def trained(name: str, **more: Any) -> MethodSpec:
    return by_weight_spec(name, "says", Trainer(print, lw_needs, lw_work, **more))


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        *((trained(name), "there is another of that name") for name in ("align", "compare", "report", "sample")),
        (trained("answers"), "stage `answers/answers`: `answers` stands there"),
        (trained("mine", reads=("nothing.at.all",)), "reads the key nothing.at.all, which"),
        (spec(reads=("mod.alfa",)), "reads the key mod.alfa, which"),
        (spec(reads=("objectives.rewards",)), "reads the key objectives.rewards, which"),
        (spec(needs=lambda graph: {"x": graph.on_backbone("../x", print, (), {}, writes=(POLICIES,))[POLICIES]}), "../x"),
        (spec(needs=lambda graph: 1 / 0), "the method `mine` failed with ZeroDivisionError"),
        (spec(needs=lambda graph: None), "the method `mine` failed with AttributeError"),
        (spec(needs=lambda graph: {"x": graph.align}), "x is no Output of a stage"),
        (spec(needs=lambda graph: {"x": graph["nowhere"][POLICIES]}), "failed with KeyError: 'nowhere'"),
        (spec(needs=lambda graph: {"x": graph.align[SAMPLES]}), "stage `align` writes no samples.jsonl"),
    ],
)  # fmt: skip
def test_a_method_that_does_not_fit_into_the_graph_is_one_line(
    mine: MethodSpec, said: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find", lambda name: mine if name == mine.name else find(name))
    config = parse_config(settings, "settings").model_copy(update={"methods": (mine.name, "sipo")})
    with pytest.raises(SipoError, match=re.escape(said)):
        build.Graph(config)


def test_a_stage_may_be_asked_for_twice_where_it_is_the_same(settings: dict[str, Any]) -> None:
    graph = build.Graph(parse_config({**settings, "methods": ["base"]}, "settings"))
    assert graph.held_out(2).stage is graph.held_out(2).stage
    with pytest.raises(SipoError, match="stage `calibrate`: there is another of that name"):
        graph.held_out(3)


OWN = """
from sipo.filters.spec import RuleSpec
from sipo.methods.by_weight import Trainer, by_weight_spec
from sipo.methods.lw import lw_needs, lw_work
from sipo.methods.spec import MethodSpec
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Section
from test_plugins import Chosen


class Scale(Section):
    scale: float = 1


MINE = MethodSpec("mine", "says", build=lambda config, policies: [])
TRAINED = by_weight_spec("trained", "says", Trainer(lambda task, folder, known: None, lw_needs, lw_work))
RULE = RuleSpec(Chosen, "says", lambda task, contests, known: None)
REWARD = RewardSpec("scale", Scale, "says", lambda settings, criteria, execution, moment: None)
"""


class Chosen(Filter):
    rule: Literal["chosen"]


@pytest.mark.parametrize("raised", [False, True])
def test_code_from_elsewhere_counts_by_its_content_and_versions_count(
    raised: bool, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made by other code of a plug-in does not hold."""
    file = tmp_path / "of_mine.py"
    file.write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("of_mine")
    del sys.modules["of_mine"]
    brought = {name: getattr(module, name) for name in ("MINE", "TRAINED", "RULE", "REWARD")}
    config = parse_config(settings, "settings")
    first, *others = config.objectives
    changes = {"methods": ("base", "mine", "trained", "sipo"), "filter": Chosen(rule="chosen")}
    changes |= {"objectives": (first.model_copy(update={"reward": module.Scale()}), *others)}
    config = config.model_copy(update=changes)

    def keys() -> dict[str, str]:
        mine = {each.name: each for each in brought.values()}
        monkeypatch.setattr(build, "find", lambda name: mine.get(name) or find(name))
        for place in (build, key):
            monkeypatch.setattr(place, "find_rule", lambda name: brought["RULE"])
        for place in (key, objective):
            monkeypatch.setattr(place, "kind_of", lambda reward: brought["REWARD"])
        key._code.cache_clear()
        about = {"model": "m", "rows": "r", "objectives": ["detail", "brevity"]}
        made = {}
        for stage in build.Graph(config):
            made[stage.name] = key.key_of(stage, config, about, {name: "the same" for name, _ in stage.outputs()})
        return made

    before = keys()
    assert keys() == before
    if raised:
        brought = {name: replace(each, version=2) for name, each in brought.items()}
        brought["TRAINED"] = by_weight_spec("trained", "says", Trainer(print, lw_needs, lw_work), version=2)
    else:
        file.write_text(OWN + "# more")
    after = keys()
    judged = [name for name in before if name.startswith("judged/")]
    answers = ["answers/mine", *(["answers/trained"] if raised else [])]  # where sipo's own code asks its models
    assert {name for name in before if after[name] != before[name]} == {
        "filter", "trained", "report", *answers, *judged
    }  # fmt: skip


@pytest.mark.parametrize("by_words", [False, True])
def test_a_kind_is_told_words_where_it_goes_by_them(by_words: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then does a change of them judge anew."""
    told: list[dict[str, str]] = []

    def scorer(settings: Any, criteria: dict[str, str], *_: Any) -> Any:
        told.append(criteria)
        return None, {}

    kind = RewardSpec("share", Keys, "says", scorer, by_words=by_words)
    monkeypatch.setattr(scoring, "kind_of", lambda reward: kind)
    objective = Objective.model_construct(name="mine", better="It is better.", reward=Keys())
    scoring._providers([objective], Execution(), None)
    assert told == [{"mine": "It is better." if by_words else ""}]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "builds nothing"),
        (["soups"], "builds soups"),
        (["other"], "builds other"),
        (["mine", "soups"], "builds mine, soups"),
        (["mine:a", "mine:a"], "builds mine:a, mine:a"),
        (["mine:a", "../b"], "builds mine:a, ../b"),
        (["mine"], None),
        (["mine:a", "mine:b"], None),
    ],
)
def test_answers_of_a_method_bear_no_others_name(names: list[str], said: str | None) -> None:
    """They would be told of as that one's, in one front."""
    mine = replace(spec(), build=lambda config: [Method(name, print) for name in names])
    if said is None:
        assert [each.name for each in built(mine, None, {})] == names
        with pytest.raises(SipoError, match=f"`steered` is not what `steerable` of {names[0]} is"):
            built(replace(mine, steered=False), None, {})
    else:
        with pytest.raises(SipoError, match=re.escape(said)):
            built(mine, None, {})


def test_a_check_that_fails_is_one_line(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "specs", lambda: {"mine": spec(check=lambda config: config.nothing)})
    with pytest.raises(SipoError, match="the method `mine` failed with AttributeError"):
        parse_config(settings, "settings")


class TestPolicies(MethodConformance):
    spec = policies.METHODS[0]


class TestRewards(RuleConformance):
    spec = rewards.RULES[0]


class TestTrl(SourceConformance):
    spec = trl.SOURCE
    part = "helpful"
    records: Sequence[dict[str, str]] = (
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."},
        {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."},
    )


class TestLabels(RewardConformance):
    reward: ClassVar[dict[str, str]] = {"judge": "http://localhost:1/v1", "model": "m"}
    test_it_gives_an_item_one_number_whatever_stands_beside_it = None


class TestWords(RewardConformance):
    reward = "sipo.rewards.text:words"


def test_a_source_that_takes_what_is_another_s_fails_its_suite() -> None:
    class Greedy(SourceConformance):
        spec = replace(trl.SOURCE, name="greedy", recognises=lambda value: True)
        records = TestTrl.records

    with pytest.raises(AssertionError):
        Greedy().test_it_is_the_one_that_reads_its_records()


def test_a_reward_that_heeds_the_order_fails_its_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import ModuleType

    module = ModuleType("by_place")
    module.numbers = lambda prompts, responses: list(range(len(responses)))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "by_place", module)

    class ByPlace(RewardConformance):
        reward = "by_place:numbers"

    from sipo.rewards.objective import Objective

    objective = Objective(name="mine", better="b", reward=ByPlace.reward)
    with pytest.raises(AssertionError):
        ByPlace().test_it_gives_an_item_one_number_whatever_stands_beside_it(objective, tmp_path)
    assert json.dumps(objective.model_dump(mode="json"))
