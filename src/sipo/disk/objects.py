"""A folder in an object store, by s3fs: what goes wrong there is one line, and what passes is tried again for a while.

Credentials, region and endpoint are found as all of AWS's tools find them, and are in no message: of an error its code
is told, and nothing that a server or a library says in words.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sipo.commands import install_extra
from sipo.disk.damage import note
from sipo.errors import SipoError
from sipo.places import copies, shown

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for which a store that is out of reach is tried again."""
PAUSE = 5.0
"""At most, between two tries."""
TELLING = 5.0
"""Seconds out of reach after which that is said."""
AT_ONCE = 1000
"""Objects in a request that deletes them, at most."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
PASSING = (
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "OperationAborted",
    "500",
    "502",
    "503",
    "504",
)
UNREACHED = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "TimeoutError"}
"""Kinds of errors, of several libraries, that are the network's."""
MEANING = {
    "NoSuchBucket": "there is no such bucket; make it, or name another",
    "NoCredentialsError": "no credentials were found; give them as for the aws command",
    "PartialCredentialsError": "the credentials are not complete; give them as for the aws command",
    "NoSuchKey": "an object that belongs to the run is gone",
    "404": "there is no such bucket, or an object that belongs to the run is gone",
}


class Read(NamedTuple):
    content: bytes
    tag: str
    """Of this content, for a later write on the condition that nobody else wrote."""
    age: float
    """Seconds since it was written, by the store's own clock: those of machines may be wrong, or jump."""


class GoneError(SipoError):
    """An object is not there."""


class Objects:
    """The objects below one name, `s3://BUCKET/FOLDER`; those that are named here are below that."""

    def __init__(self, copy: Path) -> None:
        """Of the store that `copy` is, or is to be, a working copy of. Raises SipoError where it cannot be one."""
        scheme, bucket, *rest = copy.relative_to(copies()).parts
        self.name = shown(copy)
        if scheme != "s3":
            raise SipoError(f"{self.name}: a run lies in a folder, or in a store that is named s3://BUCKET/FOLDER")
        if len(rest) < 2 or "@" in bucket or ".." in self.name.split("/"):
            raise SipoError("s3://: name a run as s3://BUCKET/FOLDER, without keys or `..`")
        try:
            import s3fs
        except ImportError:
            raise SipoError(
                f"{self.name}: needs packages that are not installed; `{install_extra('s3')}` gets them"
            ) from None
        self.bucket, _, self.folder = self.name.removeprefix("s3://").partition("/")
        # It is here that is tried again, and for how long: not in each of three libraries.
        once = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
        self.files = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=once)
        self.files.retries = 1
        self.patience = PATIENCE
        self._lost = False
        """Has it been said that the store is out of reach?"""

    def read(self, name: str) -> Read | None:
        """An object's content; None where it is not there."""

        def once() -> Read:
            answer = self.files.call_s3("get_object", Bucket=self.bucket, Key=self._key(name))
            return Read(_all_of(self.files, answer["Body"]), answer["ETag"], _age(answer))

        try:
            return self._tried(once)
        except GoneError:
            return None

    def write(self, name: str, content: bytes, tag: str | None) -> str | None:
        """Write an object where it is still the one with this tag; without, where there is none. Its new tag, or None
        where somebody else wrote.
        """
        written = self._conditional(name, content, tag)
        if written is None and (there := self.read(name)) and there.content == content:
            return there.tag  # the answer to a try that did succeed was lost
        return written

    def check_conditions(self, name: str, content: bytes) -> None:
        """Raise SipoError where the store writes an object that is there on the condition that it is not."""
        if self._conditional(name, content, None) is not None:
            raise SipoError(
                f"{self.name}: this store ignores conditions (If-None-Match), so it cannot keep two writers apart; "
                "take one that knows them, or a folder"
            )

    def _conditional(self, name: str, content: bytes, tag: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

        def once() -> str | None:
            try:
                return str(self._put(name, content, **condition)["ETag"])
            except OSError as error:
                if _code(error) in REFUSED or (tag and _code(error) == "NoSuchKey"):
                    return None
                raise

        return self._tried(once)

    def put(self, name: str, content: bytes, kind: str) -> None:
        """Write an object that people open, of a media type."""
        self._tried(lambda: self._put(name, content, ContentType=kind))

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        if files:
            here, there = [str(file) for file, _ in files], [self._path(name) for _, name in files]
            self._tried(lambda: self.files.put(here, there))

    def download(self, files: Sequence[tuple[str, Path]]) -> None:
        """Raises GoneError where one is not there."""
        if files:
            there, here = [self._path(name) for name, _ in files], [str(file) for _, file in files]
            self._tried(lambda: self.files.get(there, here))

    def delete(self, names: Iterable[str]) -> None:
        """By key, and never by pattern, as `rm` of fsspec takes a `*` or `[x]` in the name of a run for one."""
        keys = [{"Key": self._key(name)} for name in names]
        for start in range(0, len(keys), AT_ONCE):
            about = {"Objects": keys[start : start + AT_ONCE], "Quiet": True}
            self._tried(lambda: self.files.call_s3("delete_objects", Bucket=self.bucket, Delete=about))  # noqa: B023

    def names(self, below: str) -> list[str]:
        """Of all objects below a name."""
        top = self._path("")
        return [path.removeprefix(top) for path in self._tried(lambda: self.files.find(self._path(below)))]

    def _put(self, name: str, content: bytes, **options: str) -> Any:
        return self.files.call_s3("put_object", Bucket=self.bucket, Key=self._key(name), Body=content, **options)

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self._key(name)}"

    def _tried(self, work: Callable[[], T]) -> T:
        began, pause = time.monotonic(), 0.1
        while True:
            try:
                done = work()
                self._lost = False
                return done
            except SipoError:
                raise
            except Exception as error:  # of s3fs, aiobotocore and aiohttp, whose kinds differ by release
                code = _code(error)
                if code in ("NoSuchKey", "404"):
                    raise GoneError(f"{self.name}: {MEANING[code]}") from None
                if not _passes(error):
                    if isinstance(error, OSError) and error.errno and _answer(error) is None:
                        raise  # of the disk here
                    raise SipoError(f"{self.name}: {_meaning(error)}") from None
                if time.monotonic() - began > TELLING and not self._lost:
                    self._lost = True
                    note(f"{self.name}: cannot be reached ({code}); tried again for {self.patience:.0f} s")
                if time.monotonic() - began > self.patience:
                    raise SipoError(
                        f"{self.name}: could not be reached for {self.patience:.0f} s ({code}); once it can, give the "
                        "same command again"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)


def _all_of(files: Any, body: Any) -> bytes:
    from fsspec.asyn import sync

    async def read() -> bytes:
        try:
            return bytes(await body.read())
        finally:
            body.close()

    return bytes(sync(files.loop, read))


def _age(answer: Any) -> float:
    from email.utils import parsedate_to_datetime

    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return max(0.0, (now - answer["LastModified"]).total_seconds())


def _answer(error: BaseException) -> Mapping[str, Any] | None:
    """What the store answered, where it did."""
    return next((found for each in (error, error.__cause__) if (found := getattr(each, "response", None))), None)


def _code(error: BaseException) -> str:
    """What a store calls the error, or the kind of error that kept us from asking."""
    return str((_answer(error) or {}).get("Error", {}).get("Code", "")) or type(error).__name__


def _passes(error: BaseException) -> bool:
    """May the same request succeed in a moment?"""
    kinds = {kind.__name__ for each in (error, error.__cause__) for kind in type(each).__mro__}
    return _code(error) in PASSING or bool(kinds & UNREACHED)


def _meaning(error: BaseException) -> str:
    code = _code(error)
    if isinstance(error, PermissionError):
        return f"the store refuses it ({code}); use credentials that may read and write there"
    if code in MEANING or _answer(error):
        return MEANING.get(code, f"the store refuses it ({code})")
    return (
        f"the store cannot be asked ({code}); look at what the aws command reads: AWS_ENDPOINT_URL (http://HOST or "
        "https://HOST), AWS_DEFAULT_REGION, AWS_PROFILE"
    )
