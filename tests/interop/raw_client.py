"""A client of p11-kit's protocol that says whatever a test wants."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final, Self

from tests.interop.address import PIN

INITIALIZE, GET_INFO, GET_SLOT_LIST, OPEN_SESSION = 1, 3, 4, 10
LOGIN, GET_ATTRIBUTE_VALUE, FIND_OBJECTS_INIT, GENERATE_RANDOM = 18, 24, 26, 64
MAGIC: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"


def counted(value: bytes) -> bytes:
    """u32 length, bytes."""
    return struct.pack("!I", len(value)) + value


def array(value: bytes) -> bytes:
    """`ay` with data."""
    return b"\x01" + counted(value)


def ulong(value: int) -> bytes:
    """`u`."""
    return struct.pack("!Q", value)


def body(call: int, signature: str, *values: bytes) -> bytes:
    """A request's body."""
    return struct.pack("!I", call) + counted(signature.encode()) + b"".join(values)


class RawClient:
    """One connection."""

    def __init__(self, path: Path, *, offers: int = 0, timeout_s: float = 20) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self._code = 0x10
        self._offers = offers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def begin(self) -> Self:
        """Agree on a version and initialise."""
        self.sock.sendall(bytes([self._offers]))
        assert len(self.sock.recv(1)) == 1
        assert self.call(self.initialize()) == body(INITIALIZE, "")
        return self

    @staticmethod
    def initialize() -> bytes:
        """The body of the first call."""
        return body(INITIALIZE, "ayyay", array(MAGIC), b"\0", array(b"\0"))

    def frame(self, content: bytes, options: bytes = b"client") -> bytes:
        """Frame a body under the next code."""
        self._code += 1
        return struct.pack("!III", self._code, len(options), len(content)) + options + content

    def call(self, content: bytes) -> bytes:
        """Send a whole request; return the answer's body."""
        self.sock.sendall(self.frame(content))
        code, answer = self.answer()
        assert code == self._code
        return answer

    def answer(self) -> tuple[int, bytes]:
        """Read one answer."""
        code, options, size = struct.unpack("!III", self.read(12))
        self.read(options)
        return code, self.read(size)

    def read(self, size: int) -> bytes:
        """Read exactly so much."""
        got = b""
        while len(got) < size:
            if not (piece := self.sock.recv(size - len(got))):
                raise ConnectionError("the server closed")
            got += piece
        return got

    def is_closed(self) -> bool:
        """Wait until the server closes; True when it did, False when it says something."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def open_session(self) -> int:
        """Open a session on the first token."""
        slots = self.call(body(GET_SLOT_LIST, "yfu", b"\x01", struct.pack("!I", 8)))
        slot = slots[-8:]
        answer = self.call(body(OPEN_SESSION, "uu", slot, ulong(6)))
        assert answer[:4] == struct.pack("!I", OPEN_SESSION), answer
        (session,) = struct.unpack("!Q", answer[-8:])
        return int(session)

    def log_in(self) -> int:
        """Open a session and log in."""
        session = self.open_session()
        pin = array(PIN.encode())
        assert error_of(self.call(body(LOGIN, "uuay", ulong(session), ulong(1), pin))) is None
        return session


def error_of(answer: bytes) -> int | None:
    """Return the CK_RV of an error answer."""
    if answer[:4] != bytes(4):
        return None
    assert answer[4:9] == counted(b"u")
    (code,) = struct.unpack("!Q", answer[9:])
    return int(code)
