"""One client's stream, as the threads that serve it share it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from orchestrator.agent.core import Peer
from orchestrator.agent.hsm import Hsm
from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, RefusedError
from orchestrator.wire.frames import FRAME_BYTES_MAX, FrameReader, FrameWriter, pack_frame
from orchestrator.wire.messages import Reply, refusal_of
from orchestrator.wire.streams import limit_waits, peer_uid

JOBS_MAX: Final = 32
"""Requests of one stream that are served at a time; its client is not read beyond."""
SEND_TIMEOUT_S: Final = 30


class Stream:
    """A connection: what has come of it, what is under way for it, and how it ends."""

    def __init__(self, hsm: Hsm, sock: socket.socket, on_end: Callable[[], None]) -> None:
        self._hsm, self._sock, self._on_end = hsm, sock, on_end
        # A client that never reads blocks its own stream, and not for ever.
        limit_waits(sock, send_s=SEND_TIMEOUT_S)
        self.peer: Peer = hsm.connect(peer_uid(sock))
        self._reader, self._writer = FrameReader(sock), FrameWriter(sock)
        self._count = threading.Lock()
        self._jobs = 1  # to read it is one
        self.is_open = True
        self.is_held = False
        """Not read until a job of it is done."""
        self.is_at_end = False
        """Nothing more comes; what has come is answered."""
        self._is_read_out = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def receive(self) -> bool:
        """Take what has come; False at the end."""
        try:
            return self._reader.receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False

    def frame(self) -> tuple[int, bytes] | None:
        """Return the next request's number and body, None where it is not here whole."""
        try:
            frame = self._reader.buffered()
            if frame is None and self.is_at_end:
                self._reader.check_end()
        except MalformedError as exc:
            self.leave(0, refusal_of(exc))  # number 0: the stream itself is broken
            self.try_flush()
            self.close()
            return None
        return frame

    def is_read_out(self) -> bool:
        """Note that all that came is answered or under way; tell whether nothing is any more."""
        if self._is_read_out:
            return False
        self._is_read_out = True
        return self.end_job()

    # --- replies ---

    def leave(self, number: int, reply: Reply) -> None:
        """Leave a reply for the next `flush`."""
        self._writer.leave(_packed(number, reply))

    def try_flush(self) -> bool:
        """Send what was left; False where that would be to wait for a client that does not read."""
        try:
            return self._writer.try_flush()
        except OSError:
            self.close()
            return True

    def flush(self) -> None:
        """Send what was left; the client may keep this thread waiting for a while."""
        try:
            self._writer.flush()
        except OSError:
            self.close()

    def reply(self, number: int, reply: Reply) -> None:
        """Send a reply."""
        self.leave(number, reply)
        self.flush()

    # --- jobs ---

    def begin_job(self, *, hold: bool) -> bool:
        """Count a job; tell whether the stream is held until one is done."""
        with self._count:
            self._jobs += 1
            self.is_held = hold or self._jobs > JOBS_MAX
            return self.is_held

    def end_job(self) -> bool:
        """Tell whether nothing is under way any more."""
        with self._count:
            self._jobs -= 1
            return self._jobs == 0

    def close(self) -> None:
        """Serve nothing more of it; who reads meets its end."""
        self.is_open = False
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Let everything go; nothing of it is under way, and nobody reads it."""
        self._sock.close()
        try:
            self._hsm.disconnect(self.peer)
        finally:
            self._on_end()


def _packed(number: int, reply: Reply) -> bytes:
    body = encode(reply)
    if len(body) > FRAME_BYTES_MAX:
        refusal = RefusedError(
            "reply-too-large",
            f"the reply has {len(body)} bytes a frame holds {FRAME_BYTES_MAX}; ask for less "
            "at a time",
        )
        body = encode(refusal_of(refusal))
    return pack_frame(number, body)
