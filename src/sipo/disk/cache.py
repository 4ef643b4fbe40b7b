"""Where what can be made again is kept."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """`$SIPO_CACHE`, or the user's cache folder."""
    return Path(os.environ["SIPO_CACHE"]) if "SIPO_CACHE" in os.environ else user_cache_path("sipo")
