"""Runs in processes of their own, which are killed at a touch of the disk, of a store, or at an optimizer step."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = '''
"""Runs each order, a line of JSON, in a process of its own: prints its id, then how it ended.

Imports are done once, before the forks. With `kill_at`, SIGKILL comes at that touch of the disk or optimizer step, or
with a `machine`, whose working copies are there, of the store; the number of touches is left in `count`.
"""
import gc, json, os, shutil, signal, sys
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast
import sipo.stages.report
from sipo.config.file import parse_config
from sipo.disk import objects, writer
from sipo.errors import SipoError
from sipo.runs.pipeline import run

os.fsync = os.fstat
touches = 0

def watch(owner, name, last):
    original = getattr(owner, name)
    def touched(*values, **options):
        global touches
        touches += 1
        if touches == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*values, **options)
    setattr(owner, name, touched)

def work(order):
    touched = [(os, "fsync"), (os, "replace"), (os, "rename"), (shutil, "rmtree"), (torch, "save"),
               (torch.optim.AdamW, "step")]
    if "machine" in order:
        os.environ["SIPO_CACHE"] = order["machine"]
        objects.PATIENCE, writer.LEASE = 20.0, order["lease"]
        touched = [(objects.Objects, name) for name in ("_put", "upload", "download", "delete")]
    for owner, name in touched:
        watch(owner, name, order.get("kill_at"))
    try:
        run(parse_config(order["settings"], "settings"), quiet=True)
    except SipoError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    with open(order["count"], "w") as stream:
        stream.write(str(touches))
    return 0

gc.collect()
gc.freeze()  # else a search for garbage copies every page of the parent
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work(json.loads(line))
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''


@dataclass
class Driver:
    process: subprocess.Popen[str]
    count: Path

    def start(self, settings: dict[str, Any], kill_at: int | None = None, **more: Any) -> int:
        """Begin a run and return its process id."""
        order = {"settings": settings, "kill_at": kill_at, "count": str(self.count), **more}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """Wait for the run that was begun: 0, or -9 where it was killed."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def run(self, settings: dict[str, Any], kill_at: int | None = None, **more: Any) -> int:
        self.start(settings, kill_at, **more)
        return self.end()


@contextmanager
def driving(folder: Path) -> Iterator[Driver]:
    (folder / "driver.py").write_text(DRIVER)
    process = subprocess.Popen(
        [sys.executable, str(folder / "driver.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield Driver(process, folder / "count")
    assert process.stdin
    process.stdin.close()
    process.wait(timeout=60)
