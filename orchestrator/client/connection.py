"""A pipelined connection to one HSM: many threads share a stream.

One waiting thread reads for all (leader and followers): a lone caller reads its own reply
without a hand-over, and a crowd of callers needs no thread besides themselves.
Invariant: while calls wait, one of them leads; whoever ends a call in any way passes the lead on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, NoAnswerError, TamperedError, UnavailableError
from orchestrator.wire.frames import FrameReader, FrameWriter, pack_frame
from orchestrator.wire.messages import Refusal, Reply, Request, decode_reply, raise_refusal
from orchestrator.wire.streams import dial, limit_waits

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
LOOK_UP_S = 0.05
"""How often a thread that waits for the stream looks at its deadline."""


@dataclass(slots=True, eq=False)
class _Call:
    """A request on its way. `turn` is released when it has its reply, or shall read itself."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    replies: list[bytes] = field(default_factory=list)


class RpcConnection:
    """A `Channel` over a unix socket."""

    def __init__(self, path: Path, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect.

        Raises:
            UnavailableError: nobody listens at `path`.
        """
        try:
            self._sock = dial(path, connect_timeout_s)
        except OSError as exc:
            raise UnavailableError(f"no HSM answers at {path}: {exc.strerror or exc}") from exc
        self._sock.settimeout(None)
        limit_waits(self._sock, send_s=SEND_TIMEOUT_S, receive_s=LOOK_UP_S)
        self._reader, self._writer = FrameReader(self._sock), FrameWriter(self._sock)
        self._guard = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._leader = 0  # the number of the call that reads for all, 0 when none waits
        self._broken = ""

    def call(self, request: Request, timeout_s: float) -> Reply:
        """Send a request and return its reply (see `Channel`)."""
        deadline = time.monotonic() + timeout_s
        encoded = encode(request)
        call = _Call()
        call.turn.acquire()
        with self._guard:
            if self._broken:
                raise UnavailableError(self._broken)
            self._number += 1
            number = self._number
            self._calls[number] = call
            self._leader = self._leader or number
        try:
            self._write(pack_frame(number, encoded))
            body = self._await(number, call, deadline)
        finally:
            self._finish(number)
        reply = decode_reply(body)
        if isinstance(reply, Refusal):
            raise_refusal(reply)
        return reply

    def _write(self, frame: bytes) -> None:
        try:
            self._writer.write(frame)
        except OSError as exc:
            self._break("the connection to the HSM broke")
            raise UnavailableError("the connection to the HSM broke") from exc

    def _await(self, number: int, call: _Call, deadline: float) -> bytes:
        while not call.replies:
            if self._leader == number:
                self._read_one(deadline)
            elif not call.turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise NoAnswerError("the HSM did not answer in time")
        return call.replies[0]

    def _read_one(self, deadline: float) -> None:
        if self._broken:
            raise UnavailableError(self._broken)
        try:
            frame = self._reader.read()
        except BlockingIOError as exc:
            if time.monotonic() < deadline:
                return
            raise NoAnswerError("the HSM did not answer in time") from exc
        except (OSError, MalformedError) as exc:
            self._break("the connection to the HSM broke")
            raise UnavailableError("the connection to the HSM broke") from exc
        if frame is None:
            self._break("the HSM closed the connection")
            raise UnavailableError("the HSM closed the connection")
        number, body = frame
        if number == 0:
            self._break("the HSM refused the stream")
            raise UnavailableError("the HSM refused the stream")
        with self._guard:
            call = self._calls.get(number)
        if call is not None and not call.replies:
            call.replies.append(body)
            with contextlib.suppress(RuntimeError):
                call.turn.release()

    def _finish(self, number: int) -> None:
        """Forget a call; one that leads, or was just made to, passes the lead to one that waits."""
        with self._guard:
            self._calls.pop(number, None)
            if self._leader != number:
                return
            self._leader = 0
            for waiting, call in self._calls.items():
                if not call.replies:
                    self._leader = waiting
                    with contextlib.suppress(RuntimeError):
                        call.turn.release()
                    return

    def _break(self, reason: str) -> None:
        with self._guard:
            self._broken = self._broken or reason
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        self._sock.close()

    def close(self) -> None:
        """End the connection."""
        self._break("the connection is closed")


def expect(reply: object, kind: type[T]) -> T:
    """Return the reply, which must be of this kind."""
    if not isinstance(reply, kind):
        raise TamperedError(f"the HSM answered with {type(reply).__name__}")
    return reply
