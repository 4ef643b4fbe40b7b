"""How fast and how small this work can be done: sipo against plain routes, floors and other libraries.

`python -m benchmarks` runs it; docs/benchmarks.md says what is measured and how to read it.
"""

from sipo.hush import settle

settle()  # before the works import what talks while it is imported
