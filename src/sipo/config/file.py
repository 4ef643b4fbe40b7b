"""Reading a run's YAML: overrides, paths, and one clear line for whatever is wrong."""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sipo.config import Config
from sipo.data.sources.finding import is_path
from sipo.disk.copies import refreshed
from sipo.disk.damage import CONFIG, is_run
from sipo.disk.publishing import check_on_disk
from sipo.errors import SipoError
from sipo.filters.registry import specs
from sipo.places import in_a_store, path_of
from sipo.rewards.kinds.registry import kinds
from sipo.settings.explain import explain
from sipo.settings.section import RULE


def load_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """The configuration in a YAML file, with `key=value` overrides such as `align.lr=1e-4` laid over it.

    Paths in the file are relative to the file's folder; `run_dir`, and whatever an override names, to the
    working directory. Without `run_dir` a run lives in `runs/<name of the file>`; a run's own `config.yaml` is of the
    run that it lies in, wherever that has been moved to. Raises SipoError, one line that names the file and the key,
    for the first thing that is wrong.

    >>> sipo.load_config("quickstart.yaml", ["align.lr=1e-4"]).align.lr
    0.0001
    """
    path = config_file(path)
    values = _read(path)
    _find_functions(values, path.parent)
    if path.name == CONFIG and is_run(path.parent):
        values["run_dir"] = os.path.abspath(path.parent)
    _rebase(values, path.parent)
    for override in overrides or []:
        _override(values, override)
    _rebase(values, Path())  # absolute, so that a run's own copy of it can be read from anywhere
    values.setdefault("run_dir", str(Path("runs") / path.stem))
    return parse_config(values, str(path))


def config_file(path: Path | str) -> Path:
    """Where a configuration is read: that of a run in a store, `s3://BUCKET/RUN/config.yaml`, in its working copy."""
    if in_a_store(path) and Path(path).name != CONFIG:
        check_on_disk(path)
    path = path_of(path, below=1)
    refreshed(path.parent)
    return path


def parse_config(values: dict[str, Any], source: str) -> Config:
    """Validate a mapping; the first problem becomes one line that names `source` and the key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise SipoError(f"{source}: {explain(error, values, Config)}") from None


def dump_config(config: Config) -> str:
    """The fully resolved configuration as YAML; `load_config` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Key(yaml.MarkedYAMLError):
    """A key that is there twice in one mapping, or has swallowed its value."""


class _Loader(yaml.SafeLoader):
    """Of keys that are there twice YAML takes the last without a word, and `{a:1}` is one key `a:1` without a value;
    here both are errors.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[tuple[str, str]]()
        for key, value in node.value:
            bare = [isinstance(each, yaml.ScalarNode) and not each.style for each in (key, value)]
            if node.flow_style and all(bare) and value.value == "" and ":" in key.value:
                name = key.value.partition(":")[0]
                raise _Key(problem=f"write a space after the colon of `{name}:`", problem_mark=key.start_mark)
            same = (key.tag, str(key.value))
            if same in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _Key(problem=f"the key `{key.value}` is there twice; keep one", problem_mark=key.start_mark)
            seen.add(same)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str, *, numbered: bool = False) -> Any:
    """What a YAML text says. Raises SipoError, one line that names `source`, and with `numbered` the line in it."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark and numbered else ""
        problem = getattr(error, "problem", None) or error
        raise SipoError(
            f"{source}{line}: {problem if isinstance(error, _Key) else f'is not YAML ({problem})'}"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep; a date or a number that cannot be
        raise SipoError(f"{source}: is not YAML that can be read ({error})") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path), numbered=True)
    except FileNotFoundError:
        raise SipoError(f"{path}: no such file; `sipo init` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SipoError(f"{path}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise SipoError(f"{path}: expected `key: value` lines; `sipo init` writes an example")
    return values


def _rebase(values: dict[str, Any], folder: Path) -> None:
    """Make the paths in `values` absolute, the relative ones from `folder`."""
    for place in ("data.path", "model.path", "refine.review_template", "refine.rewrite_template"):
        key, name = place.split(".")
        section = values.get(key)
        value = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(value, str):
            _check(value, place)
            path = folder / Path(value).expanduser()
            if key != "model" or path.exists():  # a hub id or package:NAME is no path: only what exists
                section[name] = os.path.abspath(path)  # symbolic links keep their names, and so their suffixes
    _rebase_source(values.get("data"), folder)
    _rebase_filter(values.get("filter"), folder)
    _rebase_rewards(values, folder)


def _rebase_source(data: Any, folder: Path) -> None:
    """The same for what rows are made from, where it is a file or folder, and for a tokenizer in a folder."""
    source = data.get("source") if isinstance(data, dict) else None
    if isinstance(source, str):
        data["source"] = _found_from(folder, source, "data.source")
    elif isinstance(source, dict):
        for name in ("name", "tokenizer"):
            if isinstance(value := source.get(name), str):
                source[name] = _found_from(folder, value, f"data.source.{name}")


def _rebase_filter(settings: Any, folder: Path) -> None:
    """The same for what the keys of a filter rule name; a hub id is no path."""
    rule = specs().get(str(settings.get(RULE))) if isinstance(settings, dict) else None
    for name in rule.places if rule else ():
        if isinstance(value := settings.get(name), str):
            settings[name] = _found_from(folder, value, f"filter.{name}")


def _check(value: str, place: str) -> None:
    try:
        check_on_disk(value)
    except SipoError as problem:
        raise SipoError(f"{place}: {problem}") from None


def _found_from(folder: Path, value: str, place: str) -> str:
    _check(value, place)
    path = folder / Path(value).expanduser()
    return os.path.abspath(path) if value and (path.exists() or is_path(value)) else value


def _rebase_rewards(values: dict[str, Any], folder: Path) -> None:
    """The same for adapters and models that rewards name; a hub id is no path, and a judge's model none either."""
    objectives = values.get("objectives")
    for objective in objectives if isinstance(objectives, list) else ():
        reward = objective.get("reward") if isinstance(objective, dict) else None
        if not isinstance(reward, dict):
            continue
        kind = next((kind for key, kind in kinds().items() if key in reward), None)
        for name in kind.places if kind else ():
            value = reward.get(name)
            if isinstance(value, str):
                _check(value, f"objectives.reward.{name}")
            path = folder / Path(value).expanduser() if isinstance(value, str) else None
            if kind and path is not None and (kind.settings.model_fields[name].annotation is Path or path.exists()):
                reward[name] = os.path.abspath(path)


def _find_functions(values: dict[str, Any], folder: Path) -> None:
    """Name the files of reward functions that lie in the folder, `FILE.py:function` for `module:function`."""
    objectives = values.get("objectives")
    for objective in objectives if isinstance(objectives, list) else ():
        reward = objective.get("reward") if isinstance(objective, dict) else None
        module, _, name = reward.rpartition(":") if isinstance(reward, str) else ("", "", "")
        file = folder / Path(module if module.endswith(".py") else f"{module}.py").expanduser()
        if name and (module.endswith(".py") or (module.isidentifier() and file.is_file())):
            objective["reward"] = f"{os.path.abspath(file)}:{name}"


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SipoError(f"--set {override}: expected key=value, such as --set align.lr=1e-4")
    *sections, last = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SipoError(f"--set {override}: `{section}` holds no keys")
    target[last] = parse_yaml(text, f"--set {override}")
