"""How torch's threads wait for each other on a processor, set before torch is loaded.

They wait in turning loops. Beside other work one of them is not running, and the others turn in the time that it would
need: beside one busy thread two threads are then slower than one. Short loops give the core away. On a quiet machine
they cost up to a fifth of decoding's speed, whose products are so short that the threads fall asleep between
them: a server, which is there for others, waits longer, but not `sipo play`, which has a browser beside it
(docs/benchmarks.md).
"""

import os
from collections.abc import MutableMapping, Sequence

SPIN, WAIT, THREADS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
TURNS, SERVING = "1000", "10000"
"""Of a waiting loop of GNU's OpenMP, a hundredth of a millisecond, and a tenth in a server; 300,000 without this."""


def settle_threads(command: Sequence[str] = (), environment: MutableMapping[str, str] = os.environ) -> None:
    """Shorten the loops, unless whoever started this process has said how threads wait."""
    if WAIT not in environment:
        environment.setdefault(SPIN, SERVING if command[:1] == ["serve"] else TURNS)


def about_threads(count: int, environment: MutableMapping[str, str] = os.environ) -> str:
    """How many torch has, and how they wait, in a line for people."""
    said = [f"{name}={environment[name]}" for name in (THREADS, SPIN, WAIT) if name in environment]
    return f"{count} of torch's ({', '.join(said)})"
