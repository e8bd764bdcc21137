"""`cloudhsm-cli` on the pseudo-terminal of its parent."""

from __future__ import annotations

import fcntl
import sys
import termios

from orchestrator.cli.cloudhsm.main import main

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # getpass asks the controlling terminal
    sys.exit(main())
