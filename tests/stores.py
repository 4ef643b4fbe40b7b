"""An object store of this machine, moto's server of S3: one for all tests; and processes that die at a request to it."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from sipo.disk.objects import Objects

BUCKET = "runs-of-tests"
KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}

WRITES = ("_put", "upload", "delete")
REQUESTS = (*WRITES, "read", "download", "names")
"""Those of `Objects`."""


def die_at(number: int, requests: Sequence[str] = REQUESTS, tell: Callable[[int], object] = lambda made: None) -> None:
    """This process gets SIGKILL at its n-th request to a store, of whichever thread; `tell` hears of each before."""
    made = 0

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def touched(*given: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            tell(made)
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **options)

        return touched

    for name in requests:
        setattr(Objects, name, watched(getattr(Objects, name)))


@pytest.fixture(scope="session")
def store_address() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(store_address: str) -> Iterator[Any]:
    """A client of AWS's own, beside which sipo works; the bucket is `BUCKET`."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": store_address}.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
