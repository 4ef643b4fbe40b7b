"""The keys of a configuration's stages, as if every changed input came out differently."""

from typing import Any

from sipo.config import Config
from sipo.graph.build import Graph
from sipo.graph.key import key_of


def stage_keys(config: Config, about: dict[str, Any]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for stage in Graph(config):
        inputs = {name: f"{keys[output.stage.name]} {output.part.files}" for name, output in stage.outputs()}
        keys[stage.name] = key_of(stage, config, about, inputs)
    return keys


def stage_names(config: Config) -> list[str]:
    return Graph(config).names
