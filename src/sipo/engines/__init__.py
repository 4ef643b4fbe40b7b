"""What decodes: transformers in `sipo.decoding`, or vLLM, which a stage opens for as long as it decodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sipo.config import Execution
from sipo.errors import SipoError

if TYPE_CHECKING:
    from sipo.engines.vllm import Vllm


def check_engine(execution: Execution) -> None:
    """Raise SipoError where the configured engine is not installed."""
    if execution.engine == "vllm" and find_spec("vllm") is None:
        raise SipoError("execution.engine: vllm is not installed; pip install 'sipo[vllm]', or set it to transformers")


@contextmanager
def opened(execution: Execution) -> "Iterator[Vllm | None]":
    """The engine that `sipo.decoding.answer` takes; None is transformers. It starts with the first batch and gives its
    memory back at the end of the block: training and scoring need it.
    """
    if execution.engine == "transformers":
        yield None
        return
    check_engine(execution)
    from sipo.engines.vllm import Vllm

    engine = Vllm(execution.decode_rows)
    try:
        yield engine
    finally:
        engine.close()
