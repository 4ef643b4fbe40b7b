"""What writes and scores for the stages, behind one protocol: this process, a pool of them, vLLM, or a Ray cluster."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sipo.bank import Bank
from sipo.commands import install_extra
from sipo.engines.asked import answer
from sipo.engines.interface import Engine, Span
from sipo.engines.local import Local
from sipo.engines.pool import Pool
from sipo.engines.shared import Shared
from sipo.errors import SipoError
from sipo.ranks import joined
from sipo.settings import Execution

if TYPE_CHECKING:
    from sipo.engines.ray import Ray
    from sipo.engines.vllm import Vllm

__all__ = ["Engine", "Local", "Pool", "Span", "answer", "check_engine", "opened"]


def check_engine(execution: Execution) -> None:
    """Raise SipoError where the configured engine is not installed, or its cluster is not there."""
    for engine in execution.engines:
        if engine in ("vllm", "ray") and find_spec(engine) is None:
            raise SipoError(
                f"execution.engine: {engine} is not installed; `{install_extra(engine)}`, or set it to transformers"
            )
    if execution.engine == "ray":
        from sipo.engines.cluster import check_address

        check_address(execution.ray)


@contextmanager
def opened(execution: Execution, bank: Bank) -> Iterator[Engine]:
    """The configured engine. What it starts beside `bank` starts when it is first needed, and gives its memory back at
    the end of the block: training needs it.
    """
    check_engine(execution)
    with closing(_engine(execution, bank)) as engine:
        yield engine


def _engine(execution: Execution, bank: Bank) -> "Local | Pool | Vllm | Ray":
    match execution.engine:
        case "transformers":
            return Local(execution, bank) if joined() is None else Shared(execution, bank)
        case "pool":
            return Pool(execution, bank)
        case "vllm":
            from sipo.engines.vllm import Vllm

            return Vllm(execution, bank)
        case "ray":
            from sipo.engines.ray import Ray

            return Ray(execution, bank)
