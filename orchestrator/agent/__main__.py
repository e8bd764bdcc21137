"""`python -m orchestrator.agent DIRECTORY`."""

import signal
import sys
from pathlib import Path

from orchestrator.agent.main import run

# Before any thread starts: the main thread alone waits for the end.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
sys.exit(run(Path(sys.argv[1])))
