"""Where all tests begin: fixtures are in files of their own. A conftest.py beside its tests would take this one's name."""

import gc
import os
import sys
import warnings
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As where this environment is active: commands that are printed begin with `sipo`.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])

os.fsync = os.fstat  # a process outlives what it kills without it; thousands of waits for the disk are minutes

pytest_plugins = ["chance"]
FIXTURES = ("small", "served", "stores", "whole")

gc.disable()  # what imports and the collection made is garbage to nobody: a search for some would walk through all of it


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "no":  # who hands tests out to others imports nothing for them
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # what torch itself does
            for name in FIXTURES:
                config.pluginmanager.import_plugin(name)
    else:
        gc.enable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order is of chance, except that no long file comes last, which all other processors would wait for."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is one processor's, which makes what its tests share once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)
