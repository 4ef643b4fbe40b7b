"""What does not stop a run and yet is worth a look before it: little to measure on, little to learn from, one measure
for two goals.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

from sipo.config import Config
from sipo.data import Row
from sipo.filters.registry import find as find_rule
from sipo.graph.build import Graph
from sipo.graph.trials import tried
from sipo.graph.view import FREE
from sipo.methods.registry import improves
from sipo.rewards.kinds.judge import kin_of
from sipo.rewards.kinds.registry import kind_of
from sipo.settings import Section, Weights
from sipo.stages.answer import test_rows
from sipo.stages.sample import worked_rows
from sipo.stages.trials import trial_rows
from sipo.task import Task
from sipo.weights import between, grid, without_share
from sipo.words import listed, quantity

FEW_TEST_PROMPTS = 30
"""Below, no interval over prompts means much, and a report gives no verdict."""
FEW_WORKED = 30
"""Rows that SIPO works on; it keeps a response for a part of them."""
FEW_LABELS = 20
MANY_CUT = 0.1
MANY_OBJECTIVES = 3
MANY_WEIGHTS = 40
FAST, FULL_RATES = 2e-5, "5e-7 to 1e-6, small ones at up to 1e-5"
"""A rate of DPO on all parameters that is too high, and those that are usual."""


SWITCHES = ("refine.enabled", "sft.enabled", "evaluate.labels")
"""Read by the graph itself."""


def about_config(config: Config) -> list[str]:
    """All that a configuration tells by itself."""
    looks = (about_keys, about_methods, about_rates, about_weights, about_left_out, about_judges)
    return [line for look in looks for line in look(config)]


def about_keys(config: Config) -> list[str]:
    """Keys that are not at their defaults and that no stage reads: of a method that is not asked for, or of a part that
    is switched off.
    """
    graph = Graph(config)
    chosen = [f"{name}.lr" for name in tried(config)]  # `auto` is read by the graph, too
    read = {*FREE, *SWITCHES, *chosen, *(key for stage in graph for key in stage.reads)}
    changed = [
        f"{place}.{key}"
        for place, section in config
        if isinstance(section, Section)
        for key, value in section
        if value != type(section).model_fields[key].default
    ]
    unread = [key for key in changed if not any(f"{key}.".startswith(f"{each}.") for each in read)]
    unread += ["rounds"] if config.rounds > 1 and not improves(config.methods) else []
    return [f"nothing in this run reads {', '.join(unread)}, changed as it may be"] if unread else []


def about_methods(config: Config) -> list[str]:
    names = config.names
    if len(names) < MANY_OBJECTIVES or "sipo" not in config.methods or "sipo-soups" in config.methods:
        return []
    return [
        f"{len(names)} objectives: soups of the realigned policies may be above MOD of them; with sipo-soups in "
        "methods, which trains nothing, validation prompts tell which to use"
    ]


def about_weights(config: Config) -> list[str]:
    """Where there are so many of them that a run takes far longer than it must."""
    names, improving, rule = config.names, improves(config.methods), find_rule(config.filter.rule)
    count, why = len(grid(config.weights, names)), "every method answers each prompt at each of them"
    found = [("weights", config.weights, count, why)]
    if improving:
        drawn = config.sample.weights
        count = len(grid(drawn, names, "sample.weights"))
        found.append(("sample.weights", drawn, count, "each prompt is sampled at each of them"))
    if improving and (soups := rule.soups(config.filter)):
        count = len(rule.judging_soups(config))
        found.append(("filter.weights", soups, count, "a soup at each of them scores all candidates"))
    fewer = {False: "{0}.at_most takes a part that is well spread", True: "leave some out of {0}.grid"}
    return [
        f"{place}: {count} of them, and {why}; {fewer[asked.grid is not None].format(place)}"
        for place, asked, count, why in found
        if count > MANY_WEIGHTS
    ]


def about_left_out(config: Config) -> list[str]:
    """Objectives to which none of the weights that are measured, or sampled at, gives a share."""
    names, found = config.names, []
    asked = [("weights", config.weights, grid(config.weights, names), "is measured", "")]
    if improves(config.methods):
        drawn, place = config.sample.weights, "sample.weights"
        asked.append((place, drawn, between(grid(drawn, names, place)), "is sampled", " between the objectives"))
    for place, section, weights, lacks, where in asked:
        out = without_share(weights, names)
        if weights and out:
            way = f"add one to {place}.grid"
            if section.grid is None:
                way = f"raise {place}.at_most to {_enough(section, names)}"
            found.append(f"{place}: none{where} gives {listed(out)} a share, so nothing {lacks} for it; {way}")
    return found


def _enough(weights: Weights, names: Sequence[str]) -> int:
    """The least `at_most` with which each objective has a share of a weight between the objectives."""
    tried = (weights.model_copy(update={"at_most": count}) for count in itertools.count(weights.at_most + 1))
    return next(each.at_most for each in tried if not without_share(between(grid(each, names)), names))


def about_judges(config: Config) -> list[str]:
    """Judges of the policies' own family, which like what reads as their own (Panickssery et al. 2024)."""
    found = {str(each.reward): kin_of(each.reward, config.model.path) for each in config.objectives}
    return [
        f"{judge} is of the family of the policies' own model ({', '.join(kin)}), and models like what reads as their "
        "own; take one of another family"
        for judge, kin in found.items()
        if kin
    ]


def about_rewards(task: Task) -> list[str]:
    named = defaultdict[tuple[str, ...], list[str]](list)
    for each in task.config.objectives:
        if each.reward is not None:
            settings = each.reward.model_dump_json() if isinstance(each.reward, Section) else each.reward
            # What goes by words is asked for each objective by its own.
            words = each.better if isinstance(each.reward, Section) and kind_of(each.reward).by_words else ""
            named[settings, words, each.direction].append(each.name)
    return [
        f"{' and '.join(names)} have one and the same reward: what is measured of them is one thing, not several"
        for names in named.values()
        if len(names) > 1
    ]


def about_rates(config: Config) -> list[str]:
    if config.policies != "full":
        return []
    sections = {"align": config.align, "realign": config.realign if improves(config.methods) else None}
    rates = {name: max(map(each.lr_of, config.names)) for name, each in sections.items() if each and each.lr != "auto"}
    return [
        f"{name}.lr is {rate:g}: an adapter's rate; whole models (policies: full) usually learn at {FULL_RATES}"
        for name, rate in rates.items()
        if rate > FAST
    ]


def about_rows(task: Task) -> list[str]:
    """Raises SipoError where the rows cannot be split."""
    splits, names, data = task.splits, task.objectives, task.config.data
    prompts, lines = len(test_rows(task)), []
    if prompts < FEW_TEST_PROMPTS:
        lines.append(
            f"{quantity(prompts, 'test prompt')}: too few for a verdict; raise data.test, evaluate.prompts or bring "
            "more rows"
        )
    for kind, rows in (("training", splits.train), ("test", splits.test)):
        if rows and not _conflicts(rows, names):
            lines.append(f"no {kind} row is in conflict: on these, one model may well serve all objectives")
    for name in names if task.config.by_labels else ():
        tested = {row.key for row in test_rows(task)}
        told = len({row.key for row in splits.test if row.key in tested and row.sign(name)})
        if told < FEW_TEST_PROMPTS:
            lines.append(f"`{name}` has labels on {quantity(told, 'test prompt')}: too few for a verdict by labels")
    if improves(task.config.methods):
        worked = len(worked_rows(task))
        if worked < FEW_WORKED:
            lines.append(
                f"sipo works on {quantity(worked, 'row')} and keeps a part: few to learn from; see sample.rows"
            )
    for name, section in tried(task.config).items():
        asked = len(trial_rows(task, section.trial_prompts))
        if asked < FEW_TEST_PROMPTS:
            lines.append(
                f"{name}.lr: auto chooses on {quantity(asked, 'validation prompt')}: few to tell strengths apart by"
            )
    if not splits.validation:
        lines.append("no validation rows: nothing tells which epoch is best, or how far the filter is to be trusted")
    for name in names:
        for kind, rows in (("training", splits.train), ("validation", splits.validation)):
            labelled = sum(row.preferred[name] is not None for row in rows)
            if rows and labelled < FEW_LABELS:
                lines.append(f"`{name}` has labels in {quantity(labelled, f'{kind} row')}: few to {_use(kind)}")
    if data.validation and data.test and len(splits.train) < len(splits.test):
        test = quantity(len(splits.test), "row")
        lines.append(f"{test} to test on and {len(splits.train)} to train on; is data.test meant so?")
    return lines


def about_lengths(task: Task) -> list[str]:
    lengths = task.lengths(row for part in vars(task.splits).values() for row in part)
    share = (lengths[:, 3:] > task.config.data.max_response_tokens).mean()
    return [f"{share:.0%} of the responses are cut at data.max_response_tokens"] if share > MANY_CUT else []


def _conflicts(rows: Sequence[Row], names: Sequence[str]) -> int:
    return sum(row.conflicting(names) for row in rows)


def _use(kind: str) -> str:
    return "learn from" if kind == "training" else "tell the best epoch by"
