"""Decoding from mixtures of policies (MOD) in mixed batches."""

from sipo.decoding.batch import Request
from sipo.decoding.best import BestOf
from sipo.decoding.decode import Generated, decode
from sipo.decoding.mixture import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    Divergence,
    Mixture,
    at_mod,
    at_soup,
    base,
    embedded,
)
from sipo.decoding.sampling import seed_of

__all__ = [
    "FORWARD_KL",
    "JENSEN_SHANNON",
    "REVERSE_KL",
    "BestOf",
    "Divergence",
    "Generated",
    "Mixture",
    "Request",
    "at_mod",
    "at_soup",
    "base",
    "decode",
    "embedded",
    "seed_of",
]
