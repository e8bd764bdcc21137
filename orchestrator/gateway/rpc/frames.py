"""Frames: a 12-byte header (code, option bytes, body bytes; big-endian), options, body.

A header is judged before anything is allocated for what it announces.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from orchestrator.model.errors import MalformedError

HEADER: Final = Struct("!III")
HEADER_BYTES: Final = HEADER.size
FRAME_BYTES_MAX: Final = 2 * 1024 * 1024
"""Above every body that an application here has reason to send."""
OPTION_BYTES_MAX: Final = 4096
VERSION_MAX: Final = 2
"""Offered by clients from 0.25.6 on: the highest version that is spoken here."""


class FrameBuffer:
    """Bytes as they arrive, frames as they are complete.

    A frame that comes in many pieces is joined twice: when its header is whole, and at its end.
    """

    def __init__(self) -> None:
        self._data = b""
        self._later: list[bytes] = []
        self._later_bytes = self._wanted = 0

    def feed(self, piece: bytes) -> None:
        """Add what was received."""
        if self._data:
            self._later.append(piece)
            self._later_bytes += len(piece)
        else:
            self._data = piece

    @property
    def pending_bytes(self) -> int:
        """Return how many bytes wait for the rest of their frame."""
        return len(self._data) + self._later_bytes

    def frame(self) -> tuple[int, bytes] | None:
        """Return the next frame's code and body, or None before it is whole.

        Raises:
            MalformedError: no client sends such a header; the stream is lost.
        """
        data = self._data
        if self._later:
            if len(data) + self._later_bytes < self._wanted:
                return None
            data = self._data = b"".join((data, *self._later))
            self._later, self._later_bytes, self._wanted = [], 0, 0
        if len(data) < HEADER_BYTES:
            self._wanted = HEADER_BYTES
            return None
        code, option_bytes, body_bytes = HEADER.unpack_from(data)
        if option_bytes > OPTION_BYTES_MAX or body_bytes > FRAME_BYTES_MAX:
            raise MalformedError(
                f"a frame of {option_bytes} and {body_bytes} bytes exceeds {FRAME_BYTES_MAX}"
            )
        start = HEADER_BYTES + option_bytes
        end = start + body_bytes
        if len(data) < end:
            self._wanted = end
            return None
        self._data = data[end:]
        return code, data[start:end]


def pack(code: int, body: bytes) -> bytes:
    """Return an answer: header and body, to be sent at once."""
    return HEADER.pack(code, 0, len(body)) + body
