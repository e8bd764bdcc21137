"""Stands in for an agent: holds the lock, answers Hello, dies with its parent.

Files in the HSM's directory change it: `crash` ends it, `orphan` lets it outlive its parent.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

from orchestrator.model.entries import encode
from orchestrator.wire.frames import FrameReader, pack_frame
from orchestrator.wire.messages import Welcome
from orchestrator.wire.process import die_with_parent
from orchestrator.wire.streams import listen

directory = Path(sys.argv[1])
with (directory / "starts").open("a") as starts:
    starts.write(f"{time.monotonic()}\n")
if (directory / "crash").exists():
    sys.exit(7)
if not (directory / "orphan").exists():
    die_with_parent(os.getppid())
lock = (directory / "agent.lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
(directory / "environment").write_text("\n".join(os.environ))
welcome = Welcome(
    directory.name, "", "", "", b"", b"", b"", "", "", None, 0, b"", None, b"", b"", False, "", 0
)
listener = listen(directory / "agent.sock")
while True:
    sock, _ = listener.accept()
    with sock:
        if (frame := FrameReader(sock).read()) is not None:
            sock.sendall(pack_frame(frame[0], encode(welcome)))
