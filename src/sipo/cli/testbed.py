"""`sipo testbed`: an environment prepared, and what is to be run in it."""

from importlib import import_module
from pathlib import Path

from sipo.errors import SipoError
from sipo.testbed import ENVIRONMENTS, Environment, prepare
from sipo.testbed.preparation import write_config


def make_testbed(environment: str, seed: int, to: Path) -> Path:
    """Prepare the environment in `to`; the run.yaml of it."""
    return write_config(prepare(find_environment(environment), seed, to))


def find_environment(name: str) -> Environment:
    """H, G or F, or what `module:NAME` names: an Environment, or a class of them that needs no arguments."""
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise SipoError(f"--environment: `{name}` is none; they are {', '.join(ENVIRONMENTS)}, or give module:NAME")
    try:
        found = getattr(import_module(module), attribute)
        found = found() if isinstance(found, type) else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may be a script, and exit
        reason = f"{type(error).__name__}: {error}"
        raise SipoError(f"--environment {name}: {reason}; name an Environment, its module on PYTHONPATH") from None
    if not isinstance(found, Environment):
        raise SipoError(f"--environment {name}: is {type(found).__name__}, no Environment; subclass it")
    return found
