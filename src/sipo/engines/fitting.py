"""How much is computed at once, where `execution` leaves it to the memory.

It is planned by what the machine has, and not by what is free, so that a run that goes on is planned as it was.
"""

import math
from collections.abc import Sequence

import torch

from sipo.bank import Adapter, Bank
from sipo.decoding import Request
from sipo.engines.interface import Span
from sipo.models.footprint import SPARE, Shape, room_beside, rows_within, rows_worth, shape, tokens_within, tokens_worth
from sipo.models.load import find_device
from sipo.ranks import joined, share_of
from sipo.room import free_memory
from sipo.settings import Execution


def rows_asked(execution: Execution) -> int:
    """Rows decoded at once, at most."""
    asked = execution.decode_rows
    return rows_worth(find_device(execution.device).type) if asked == "auto" else asked


def rows_for(execution: Execution, bank: Bank | None, span: Span, requests: Sequence[Request], limit: int) -> int:
    """Rows of these requests, with answers of up to `limit` tokens; without a bank the memory is not known."""
    asked = execution.decode_rows
    if asked != "auto" or bank is None or not requests:
        return rows_asked(execution)
    of = shape(bank.model)
    return _rows(of, _room(execution, bank, of, span), bank, requests, limit)


def rows_free(execution: Execution, bank: Bank, requests: Sequence[Request], limit: int) -> int:
    """As many as the memory holds that is free now, all policies being mounted, or as many as were asked for."""
    if execution.decode_rows != "auto":
        return execution.decode_rows
    ranks = joined()
    here = ranks.here if ranks is not None and bank.device.type != "cuda" else 1
    room = (1 - SPARE) * free_memory(bank.device) / (here * _processes(execution, bank.device))
    return _rows(shape(bank.model), room, bank, requests, limit)


def tokens_for(execution: Execution, bank: Bank | None, span: Span, longest: int) -> int:
    """Tokens in a forward of scoring, of rows of so many at most."""
    asked = execution.score_tokens
    if asked != "auto":
        return asked
    if bank is None:
        return tokens_worth(find_device(execution.device).type)
    of = shape(bank.model)
    adapted = [each for each in span.loaded if isinstance(each, Adapter)]
    narrow = sum(each.rank * len({name.rpartition(".")[2] for name in each.factors}) for each in adapted)
    return tokens_within(_room(execution, bank, of, span), of.activations(narrow, 1, longest), bank.device.type)


def _rows(of: Shape, room: float, bank: Bank, requests: Sequence[Request], limit: int) -> int:
    prompt = max(len(each.prompt) for each in requests)
    return rows_within(of, room, prompt, limit, bank.device.type)


def _room(execution: Execution, bank: Bank, of: Shape, span: Span) -> float:
    """Bytes for rows and tokens in each process that computes."""
    policies = sum(each.numel() for policy in span.loaded for each in policy.parameters) * of.bytes
    held = of.weights + of.opened + policies + (of.weights if span.apart else 0)  # a soup of whole models
    return room_beside(of, share_of(bank.device), held, _processes(execution, bank.device))


def _processes(execution: Execution, device: torch.device) -> int:
    """How many of an engine share what a process has of the device's memory."""
    spread = execution.engine == "pool" and device.type == "cuda" and execution.device in ("auto", "cuda")
    return math.ceil(execution.processes / torch.cuda.device_count()) if spread else execution.processes
