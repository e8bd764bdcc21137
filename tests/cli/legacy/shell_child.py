"""A legacy tool on the pseudo-terminal of its parent: `cmu` or `kmu`, and arguments."""

from __future__ import annotations

import fcntl
import sys
import termios

from orchestrator.cli.legacy.main import cmu, kmu

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # getpass asks the controlling terminal
    sys.exit({"cmu": cmu, "kmu": kmu}[sys.argv[1]](sys.argv[2:]))
