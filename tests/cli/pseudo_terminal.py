"""A program on a real pseudo-terminal, and a person who types."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 45.0


@dataclass
class Terminal:
    """A command on a pseudo-terminal, and all that it has written."""

    master: int
    process: subprocess.Popen[bytes]
    notes: Path
    seen: str = ""
    _read: int = 0

    def answer(self, question: str, line: str) -> None:
        """Wait until `question` is asked once more, then type a line."""
        self._read_until(question)
        self.seen += "⏎"
        os.write(self.master, line.encode() + b"\n")

    def interrupt_at(self, question: str) -> None:
        self._read_until(question)
        os.write(self.master, b"\x03")

    def end(self) -> int:
        """Wait for the end and return the exit status."""
        while self._read_some():
            pass
        return self.process.wait(TIMEOUT_S)

    def type(self, text: str) -> None:
        """Type without waiting."""
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Wait for `text` after what was waited for last; return what came before it."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self.seen.find(text, self._read)) < 0:
            assert time.monotonic() < deadline, self.seen[self._read :]
            assert self._read_some(), self.seen[self._read :]
        before, self._read = self.seen[self._read : found], found + len(text)
        return before

    def close(self) -> None:
        """Kill what still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)

    def _read_until(self, question: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while question not in self.seen.rpartition("⏎")[2]:
            assert time.monotonic() < deadline, self.seen
            assert self._read_some(), self.seen

    def _read_some(self) -> bool:
        if not select.select([self.master], [], [], TIMEOUT_S)[0]:
            return False
        try:
            data = os.read(self.master, 4096)
        except OSError:  # EIO: the other side is closed
            return False
        self.seen += data.decode()
        return bool(data)


def spawn(argv: Sequence[str], notes: Path, variables: Mapping[str, str]) -> Terminal:
    """Start a program; it makes the terminal its controlling one."""
    master, slave = os.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        **variables,
    }
    process = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    return Terminal(master, process, notes)
