"""Plug-ins from other packages: one file each and an entry point, from the command line to the front.

sipo's own are held to the same suites.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sipo.data.sources import trl
from sipo.filters import rewards
from sipo.methods import policies
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
    rule: Literal["longest"]
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
    assert read_json(RUN.parent / "run" / "filter" / "filter.json")["rule"] == "longest"


def test_a_key_of_another_rule_is_refused(capsys):
    assert main(["check", str(RUN), "--set", "filter.keep=0.5"]) == 2
    line = "the rule longest does not read keep; leave it out, or set filter.rule to calibrated"
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
    settings |= {"methods": ["bold", "sipo"], "bold": {"share": 0.6}, "filter": {"rule": "longest", "least": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "test_mine.py").write_text(SUITES)
    done = ask(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_mine.py")
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("group", "code", "line"),
    [
        ("sipo.methods", "import nothing_of_that_name", "cannot be imported (ModuleNotFoundError: No module named"),
        ("sipo.methods", "MINE = 5", "the entry point broken:MINE of sipo.methods: is no MethodSpec, nor a tuple of them"),
        ("sipo.filters", "from sipo.filters.paper import RULES\nMINE = RULES * 2", None),
        ("sipo.filters", RULE.replace('"longest"]', '"paper"]'), "the filter rule `paper` is there already; remove one"),
    ],
)  # fmt: skip
def test_a_package_that_is_broken_is_one_line(group: str, code: str, line: str | None, tmp_path: Path) -> None:
    install(tmp_path, {"broken": (group, code)})
    done = ask(tmp_path, "sipo", "status", "nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ") and (line or "nowhere") in said


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
