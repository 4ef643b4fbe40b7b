"""Texts for the page's scripts: ten thousand rows would stall a browser as HTML, so they are packed and shown a few at
a time. Every text passes `plain` here, since it reaches the page past the template.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sipo.plain import plain

ROOM = {"answers": 6_000_000, "cases": 12_000_000}
"""Characters of the page that a list may fill: with both of them the page stays below 20 MB."""
UNPACKED = 50_000_000
"""Characters of a list that a browser is asked to hold: what repeats itself takes next to no room packed."""


def pack(value: Any) -> Markup:
    """JSON, deflated, in base64, which holds no markup; `unpack` in unpack.js reads it."""
    return _packed(_json(value))


def pack_list(records: Sequence[Any], room: int, **about: Any) -> tuple[Markup, int]:
    """The records, as many from the first as there is room for, and how many those are; one at least."""
    head, texts, left = _json({**about, "records": []})[:-2], list[str](), UNPACKED
    for record in records:
        text = _json(record)
        left -= len(text)
        if left < 0 and texts:
            break
        texts.append(text)
    count = len(texts)
    while True:
        packed = _packed(f"{head}{','.join(texts[:count])}]}}")
        if len(packed) <= room or count <= 1:
            return packed, count
        count = max(1, min(count - 1, int(0.95 * count * room / len(packed))))


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _packed(text: str) -> Markup:
    return Markup(b64encode(zlib.compress(text.encode())).decode())


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
