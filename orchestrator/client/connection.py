"""A pipelined connection to one HSM: many threads share a stream.

One waiting thread reads for all (leader and followers): a lone caller reads its own reply
without a hand-over, and a crowd of callers needs no thread besides themselves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, NoAnswerError, UnavailableError
from orchestrator.wire.frames import FrameReader, pack_frame
from orchestrator.wire.messages import Refusal, Reply, Request, decode_reply, raise_refusal
from orchestrator.wire.streams import dial

CONNECT_TIMEOUT_S = 5.0


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
        self._reader = FrameReader(self._sock)
        self._writing, self._guard = threading.Lock(), threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._has_leader = False
        self._broken = ""

    def call(self, request: Request, timeout_s: float) -> Reply:
        """Send a request and return its reply (see `Channel`)."""
        deadline = time.monotonic() + timeout_s
        call = _Call()
        call.turn.acquire()
        with self._guard:
            if self._broken:
                raise UnavailableError(self._broken)
            self._number += 1
            number = self._number
            self._calls[number] = call
            lead = not self._has_leader
            self._has_leader = True
        try:
            frame = pack_frame(number, encode(request))
            with self._writing:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                self._sock.sendall(frame)
        except BaseException as exc:
            self._finish(number, lead=lead)
            if isinstance(exc, OSError):
                self._break("the connection to the HSM broke")
                raise UnavailableError("the connection to the HSM broke") from exc
            raise
        body = self._await(number, call, deadline, lead=lead)
        reply = decode_reply(body)
        if isinstance(reply, Refusal):
            raise_refusal(reply)
        return reply

    def _await(self, number: int, call: _Call, deadline: float, *, lead: bool) -> bytes:
        try:
            while not call.replies:
                if not lead:
                    if not call.turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                        raise NoAnswerError("the HSM did not answer in time")
                    if call.replies:
                        break
                    lead = True  # the leader left and passed its place on
                if self._broken:
                    raise UnavailableError(self._broken)
                self._read_one(deadline)
            return call.replies[0]
        finally:
            self._finish(number, lead=lead)

    def _read_one(self, deadline: float) -> None:
        try:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            frame = self._reader.read()
        except TimeoutError as exc:
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

    def _finish(self, number: int, *, lead: bool) -> None:
        """Forget a call; a leader passes its place to somebody who waits."""
        with self._guard:
            self._calls.pop(number, None)
            if not lead:
                return
            for other in self._calls.values():
                if not other.replies:
                    with contextlib.suppress(RuntimeError):
                        other.turn.release()
                    return
            self._has_leader = False

    def _break(self, reason: str) -> None:
        with self._guard:
            self._broken = self._broken or reason
        self._sock.close()

    def close(self) -> None:
        """End the connection."""
        self._break("the connection is closed")
