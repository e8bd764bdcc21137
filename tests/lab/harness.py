"""A lab with its real supervisor and stand-ins for agents, all in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout

STAND_IN = Path(__file__).with_name("stand_in_agent.py")
RUN = (
    "import sys; from pathlib import Path; from orchestrator.lab.supervisor import run; "
    "sys.exit(run(Path(sys.argv[1]), tuple(sys.argv[2:])))"
)
HSM = "hsm-aaaaaaaaaaa"


def eventually(holds: Callable[[], object], within_s: float = 8.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def processes_of(path: Path) -> list[int]:
    """Living processes that name `path` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if any(word == str(path) or word.startswith(f"{path}/") for word in words):
            found.append(int(entry.name))
    return found


class Lab:
    """A lab whose home has a path that no sockaddr_un holds."""

    def __init__(self, home: Path) -> None:
        self.home, self.hosts, self.layout = home, LabHosts(home), Layout(home)
        self.supervisors: list[subprocess.Popen[bytes]] = []

    def up(self, wrapper: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        self.layout.prepare(2)
        with (self.home / "supervisor.err").open("ab") as log:
            supervisor = subprocess.Popen(  # our own program
                [
                    *wrapper,
                    sys.executable,
                    "-c",
                    RUN,
                    str(self.home),
                    sys.executable,
                    str(STAND_IN),
                ],
                stderr=log,
                env={**os.environ, "CLOUDHSM_PIN": "bob:secret", "CLOUDHSM_ROLE": "admin"},
            )
        self.supervisors.append(supervisor)
        eventually(lambda: lab.status(self.home).is_up)
        return supervisor

    def make(self, hsm: str = HSM, host: str = "host-1a") -> Path:
        self.hosts.create_hsm(host, hsm, "hsm2m.medium")
        return self.hosts.hsm_directory(host, hsm)

    def pid(self, hsm: str = HSM) -> int | None:
        return lab.find(self.home, hsm).pid

    def kill_agent(self, hsm: str = HSM) -> int:
        """`kill -9` from outside; return the pid. Never 0, which would be our own group."""
        pid = self.pid(hsm)
        assert pid
        os.kill(pid, signal.SIGKILL)
        return pid
