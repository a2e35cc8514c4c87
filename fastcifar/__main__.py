"""Run the command line as `python -m fastcifar`."""

import sys

from fastcifar.cli import main

sys.exit(main())
