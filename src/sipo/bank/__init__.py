"""One backbone, many policies over it, any mixture of them in one batch."""

from sipo.bank.adapter import Adapter, cut, factor_soup, new_adapter, soup
from sipo.bank.bank import Bank
from sipo.bank.kinds import load_policy, new_policy
from sipo.bank.peft_folder import load_adapter, save_adapter
from sipo.bank.policy import Policy

__all__ = [
    "Adapter",
    "Bank",
    "Policy",
    "cut",
    "factor_soup",
    "load_adapter",
    "load_policy",
    "new_adapter",
    "new_policy",
    "save_adapter",
    "soup",
]
