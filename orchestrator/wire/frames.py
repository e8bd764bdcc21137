"""Frames: a 16-byte header, then a msgpack body. Requests on one stream may overlap.

Header, big-endian: protocol version (u16), reserved zero (u16), body length (u32), request
number (u64) that the reply repeats.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from struct import Struct
from typing import Final

from orchestrator.model.errors import MalformedError

PROTOCOL_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 1024 * 1024
LEFT_FRAMES_MAX: Final = 64
_PIECE_BYTES: Final = 64 * 1024


HEADER: Final = Struct("!HHIQ")


def parse_header(data: bytes) -> tuple[int, int]:
    """Return the body's length and the number, of the first 16 bytes of `data`.

    Raises:
        MalformedError: before anything is allocated for the body.
    """
    version, reserved, body_bytes, number = HEADER.unpack_from(data)
    if version != PROTOCOL_VERSION or reserved:
        raise MalformedError(
            f"peer speaks protocol version {version}, this side {PROTOCOL_VERSION}"
        )
    if body_bytes > FRAME_BYTES_MAX:
        raise MalformedError(f"frame of {body_bytes} bytes exceeds {FRAME_BYTES_MAX}")
    return body_bytes, number


def pack_frame(number: int, body: bytes) -> bytes:
    """Return header and body."""
    if len(body) > FRAME_BYTES_MAX:
        raise MalformedError(f"frame of {len(body)} bytes exceeds {FRAME_BYTES_MAX}")
    return HEADER.pack(PROTOCOL_VERSION, 0, len(body), number) + body


class FrameReader:
    """Reads frames from one socket; a caller holds a lock of its own around `read`.

    What `receive` takes in many pieces is joined twice for a frame, however small they are.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._later: list[bytes] = []  # follows the buffer, which it does not complete
        self._later_bytes = self._wanted = 0

    def read(self) -> tuple[int, bytes] | None:
        """Return (number, body), or None at a clean end of stream.

        Raises:
            MalformedError: a bad header, or a stream that ends within a frame.
            TimeoutError, BlockingIOError: the socket's timeout; what was read so far is kept.
        """
        if (frame := self.buffered()) is not None:
            return frame
        if len(self._buffer) < HEADER.size and not self._fill(HEADER.size):
            self.check_end()
            return None
        total = HEADER.size + parse_header(self._buffer)[0]
        if len(self._buffer) < total and not self._fill(total):
            raise MalformedError("the stream ended within a frame")
        return self.buffered()

    def receive(self, flags: int = 0) -> bool:
        """Take what the socket holds, for `buffered`; False at the end of the stream.

        Raises:
            TimeoutError, BlockingIOError: nothing has come.
        """
        piece = self._sock.recv(_PIECE_BYTES, flags)
        if self._buffer:
            self._later.append(piece)
            self._later_bytes += len(piece)
        else:
            self._buffer = piece
        return bool(piece)

    def check_end(self) -> None:
        """Raise MalformedError where the stream has ended within a frame."""
        if self._buffer:
            raise MalformedError("the stream ended within a frame")

    def buffered(self) -> tuple[int, bytes] | None:
        """Return the next frame of what was received, None where it is not whole.

        Raises:
            MalformedError: a bad header.
        """
        if self._later:
            if len(self._buffer) + self._later_bytes < self._wanted:
                return None
            self._buffer = b"".join((self._buffer, *self._later))
            self._later, self._later_bytes = [], 0
        start = self._wanted = HEADER.size
        if len(self._buffer) < start:
            return None
        body_bytes, number = parse_header(self._buffer)
        end = start + body_bytes
        if len(self._buffer) < end:
            self._wanted = end
            return None
        body, self._buffer = self._buffer[start:end], self._buffer[end:]
        return number, body

    def _fill(self, size: int) -> bool:
        """Read until `size` bytes are there; most often one piece is all of a frame."""
        more = size - len(self._buffer)
        piece = self._sock.recv(max(4096, more))
        if len(piece) >= more:
            self._buffer = self._buffer + piece if self._buffer else piece
            return True
        pieces, held = [self._buffer, piece], len(self._buffer) + len(piece)
        try:
            while piece and held < size:
                piece = self._sock.recv(max(4096, size - held))
                pieces.append(piece)
                held += len(piece)
        finally:
            self._buffer = b"".join(pieces)
        return held >= size


class FrameWriter:
    """Writes the frames of many threads to one socket.

    Who finds another thread sending leaves its frame there and goes on: a crowd then costs one
    call to the kernel for many frames, and no thread waits for another's. A frame that is left is
    sent, or the sending thread meets the error that ends the stream.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._left: deque[bytes] = deque()
        self._is_broken = False

    def write(self, frame: bytes) -> None:
        """Send a frame, or leave it with the thread that sends; raise OSError when the stream ends.

        Blocks while too many frames are left: a peer that does not read must not fill our memory.
        """
        self._left.append(frame)
        self.flush()

    def leave(self, frame: bytes) -> None:
        """Leave a frame for the next `flush` or `write`, of whichever thread."""
        self._left.append(frame)

    def flush(self) -> None:
        """Send what was left; raise as `write` does."""
        # Looked at again after every release: a frame may have been left just before it.
        while self._left and self._sending.acquire(blocking=len(self._left) > LEFT_FRAMES_MAX):
            try:
                if self._is_broken:
                    raise BrokenPipeError("the stream broke within a frame")
                while self._left:
                    self._sock.sendall(self._take())
            except BaseException:
                self._is_broken = True
                raise
            finally:
                self._sending.release()

    def try_flush(self) -> bool:
        """Send what was left without waiting; False where that cannot be all, or others send."""
        while self._left:
            if not self._sending.acquire(blocking=False):
                return len(self._left) <= LEFT_FRAMES_MAX  # who sends takes these along
            try:
                if self._is_broken:
                    raise BrokenPipeError("the stream broke within a frame")
                while self._left:
                    piece = self._take()
                    try:
                        sent = self._sock.send(piece, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        sent = 0
                    if sent < len(piece):
                        self._left.appendleft(piece[sent:])
                        return False
            except BaseException:
                self._is_broken = True
                raise
            finally:
                self._sending.release()
        return True

    def _take(self) -> bytes:
        """Return the oldest frames, as many as make a piece; the caller holds the lock."""
        piece = self._left.popleft()
        if not self._left:
            return piece
        pieces, size = [piece], len(piece)
        while self._left and size + len(self._left[0]) <= _PIECE_BYTES:
            pieces.append(self._left.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)
