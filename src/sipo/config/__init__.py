"""The configuration of a run as a whole: the settings of all that it is made of, read from a file and checked.

A stage sees only the keys that `sipo.graph.build` declares for it, which is how a changed key invalidates exactly what
depends on it.
"""

from sipo.config.data import Data
from sipo.config.run import Config

__all__ = ["Config", "Data"]
