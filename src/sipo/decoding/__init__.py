"""Decoding from mixtures of policies (MOD) in mixed batches."""

from sipo.decoding.decode import Generated, Request, decode
from sipo.decoding.mixture import Mixture, at_mod, at_soup, base
from sipo.decoding.requests import answer
from sipo.decoding.sampling import seed_of

__all__ = ["Generated", "Mixture", "Request", "answer", "at_mod", "at_soup", "base", "decode", "seed_of"]
