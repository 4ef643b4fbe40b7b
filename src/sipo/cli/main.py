"""The entry point: whatever goes wrong for a user is one line on stderr, with an exit status that tells its kind.

0 is success, 2 something the user can mend, 130 an interrupt, 143 and 129 the signals TERM and HUP, 141 that whoever
read the output has gone (`| head`). A traceback means a bug in sipo.
"""

import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sipo.cli.signals import Stops

RESUMABLE = (["run"], ["testbed"], ["study"], ["data", "label"], ["reward", "train"])
STDOUT = 1
INTERRUPTED = 130
UNREAD = 141
"""What a shell says of a program that the signal PIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: that of this process) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with Stops(lambda: _stopped(arguments)) as stops:
        try:
            # While these are imported, nothing is there yet to be cleared away.
            from sipo.cli.threads import settle_threads
            from sipo.hush import settle

            settle()
            settle_threads(arguments)
            run = _loaded(arguments)
            stops.at_once = False
            status = run()
            sys.stdout.flush()
        except BaseException as error:
            stops.deaf = _launched()  # whoever started the processes stops those that are left, which are ending
            if isinstance(error, BrokenPipeError | SystemExit) and _nobody_reads():  # typer makes an exit of it
                return UNREAD
            status = INTERRUPTED if stops.received else _explained(error, arguments)
        if status == INTERRUPTED:
            _stopped(arguments)
            return stops.status
    return status or 0


def _loaded(arguments: list[str]) -> Callable[[], int | None]:
    """The command, ready to be run: by this process, or where a launcher started several, by all of them."""
    if _launched():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # where one process ends, others get to hear it of us
        from sipo.ranks import compute_together

        return lambda: compute_together(lambda: _loaded_alone(arguments)(), lambda: _stopped(arguments))
    return _loaded_alone(arguments)


def _launched() -> bool:
    """Did a launcher such as torchrun start this process beside others?"""
    told = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE")
    return all(name in os.environ for name in told) and os.environ["WORLD_SIZE"] != "1"


def _loaded_alone(arguments: list[str]) -> Callable[[], int | None]:
    from sipo.cli.app import app

    return lambda: app(arguments, prog_name="sipo", standalone_mode=False)


def _nobody_reads() -> bool:
    """Is it stdout that is closed at its other end? Then nothing is written to it any more, what is left neither."""
    look = select.poll()
    look.register(STDOUT, 0)  # errors are told of anyhow
    broken = bool(look.poll(0))
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return broken


def _stopped(arguments: Sequence[str]) -> None:
    resumable = any(arguments[: len(verb)] == verb for verb in RESUMABLE) or "--distil" in arguments
    _tell("stopped" + ("; the same command goes on from here" if resumable else ""))


def _explained(error: BaseException, arguments: Sequence[str]) -> int:
    """The exit status of what the user can mend, told in a line; anything else is raised again."""
    import typer

    from sipo.cli.disk import describe, full_memory
    from sipo.errors import SipoError

    # The class of usage errors has moved between releases of typer; its public subclass has not.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    if isinstance(error, SipoError):
        return _fail(str(error))
    if full := full_memory(error):
        return _fail(full)
    if isinstance(error, OSError):
        return _fail(describe(error))
    if isinstance(error, usage_error):
        message: str = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 0
        message = re.sub(
            r", unable to parse [^']*$", "", message.replace("Input should be", "it should be").rstrip(".")
        )
        return _fail(f"{message}; `sipo {_verb(arguments)}--help` shows how")
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        raise error.__cause__  # a file that ended early, and nobody who wanted to stop
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    raise error


def _verb(arguments: Sequence[str]) -> str:
    """The verb that help is asked for, with a space, or nothing where there is none such."""
    import typer

    from sipo.cli.app import app

    verbs: Any = typer.main.get_command(app)
    found = ""
    for argument in arguments:
        verbs = getattr(verbs, "commands", {}).get(argument)
        if verbs is None:
            break
        found += f"{argument} "
    return found


def _fail(message: str) -> int:
    from sipo.plain import plain

    _tell(f"error: {plain(' '.join(message.split()))}")
    return 2


def _tell(line: str) -> None:
    """On stderr. Of several processes one speaks."""
    if _launched():
        from sipo.ranks import speaks

        if not speaks():
            return
    print(line, file=sys.stderr, flush=True)
