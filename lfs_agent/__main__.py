"""`python -m lfs_agent`: the command line."""

import sys

from lfs_agent.cli import main

sys.exit(main())
