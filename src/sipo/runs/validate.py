"""Everything that would stop a run later on, found before it starts: the cheap things first, the model last."""

from sipo.bank.adapter import target_layers
from sipo.bank.kinds import adapted_layers
from sipo.bank.pieces import check_divisible
from sipo.config import Config
from sipo.engines import check_engine
from sipo.errors import SipoError
from sipo.estimate.absent import NOTHING, Absent
from sipo.filters.registry import find as find_rule
from sipo.graph.trials import tried
from sipo.message import Message
from sipo.methods.registry import find, improves
from sipo.models.chat import TooLongError
from sipo.models.load import context_of
from sipo.models.quantisation import check_quantise
from sipo.models.shapes import outline, shape_of
from sipo.prompts.template import PromptTemplate, load_template
from sipo.ranks import joined
from sipo.rewards import Item, check_rewards, try_functions
from sipo.rewards.objective import UNSAID
from sipo.stages.answer import test_rows
from sipo.stages.refine import encode, reviewer
from sipo.stages.sample import worked_rows
from sipo.stages.sft import check_trl
from sipo.task import Task, check_room
from sipo.weights import check_between

MEASURED = "objectives.reward"


def validate(task: Task, *, evaluated: bool = True, absent: Absent = NOTHING) -> None:
    """Raise SipoError, one line with the place and the way out, for the first thing that is wrong.

    `evaluated` is False where held-out responses will not be judged, so that no rewards are needed. Loads the
    model and encodes every row; all of it stays in `task` for the stages. What is `absent` is not looked at.
    """
    if task.config.fine_tunes:
        check_trl()
    check_engine(task.config.execution)
    check_quantise(task.config.model.quantise)
    if (ranks := joined()) and ranks.sharded:
        check_divisible(ranks.sharded, task.config.policies == "full", "raco" in task.config.methods)
    improving = improves(task.config.methods)
    filters = improving and MEASURED in find_rule(task.config.filter.rule).reads
    _rewards(task, filters, absent)
    if evaluated and task.config.ranks:
        _ranks(task.config)
    templates = _templates(task) if improving and task.config.refine.enabled else []
    for template in templates:
        sample = {"response": "", "review": ""}
        template.render(chat=[Message("user", "")], objectives=task.config.objectives, **sample)
        if "response" not in template.variables:
            raise SipoError(
                f"{template.name} template: no message shows the answer it is about; put {{{{ response }}}} into one"
            )
    _weights(task, improving)
    if not absent.rows:
        _rows(task, evaluated)
        if evaluated and task.config.by_labels:
            _held_out_labels(task)
        _tries(task)
        for fits in [find(name).fits for name in task.config.methods]:
            if fits:
                fits(task)
        if improving:
            _worked_on(task)
    if absent.model:
        _by_its_shape(task)
        return
    _ = task.bank  # whose routes are proven
    if task.config.fine_tunes and task.config.sft and task.config.sft.lora:
        target_layers(task.bank.model, task.config.sft.lora)
    if absent.rows:
        _ = task.codec
        return
    _ = task.site.groups  # encodes all
    if evaluated:
        rows = [*task.splits.test, *task.splits.train][:2]
        try_functions(task.config.objectives, [Item(row.prompt, text) for row in rows for text in task.texts(row)])
    for encodes in [find(name).encodes for name in task.config.methods]:
        if encodes:
            encodes(task, test_rows(task))
    data, review_tokens = task.config.data, task.config.refine.review_tokens
    # A review is written after a response; a rewrite after a response and a review.
    for template, responses in zip(templates, (1, 2), strict=False):
        _fits(task, template, responses * data.max_response_tokens + review_tokens)


def _by_its_shape(task: Task) -> None:
    model = task.config.model
    config = shape_of(model.path, model.revision)
    assert config is not None  # `find_absent` asked
    adapted_layers(outline(config), task.config.policies, task.config.lora)
    check_room(task.config, context_of(config))


def _rewards(task: Task, filters: bool, absent: Absent) -> None:
    """`filters`: does the filter's rule ask the rewards?"""
    rule = task.config.filter.rule
    for objective in task.config.objectives:
        if objective.better.startswith(UNSAID.partition("{")[0]):
            raise SipoError(
                f"objectives: the `better` of `{objective.name}` is still what `sipo init` wrote; say in one sentence "
                "what a better response is: reviews, rewrites and judges quote it"
            )
        if objective.reward is None and filters:
            raise SipoError(
                f"filter: the rule {rule} chooses by rewards, and `{objective.name}` has none; name one, or "
                "take another rule"
            )
        if objective.compares and filters:
            raise SipoError(
                f"filter.rule {rule}: wants a number for each response alone, and the judge of "
                f"`{objective.name}` compares two; leave out its pairwise: true, or take another rule"
            )
    here = [objective for objective in task.config.objectives if objective.name not in absent.judges]
    if rewards := dict.fromkeys(str(each.reward) for each in here if each.reward is not None):
        task.progress.begin(f"looking at {', '.join(rewards)}")
    check_rewards(here, task.config.execution, task.moment)


def _ranks(config: Config) -> None:
    if not any(find(name).exported for name in config.methods):
        raise SipoError(
            f"methods: labels can only score a model that is mixed or trained, and {', '.join(config.methods)} is "
            "none; add base, soups or mod, or name a reward for each objective"
        )


def _held_out_labels(task: Task) -> None:
    prompts = {row.key for row in test_rows(task)}
    for name in task.objectives:
        if not any(row.sign(name) for row in task.splits.test if row.key in prompts):
            raise SipoError(
                f"{task.config.data.path}: objective `{name}` has no label in the held-out rows, which are to "
                "measure it; raise data.test or evaluate.prompts, or name a reward for each objective"
            )


def _templates(task: Task) -> list[PromptTemplate]:
    reviewer(task)
    refine = task.config.refine
    return [load_template(refine.review_template, "review"), load_template(refine.rewrite_template, "rewrite")]


def _weights(task: Task, improving: bool) -> None:
    if not task.weights:
        raise SipoError("weights.grid: is empty; give a weight, or leave it out for a lattice")
    if improving:
        check_between(task.config.sample.weights, task.objectives, "sample.weights", "where sipo samples")


def _rows(task: Task, evaluated: bool) -> None:
    data = task.config.data
    if evaluated and not task.splits.test:
        raise SipoError(f"{data.path}: data.test is {data.test:g}, but evaluate needs held-out prompts; raise it")
    for name in task.objectives:
        if all(row.preferred[name] is None for row in task.splits.train):
            raise SipoError(
                f"{data.path}: objective `{name}` prefers nothing in the training rows, it is null in all of them; "
                "label more rows"
            )


def _tries(task: Task) -> None:
    for name in tried(task.config):
        if not task.splits.validation:
            raise SipoError(
                f"{task.config.data.path}: {name}.lr is auto, which chooses on validation rows, and there are none; "
                f"raise data.validation, or write {name}.lr"
            )


def _worked_on(task: Task) -> None:
    fits = find_rule(task.config.filter.rule).fits
    if fits:
        fits(task)
    if not worked_rows(task):
        what = {"conflicting": "no two objectives conflict", "non-conflicting": "the objectives conflict"}
        rows = task.config.sample.rows
        raise SipoError(
            f"{task.config.data.path}: {what[rows]} in any training row, so sipo has nothing to work on with "
            f"sample.rows: {rows}; change it, or set methods to [base, soups, mod]"
        )
    if task.config.refine.enabled is False and task.config.filter.pool == "rewrites":
        raise SipoError("filter.pool: rewrites, but refine.enabled is false, so there are none; set the pool to all")


def _fits(task: Task, template: PromptTemplate, room: int) -> None:
    """Does the longest prompt in the template leave room for an answer, a review, and what is to be written?"""
    rows = worked_rows(task)
    longest = rows[int(task.lengths(rows)[:, 0].argmax())]
    try:
        encode(task, template, room, chat=longest.prompt, response="", review="")
    except TooLongError:
        raise SipoError(
            f"{template.name} template: with the longest prompt, an answer and a review it exceeds the model's context "
            f"of {task.backbone.context} tokens; shorten it, data.max_response_tokens or refine.review_tokens"
        ) from None
