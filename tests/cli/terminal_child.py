"""One command on the pseudo-terminal of its parent: `NOTES ARGUMENTS...`.

Writes to the file NOTES what the stand-ins were asked to change.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from pathlib import Path

from orchestrator.cli.main import main
from tests.cli.stand_ins import StandIns

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # getpass asks the controlling terminal
    notes, *arguments = sys.argv[1:]
    services = StandIns(Path(notes).parent)
    status = main(arguments, services)
    Path(notes).write_text("\n".join(map(repr, services.calls)))
    sys.exit(status)
