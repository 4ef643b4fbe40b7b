"""`python -m sipo`."""

import sys

from sipo.cli.main import main

sys.exit(main())
