"""The kinds of reward by name: those of this package, and those that other packages bring as entry points."""

from functools import cache

from sipo.errors import SipoError
from sipo.registry import Registry
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Section

REGISTRY = Registry("sipo.rewards.kinds", "REWARDS", RewardSpec, "kind of reward", group="sipo.rewards")


@cache
def kinds() -> dict[str, RewardSpec]:
    """By the key that tells a kind, the most telling first: one that is a key of other kinds tells less."""
    specs = REGISTRY.specs()
    for name, each in specs.items():
        if alike := [other for other in specs if specs[other].settings is each.settings and other != name]:
            raise SipoError(f"the kinds of reward {name} and {alike[0]} have the same settings; mend what brings one")
    shared = {name: sum(name in each.settings.model_fields for each in specs.values()) for name in specs}
    return {name: specs[name] for name in sorted(specs, key=lambda name: shared[name])}


def kind_of(reward: Section) -> RewardSpec:
    return next(each for each in kinds().values() if type(reward) is each.settings)
