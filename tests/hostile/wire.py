"""A real HSM behind real sockets, and strangers who write to them what they like."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from orchestrator.agent.hsm import Hsm
from orchestrator.agent.stream import Stream as ServedStream
from orchestrator.agent.turns import Turns
from orchestrator.model.entries import encode
from orchestrator.wire import messages as m
from orchestrator.wire.frames import FrameReader, pack_frame

EXAMPLES = int(os.environ.get("CLOISTER_FUZZ_EXAMPLES", "0"))
"""How many examples a fuzzing test tries; 0 leaves each its own, which together take seconds."""
DEADLINE_S = 20.0


def examples(usual: int) -> int:
    return EXAMPLES or usual


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def rpc_threads() -> int:
    return sum(thread.name == "rpc" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a number is wanted, not paths


class Stream:
    """A client's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self._reader = FrameReader(sock)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has hung up already
            self.sock.sendall(data)

    def ask(self, number: int, body: bytes) -> m.Reply:
        """Send one frame and return its reply, which must come."""
        self.send(pack_frame(number, body))
        return self.reply(number)

    def reply(self, number: int) -> m.Reply:
        frame = self._reader.read()
        assert frame is not None, "the connection ended unanswered"
        assert frame[0] == number
        return m.decode_reply(frame[1])

    def rest(self) -> list[tuple[int, m.Reply]]:
        """Say that nothing more comes; return what is answered until the end."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        found = []
        with contextlib.suppress(ConnectionResetError):
            while (frame := self._reader.read()) is not None:
                found.append((frame[0], m.decode_reply(frame[1])))
        return found

    def hello(self) -> m.Welcome:
        welcome = self.ask(7, encode(m.Hello()))
        assert isinstance(welcome, m.Welcome)
        return welcome

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Door:
    """Connections to one HSM, counted."""

    def __init__(self, hsm: Hsm) -> None:
        self.hsm = hsm
        self._turns = Turns(hsm)
        self.opened, self.ended = 0, 0
        self._count = threading.Lock()

    def open(self) -> Stream:
        near, far = socket.socketpair()
        self.opened += 1
        self._turns.add(ServedStream(self.hsm, far, self._note_end))
        return Stream(near)

    def _note_end(self) -> None:
        with self._count:
            self.ended += 1

    def wait_until_all_ended(self, *, but: int = 0) -> None:
        eventually(lambda: self.opened - self.ended == but)
