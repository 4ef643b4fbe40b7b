"""vLLM's LoRA resolver: under `vllm serve` a model's name is a soup of a finished run, made when first asked for.

The entry point `vllm.general_plugins` has vLLM call `register` in all of its processes.
"""

import asyncio
import os
import re
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from sipo.errors import SipoError

if TYPE_CHECKING:
    from sipo.serve.soups import Soups

RUNS, GIB = "SIPO_VLLM_RUNS", "SIPO_VLLM_GIB"
"""Environment variables: runs, or NAME=RUN, with colons between as in PATH; how much the soups may take on disk."""
ROOM = 10.0
"""GiB."""


def register() -> None:
    """Nothing, unless `SIPO_VLLM_RUNS` names runs. Raises SipoError where one of them is no run."""
    if not os.environ.get(RUNS):
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    from sipo.runs.status import read_run
    from sipo.serve.naming import named_runs

    if "sipo" in LoRAResolverRegistry.get_supported_resolvers():
        return
    paths = named_runs([each for each in re.split(f"{os.pathsep}(?!//)", os.environ[RUNS]) if each])
    for path in paths.values():
        read_run(path)
    LoRAResolverRegistry.register_resolver("sipo", _resolver(paths, room(os.environ)))


def room(environment: "os._Environ[str] | dict[str, str]") -> int:
    """Bytes that the soups may take. Raises SipoError for what is no number above 0."""
    text = environment.get(GIB, str(ROOM))
    try:
        bytes_ = int(float(text) * 2**30)
    except (ValueError, OverflowError):
        bytes_ = 0
    if bytes_ <= 0:
        raise SipoError(f"{GIB} is {text!r}; give a number of GiB above 0, such as {ROOM:g}")
    return bytes_


def opened(paths: "dict[str, Path]", base: str, most: int) -> "Soups":
    from sipo.finished.handle import open as open_run
    from sipo.places import cache_folder
    from sipo.serve.kept import Kept
    from sipo.serve.soups import Soups

    runs = {name: open_run(path) for name, path in paths.items()}
    return Soups(runs, base, Kept(cache_folder() / "vllm", most))


def _resolver(paths: "dict[str, Path]", most: int) -> Any:
    import vllm.envs
    from fastapi import HTTPException
    from vllm.logger import init_logger
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver

    from sipo.serve.wire import ApiError

    logger = init_logger("vllm.sipo")
    if not vllm.envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING:
        logger.warning("%s is set, but without VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vLLM resolves no names", RUNS)

    found: dict[str, Soups] = {}
    opening = Lock()

    def soups(base: str) -> "Soups":
        with opening:
            if base not in found:
                found[base] = opened(paths, base, most)
                for line in found[base].said:
                    logger.warning("%s", line)
        return found[base]

    class SoupResolver(LoRAResolver):  # type: ignore[misc]
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            """None for a name of no run; what else is wrong with it is the answer to the client."""
            try:
                folder = await asyncio.to_thread(lambda: soups(base_model_name).folder_of(lora_name))
            except ApiError as refused:
                raise HTTPException(refused.status, refused.message) from None
            except (SipoError, OSError) as problem:  # a full disk among them
                logger.error("%s", problem)
                raise HTTPException(503, str(problem)) from None
            if folder is None:
                return None
            return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))  # vLLM gives it a number

    return SoupResolver()
