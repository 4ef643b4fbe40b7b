"""The paper's comparisons of fronts: what is turned, and what the paper says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sipo.config.file import parse_config
from sipo.data import split_rows
from sipo.data.subset import largest_size
from sipo.methods.prompting import understood
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_tokenizer
from sipo.settings import Realign
from sipo.studies.arms import Arm, turned
from sipo.studies.fronts import Claim, FrontStudy
from sipo.studies.ground import Settings
from sipo.task import Task

RATIOS = (0.0, 0.3, 0.6, 0.9)
WITHOUT_REFINE = {"refine.enabled": False}
WITHOUT_FILTER = {"filter.rule": "random", "filter.pool": "rewrites"}


@dataclass(frozen=True)
class Always:
    """The same arms whatever the settings."""

    arms: tuple[Arm, ...]

    def __call__(self, settings: Settings) -> Sequence[Arm]:
        return self.arms


def always(*arms: Arm) -> Always:
    return Always(arms)


def conflict_arms(settings: Settings) -> list[Arm]:
    """The methods that train on the rows as they are, on subsets of one size at every conflict ratio."""
    size = _common_size(settings)
    arms = [Arm("base", "base", {"data.train_rows": size, "data.conflict_ratio": 0.0})]
    for ratio in RATIOS:
        changes = {"data.train_rows": size, "data.conflict_ratio": ratio}
        arms += [Arm(f"{method} {ratio:.0%}", method, changes) for method in ("soups", "modpo", "lw", "mod")]
    return arms


def _common_size(settings: Settings) -> int:
    """The largest number of training rows, up to the configured one, that every ratio can be had at."""
    whole = turned(settings, {"data.train_rows": None, "data.conflict_ratio": None})
    config = parse_config(whole, "study")
    task = Task(config)
    train = split_rows(task.rows, config.seed, config.data.validation, config.data.test).train
    conflicting = sum(row.conflicting(task.objectives) for row in train)
    possible = min(largest_size(conflicting, len(train) - conflicting, ratio) for ratio in RATIOS)
    return min(possible, settings["data"].get("train_rows") or possible)


def _falling(method: str) -> list[Claim]:
    return [Claim(f"{method} {less:.0%}", f"{method} {more:.0%}") for less, more in pairwise(RATIOS)]


CONFLICTS = FrontStudy(
    "conflicts",
    "Do fronts fall as more of the training rows are in conflict? (Figures 2 to 4.) Subsets are of one size; where no "
    "row conflicts, the policies coincide and the front is a point, so look at utility and ranges beside hypervolume.",
    conflict_arms,
    [
        *(claim for method in ("soups", "modpo", "lw", "mod") for claim in _falling(method)),
        Claim("soups 90%", "base", "at 90 % soups come close to the fine-tuned model: not above it", none=True),
    ],
    pictured=("soups", "modpo", "lw", "mod"),
)


def method_arms(settings: Settings) -> list[Arm]:
    """All methods, but for prompting where the model knows no English. Best-of-n once with the tokens that MOD decodes,
    and once with 16 draws; they need a temperature, which greedy decoding does not have.
    """
    config = parse_config(settings, "study")
    warm = {} if config.decoding.temperature else {"best_of_n.temperature": 1.0}
    names = ("base", "prompting", "soups", "lw", "consensus", "raco", "modpo", "mod", "sipo")
    left_out = () if understood(read_tokenizer(origin_of(config.model)), config.objectives) else ("prompting",)
    return [
        *(Arm(name, name) for name in names if name not in left_out),
        Arm("best-of-n", "best-of-n", warm),
        Arm("best-of-16", "best-of-n", {**warm, "best_of_n.n": 16}),
    ]


METHODS = FrontStudy(
    "methods",
    "How do the methods compare? (Figure 6, and what one would try first.) `best-of-n` decodes as many tokens as MOD, "
    "`best-of-16` sixteen answers.",
    method_arms,
    [
        *(Claim("mod", name) for name in ("modpo", "soups", "lw")),
        *(Claim("modpo", name) for name in ("soups", "lw")),
        *(Claim("sipo", name) for name in ("mod", "modpo", "soups", "lw")),
        *(
            Claim("sipo", name, ours=True)
            for name in ("base", "prompting", "best-of-n", "best-of-16", "consensus", "raco")
        ),
    ],
)
ABLATION = FrontStudy(
    "ablation",
    "What do refinement and filter contribute? (Figure 7.) Without the filter, as many rows as it would have kept "
    "learn from a rewrite drawn at random.",
    always(
        Arm("mod", "mod"),
        Arm("sipo", "sipo"),
        Arm("without refine", "sipo", WITHOUT_REFINE),
        Arm("without filter", "sipo", WITHOUT_FILTER),
    ),
    [
        Claim("sipo", "without refine"),
        Claim("sipo", "without filter"),
        Claim("without refine", "without filter", "the filter matters more than refinement"),
    ],
)
DESIGNS = {
    "y_c > both": "chosen-originals",
    "y_c > y_w": "chosen-preferred",
    "y_c > y_w > y_l": "chosen-preferred-dispreferred",
    "y_w > y_l": "preferred-dispreferred",
}
DESIGN = FrontStudy(
    "design",
    "Which pairs should the realignment learn from? (Figure 8.) Every design trains for the same number of steps, on "
    "the same rows.",
    always(Arm("mod", "mod"), *(Arm(label, "sipo", {"realign.pairs": pairs}) for label, pairs in DESIGNS.items())),
    [
        *(Claim(label, "y_w > y_l") for label in list(DESIGNS)[:3]),
        Claim("y_c > both", "y_c > y_w"),
        Claim("y_c > both", "y_c > y_w > y_l"),
    ],
)
SOUPS = FrontStudy(
    "soups",
    "Does realignment lift soups too? (Figure 9.)",
    always(*(Arm(name, name) for name in ("soups", "sipo-soups", "mod", "sipo"))),
    [Claim("sipo-soups", "soups"), Claim("sipo", "mod")],
)
NONCONFLICT = FrontStudy(
    "nonconflict",
    "Does it matter that SIPO works on the rows in conflict? (Figure 10, right.)",
    always(
        Arm("mod", "mod"),
        Arm("conflicting", "sipo", {"sample.rows": "conflicting"}),
        Arm("non-conflicting", "sipo", {"sample.rows": "non-conflicting"}),
        Arm("all", "sipo", {"sample.rows": "all"}),
    ),
    [
        Claim("conflicting", "mod"),
        Claim("conflicting", "non-conflicting"),
        Claim("non-conflicting", "mod", "on non-conflicting rows SIPO does not help", none=True),
    ],
)


def strength_arms(settings: Settings) -> list[Arm]:
    """Realignment at each strength alone, and at the one that validation chooses."""
    tried = parse_config(settings, "study").realign.strengths
    alone = [Arm(f"x{each:g}", "sipo", {"realign.lr": "auto", "realign.strengths": [each]}) for each in tried]
    return [Arm("mod", "mod"), *alone, Arm("auto", "sipo", {"realign.lr": "auto", "realign.strengths": list(tried)})]


STRENGTH = FrontStudy(
    "strength",
    "How strong should the realignment be, and does validation tell? `x1` realigns with the rate of the alignment, "
    "`auto` with the one that `realign.lr: auto` takes. A front that keeps little of its range hardly steers, "
    "whatever its hypervolume is.",
    strength_arms,
    [
        Claim("auto", "mod", ours=True),
        *(Claim("auto", f"x{each:g}", ours=True) for each in Realign.model_fields["strengths"].default),
    ],
)
UPPER = {"lora.layers": "upper"}
COMPARED = ("soups", "lw", "mod", "sipo")
LAYERS = FrontStudy(
    "layers",
    "What do fronts lose where only the upper half of the layers is adapted? What lies below is then computed once for "
    "all policies.",
    always(
        *(Arm(name, name) for name in COMPARED),
        *(Arm(f"{name} upper", name, UPPER) for name in COMPARED),
    ),
    [Claim(name, f"{name} upper", ours=True) for name in COMPARED],
)
