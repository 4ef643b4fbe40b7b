"""What a report's page holds for its scripts."""

import json
import re
import zlib
from base64 import b64decode
from typing import Any


def unpacked(page: str) -> list[Any]:
    """Every packed list, in the order of the page."""
    packed = re.findall(r"<template data-pack>([^<]*)</template>", page)
    return [json.loads(zlib.decompress(b64decode(each))) for each in packed]
