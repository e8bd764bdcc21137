"""The client's half of p11-kit's RPC, written from its description and not from our decoder."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

BYTE = {1, 2, 0x86, *range(0x103, 0x10D), *range(0x162, 0x166), 0x170, 0x171, 0x202, 0x210}
ULONG = {0, 0x80, 0x100, 0x121, 0x160, 0x161, 0x166}
HANDSHAKE = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
NULL = b"\xff\xff\xff\xff"


def u32(n: int) -> bytes:
    return struct.pack("!I", n)


def u64(n: int) -> bytes:
    return struct.pack("!Q", n)


def counted(data: bytes | None) -> bytes:
    return NULL if data is None else u32(len(data)) + data


def ay(data: bytes | None, offered: int = 0) -> bytes:
    if data is None:
        return b"\0" + u32(0) if offered == 0 else b"\1" + NULL
    return b"\1" + counted(data)


def attribute(kind: int, value: Any) -> bytes:
    if value is None:
        return u32(kind) + b"\0"
    if kind in BYTE:
        return u32(kind) + b"\1" + u32(1) + bytes([value])
    if kind in ULONG:
        return u32(kind) + b"\1" + u32(8) + u64(value)
    if kind == 0x40000600:
        return u32(kind) + b"\1" + u32(8 * len(value)) + u32(len(value)) + b"".join(map(u64, value))
    if kind in {0x40000211, 0x40000212}:
        return u32(kind) + b"\1" + u32(24 * len(value)) + attributes(value)
    return u32(kind) + b"\1" + u32(len(value)) + counted(value)


def attributes(template: Iterable[tuple[int, Any]]) -> bytes:
    items = [attribute(kind, value) for kind, value in template]
    return u32(len(items)) + b"".join(items)


def rooms(asked: Sequence[tuple[int, int]]) -> bytes:
    return u32(len(asked)) + b"".join(u32(kind) + u32(room) for kind, room in asked)


def mechanism(offered: int, number: int, parameter: bytes | None = None) -> bytes:
    """`parameter` is the table's encoding; None for a mechanism without one."""
    if offered < 2:
        return u32(number) + (NULL if parameter is None else parameter)
    return u32(number) + (b"" if parameter is None else b"\1" + parameter)


class Refused(Exception):  # noqa: N818  # an answer
    def __init__(self, rv: int) -> None:
        super().__init__(hex(rv))
        self.rv = rv


class Answer:
    """The values of an answer, taken in order."""

    def __init__(self, body: bytes) -> None:
        size = struct.unpack_from("!I", body, 4)[0]
        self.call, self.signature = struct.unpack_from("!I", body)[0], body[8 : 8 + size].decode()
        self.rest = body[8 + size :]

    def take(self, count: int) -> bytes:
        data, self.rest = self.rest[:count], self.rest[count:]
        assert len(data) == count, "the answer is shorter than its signature"
        return data

    def u(self) -> int:
        return int(struct.unpack("!Q", self.take(8))[0])

    def n(self) -> int:
        return int(struct.unpack("!I", self.take(4))[0])

    def bytes_(self) -> bytes | int:
        """Data, or how many bytes would be needed."""
        form, count = self.take(1)[0], self.n()
        return self.take(count) if form else count

    def ulongs(self) -> list[int] | int:
        form, count = self.take(1)[0], self.n()
        return [self.u() for _ in range(count)] if form else count

    def attributes(self) -> tuple[dict[int, Any], int]:
        found: dict[int, Any] = {}
        for _ in range(self.n()):
            kind, is_valid = self.n(), self.take(1)[0]
            if not is_valid:
                found[kind] = None
                continue
            length = self.n()
            if kind in BYTE:
                found[kind] = self.take(1)[0]
            elif kind in ULONG:
                found[kind] = self.u()
            elif kind == 0x40000600:
                found[kind] = [self.u() for _ in range(self.n())]
            else:
                size = self.n()
                found[kind] = length if size == 0xFFFFFFFF else self.take(size)
        return found, self.u()


class Client:
    """One application's connection."""

    def __init__(self, sock: socket.socket, offered: int, *, initialized: bool = True) -> None:
        self.sock, self.offered, self.code = sock, offered, 0x0F
        sock.settimeout(20)
        sock.sendall(bytes([offered]))
        assert sock.recv(1) == bytes([min(offered, 2)])
        if initialized:
            self.initialize()

    def initialize(self, handshake: bytes = HANDSHAKE) -> None:
        self.call(1, "ayyay", ay(handshake) + b"\0" + ay(b"\0"))

    def send(self, call: int, signature: str, values: bytes = b"") -> int:
        self.code += 1
        body = u32(call) + counted(signature.encode()) + values
        frame = struct.pack("!III", self.code, 6, len(body)) + b"client" + body
        self.sock.sendall(frame)
        return self.code

    def receive(self) -> tuple[int, Answer]:
        code, options, size = struct.unpack("!III", self._exactly(12))
        assert options == 0
        return code, Answer(self._exactly(size))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, "the gateway closed the connection"
            data += piece
        return data

    def call(self, call: int, signature: str, values: bytes = b"") -> Answer:
        sent = self.send(call, signature, values)
        code, answer = self.receive()
        assert code == sent
        if answer.call == 0:
            assert answer.signature == "u"
            raise Refused(answer.u())
        assert answer.call == call
        return answer

    # --- what applications do ---

    def open(self, flags: int = 6) -> int:
        return self.call(10, "uu", u64(0) + u64(flags)).u()

    def login(self, session: int, pin: bytes, user_type: int = 1) -> None:
        self.call(18, "uuay", u64(session) + u64(user_type) + ay(pin))

    def find(self, session: int, template: Sequence[tuple[int, Any]]) -> list[int]:
        self.call(26, "uaA", u64(session) + attributes(template))
        found: list[int] = []
        while more := self.call(27, "ufu", u64(session) + u32(7)).ulongs():
            assert isinstance(more, list)
            found += more
        self.call(28, "u", u64(session))
        return found

    def read(self, session: int, handle: int, *kinds: int) -> tuple[dict[int, Any], int]:
        asked = rooms([(kind, 4096) for kind in kinds])
        return self.call(24, "uufA", u64(session) + u64(handle) + asked).attributes()

    def init(self, call: int, session: int, chosen: bytes, key: int) -> None:
        self.call(call, "uMu", u64(session) + chosen + u64(key))

    def one_step(self, call: int, session: int, data: bytes, room: int = 4096) -> bytes | int:
        return self.call(call, "uayfy", u64(session) + ay(data) + u32(room)).bytes_()

    def final(self, call: int, session: int, room: int = 4096) -> bytes | int:
        return self.call(call, "ufy", u64(session) + u32(room)).bytes_()

    def pair(
        self,
        session: int,
        chosen: bytes,
        public: Sequence[tuple[int, Any]],
        private: Sequence[tuple[int, Any]],
    ) -> tuple[int, int]:
        values = u64(session) + chosen + attributes(public) + attributes(private)
        answer = self.call(59, "uMaAaA", values)
        return answer.u(), answer.u()

    def key(self, session: int, chosen: bytes, template: Sequence[tuple[int, Any]]) -> int:
        return self.call(58, "uMaA", u64(session) + chosen + attributes(template)).u()
