"""API keys: from the environment or a file, compared by their digests, and told to nobody."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from sipo.disk.publishing import check_on_disk
from sipo.errors import SipoError
from sipo.serve.wire import ApiError

VARIABLE = "SIPO_API_KEYS"
"""Holds keys, with commas between them."""


class Keys:
    """Without any, everybody may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def found(cls, environment: Mapping[str, str], file: Path | None) -> "Keys":
        """Those of the environment and of a file, one a line. Raises SipoError where either is there without any."""
        given = environment.get(VARIABLE, "")
        keys = [key.strip() for key in given.split(",") if key.strip()]
        if given and not keys:
            raise SipoError(f"{VARIABLE}: holds no key; write keys with commas between them, or unset it")
        if file is not None:
            check_on_disk(file)
            try:
                lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            except UnicodeDecodeError:
                raise SipoError(f"{file}: is no text in UTF-8") from None
            of_file = [line for line in lines if line and not line.startswith("#")]
            if not of_file:
                raise SipoError(f"{file}: holds no key; write one a line")
            keys += of_file
        return cls(keys)

    def __len__(self) -> int:
        return len(self._digests)

    def check(self, authorization: str | None) -> None:
        """Raise ApiError where the header is not `Bearer KEY` with a key that is known."""
        if not self._digests:
            return
        kind, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        known = [hmac.compare_digest(given, each) for each in self._digests]
        if kind.lower() != "bearer" or not any(known):
            raise ApiError(401, "give an API key that is known here: Authorization: Bearer KEY", code="invalid_api_key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
