"""`python -m orchestrator.lab HOME`: the supervisor."""

import sys
from pathlib import Path

from orchestrator.lab.supervisor import run

if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]).absolute()))
