"""The entry point: whatever goes wrong for a user is one line on stderr, with an exit status that tells its kind.

0 is success, 2 something the user can mend, 130 an interrupt. A traceback means a bug in sipo.
"""

import os
import sys
from collections.abc import Sequence

import typer

from sipo.cli.app import app
from sipo.cli.disk import describe
from sipo.cli.hush import settle
from sipo.errors import SipoError
from sipo.plain import plain

# The class of usage errors has moved between releases of typer; its public subclass has not.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
RESUMABLE = (["run"], ["testbed"], ["study"], ["data", "label"])
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: that of this process) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    settle()
    try:
        status = app(arguments, prog_name="sipo", standalone_mode=False)
    except SipoError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(describe(error))
    except UsageError as error:
        message: str = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 0
        return _fail(f"{message.rstrip('.')}; `sipo {_verb(arguments)}--help` shows how")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:
        resumable = any(arguments[: len(verb)] == verb for verb in RESUMABLE)
        print("stopped" + ("; the same command goes on from here" if resumable else ""), file=sys.stderr)
    return status or 0


def _verb(arguments: Sequence[str]) -> str:
    """The verb that help is asked for, with a space, or nothing where there is none such."""
    known = ["data", *(each.name or each.callback.__name__ for each in app.registered_commands if each.callback)]
    return f"{arguments[0]} " if arguments and arguments[0] in known else ""


def _fail(message: str) -> int:
    print(f"error: {plain(' '.join(message.split()))}", file=sys.stderr)
    return 2
