"""One backbone, many adapters, any mixture of them in one forward."""

from sipo.bank.adapter import Adapter, factor_soup, new_adapter, soup
from sipo.bank.bank import Bank
from sipo.bank.peft_folder import load_adapter, save_adapter

__all__ = ["Adapter", "Bank", "factor_soup", "load_adapter", "new_adapter", "save_adapter", "soup"]
