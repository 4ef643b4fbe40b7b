"""Keeping other libraries from talking over our own lines, and our own from breaking what they are written to."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging import ERROR, getLogger

TALKATIVE = ("torchao", "bitsandbytes", "torch.utils._pytree")
"""They tell on being imported, which transformers does wherever they are installed, which kernels they lack."""


def settle() -> None:
    """Before anything is imported or said: no bars but ours and those of downloads, no text that cannot be written."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # those that set `disable` themselves, as downloads do, are not meant
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _quieten()


def hush() -> None:
    """Keep transformers from telling what our own lines tell; downloads still show how far they are."""
    _quieten()
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()


def _quieten() -> None:
    for name in TALKATIVE:
        getLogger(name).setLevel(ERROR)


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers' in the block, whoever called; those of downloads, which are not its own, stay."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda _, given, options: logging.EmptyTqdm(*given, **options))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


@contextmanager
def muted() -> Iterator[None]:
    """Nothing reaches stderr in the block, from below Python neither."""
    sys.stderr.flush()
    ours = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(ours, 2)
        os.close(ours)
