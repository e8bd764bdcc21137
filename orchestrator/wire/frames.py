"""Frames: a 16-byte header, then a msgpack body. Requests on one stream may overlap.

Header, big-endian: protocol version (u16), reserved zero (u16), body length (u32), request
number (u64) that the reply repeats.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from orchestrator.model.errors import MalformedError

PROTOCOL_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Length and number of a frame."""

    LAYOUT: ClassVar[Struct] = Struct("!HHIQ")

    body_bytes: int
    number: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse 16 bytes; raise MalformedError before anything is allocated for the body."""
        version, reserved, body_bytes, number = cls.LAYOUT.unpack(data)
        if version != PROTOCOL_VERSION or reserved:
            raise MalformedError(
                f"peer speaks protocol version {version}, this side {PROTOCOL_VERSION}"
            )
        if body_bytes > FRAME_BYTES_MAX:
            raise MalformedError(f"frame of {body_bytes} bytes exceeds {FRAME_BYTES_MAX}")
        return cls(body_bytes, number)


def pack_frame(number: int, body: bytes) -> bytes:
    """Return header and body."""
    if len(body) > FRAME_BYTES_MAX:
        raise MalformedError(f"frame of {len(body)} bytes exceeds {FRAME_BYTES_MAX}")
    return FrameHeader.LAYOUT.pack(PROTOCOL_VERSION, 0, len(body), number) + body


class FrameReader:
    """Reads frames from one socket; a caller holds a lock of its own around `read`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def read(self) -> tuple[int, bytes] | None:
        """Return (number, body), or None at a clean end of stream.

        Raises:
            MalformedError: a bad header, or a stream that ends within a frame.
            TimeoutError: the socket's timeout; what was read so far is kept.
        """
        header_bytes = FrameHeader.LAYOUT.size
        if not self._fill(header_bytes):
            if self._buffer:
                raise MalformedError("the stream ended within a frame")
            return None
        header = FrameHeader.parse(bytes(self._buffer[:header_bytes]))
        total = header_bytes + header.body_bytes
        if not self._fill(total):
            raise MalformedError("the stream ended within a frame")
        body = bytes(self._buffer[header_bytes:total])
        del self._buffer[:total]
        return header.number, body

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            piece = self._sock.recv(max(4096, size - len(self._buffer)))
            if not piece:
                return False
            self._buffer += piece
        return True
