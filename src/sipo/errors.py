"""The one exception that a user is meant to read, and what it says of others."""

from sipo.plain import plain


class SipoError(Exception):
    """Something the user can mend: one line that names the place and the way out.

    The command line prints it without a traceback and exits with status 2.

    >>> try:
    ...     sipo.open("elsewhere")
    ... except sipo.SipoError as problem:
    ...     print(problem)
    elsewhere: holds no run; name the folder that `sipo run` printed
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(" ".join(message.split())))


def first_line(error: BaseException | None) -> str:
    """Of what another library's error says, or its kind where it says nothing."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
