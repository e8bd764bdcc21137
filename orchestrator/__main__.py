"""`python -m orchestrator` is `cloister`."""

import sys

from orchestrator.cli.main import main

sys.exit(main())
