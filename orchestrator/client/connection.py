"""A pipelined connection to one HSM: many threads share a stream.

One waiting thread reads for all (leader and followers): a lone caller reads its own reply
without a hand-over, and a crowd of callers needs no thread besides themselves. An adopted
connection is read by one thread alone, which may begin a request without waiting for its reply.
Invariants: while calls wait, one of them leads, or the connection is adopted; whoever ends a call
in any way passes the lead on. A request that was begun is answered once, or told that it broke.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from orchestrator.client.channel import OnReply
from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, NoAnswerError, TamperedError, UnavailableError
from orchestrator.wire.frames import FrameReader, FrameWriter, pack_frame
from orchestrator.wire.messages import Refusal, Reply, Request, decode_reply, raise_refusal
from orchestrator.wire.streams import dial, limit_waits

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
BEGUN_MAX, BEGUN_BYTES_MAX = 64, 2048
"""What is begun fits the socket's buffer, so that `flush` does not wait for an HSM that hangs."""
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
        self._begun: dict[int, tuple[float, OnReply]] = {}  # the oldest comes first
        self._leader = 0  # the number of the call that reads for all, 0 when none waits
        self._reader_thread = 0  # the one that has adopted this connection
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
            if not self._reader_thread:
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
            if self._broken:
                raise UnavailableError(self._broken)
            if self._leader == number:
                self._read_one(deadline)
            elif self._reader_thread == threading.get_ident():
                self._pump_for(deadline)
            elif not call.turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise NoAnswerError("the HSM did not answer in time")
        return call.replies[0]

    def _pump_for(self, deadline: float) -> None:
        """Whoever reads for all may still have to wait for one reply."""
        self.pump(wait=True)
        if time.monotonic() >= deadline:
            raise NoAnswerError("the HSM did not answer in time")

    def _read_one(self, deadline: float) -> None:
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
        self._hand_out(*frame)

    def _hand_out(self, number: int, body: bytes) -> None:
        """Give a reply to whom it is for; a late one is for nobody."""
        if number == 0:
            self._break("the HSM refused the stream")
            raise UnavailableError("the HSM refused the stream")
        with self._guard:
            _, on_reply = self._begun.pop(number, (0.0, None))
            call = self._calls.get(number)
        if on_reply is not None:
            try:
                reply = decode_reply(body)
            except MalformedError:
                on_reply(None)
                raise
            on_reply(reply)
        elif call is not None and not call.replies:
            call.replies.append(body)
            with contextlib.suppress(RuntimeError):
                call.turn.release()

    # --- adopted: see Channel ---

    def adopt(self, reader: int) -> None:
        """Have this thread alone read, by `pump`."""
        self._reader_thread = reader

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when it is closed."""
        return self._sock.fileno()

    def begin(self, request: Request, on_reply: OnReply) -> bool:
        """Send a request by the next `flush`."""
        encoded = encode(request)
        with self._guard:
            if self._broken or len(encoded) > BEGUN_BYTES_MAX or len(self._begun) >= BEGUN_MAX:
                return False
            self._number += 1
            self._begun[self._number] = (time.monotonic(), on_reply)
            self._writer.leave(pack_frame(self._number, encoded))
        return True

    def flush(self) -> None:
        """Send what was begun."""
        try:
            self._writer.flush()
        except OSError:
            self._break("the connection to the HSM broke")

    def pump(self, *, wait: bool = False) -> None:
        """Hand out the replies that have come."""
        reader = self._reader
        try:
            if not reader.receive(0 if wait else socket.MSG_DONTWAIT):
                self._break("the HSM closed the connection")
            while (frame := reader.buffered()) is not None:
                self._hand_out(*frame)
        except BlockingIOError:
            pass
        except (OSError, MalformedError):
            self._break("the connection to the HSM broke")
        except UnavailableError:
            pass  # all have been told

    def oldest_begun_s(self) -> float:
        """Return when the oldest request began that has no reply."""
        with self._guard:
            return next(iter(self._begun.values()), (math.inf, None))[0]

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
            begun, self._begun = self._begun, {}
            calls = list(self._calls.values()) if self._reader_thread else []
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        self._sock.close()
        for call in calls:
            with contextlib.suppress(RuntimeError):
                call.turn.release()
        for _, on_reply in begun.values():
            on_reply(None)

    def close(self) -> None:
        """End the connection."""
        self._break("the connection is closed")


def expect(reply: object, kind: type[T]) -> T:
    """Return the reply, which must be of this kind."""
    if not isinstance(reply, kind):
        raise TamperedError(f"the HSM answered with {type(reply).__name__}")
    return reply
