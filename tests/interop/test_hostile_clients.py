"""Clients that say nonsense, half of something, nothing at all, or never listen.

Each harms only its own connection: the gateway goes on, and what it spent for the client is freed.
"""

from __future__ import annotations

import contextlib
import resource
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.gateway.crew import IDLE_MAX, SPARE
from orchestrator.gateway.report import read_status
from tests.interop.address import TokenAddress, eventually
from tests.interop.raw_client import (
    FIND_OBJECTS_INIT,
    GENERATE_RANDOM,
    GET_ATTRIBUTE_VALUE,
    GET_INFO,
    RawClient,
    array,
    body,
    counted,
    error_of,
    ulong,
)

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.gateway_only]
MOST_KB = 200 * 1024
Change = Callable[[RawClient], bytes]


def children(pid: int) -> list[int]:
    """Living processes below the server's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def highest_kb(token: TokenAddress) -> int:
    """The most memory that a worker held; one that ends meanwhile is left out."""
    found = []
    for pid in children(token.server_pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found += [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return max(found)


def serves(token: TokenAddress) -> None:
    """Another client is served at once, whatever the first one does."""
    with RawClient(token.socket) as other:
        other.begin()
        assert error_of(other.call(body(GET_INFO, ""))) is None


def is_at_rest(token: TokenAddress) -> bool:
    """Nobody is served any more, and no more processes are there than wait for clients."""
    is_idle = not read_status(token.socket).clients
    return is_idle and len(children(token.server_pid)) <= SPARE + IDLE_MAX


FRAMES = {
    "body of 4 GiB": lambda client: struct.pack("!III", 9, 0, 0xFFFFFFFF),
    "body of 1 GiB": lambda client: struct.pack("!III", 9, 0, 0x40000000),
    "options of 4 GiB": lambda client: struct.pack("!III", 9, 0xFFFFFFFF, 0),
    "both": lambda client: struct.pack("!III", 9, 0xFFFFFFFF, 0xFFFFFFFF),
}


@pytest.mark.parametrize("name", sorted(FRAMES))
def test_a_frame_that_nobody_sends_ends_the_connection(token: TokenAddress, name: str) -> None:
    with RawClient(token.socket) as client:
        client.begin()
        client.sock.sendall(FRAMES[name](client))
        assert client.is_closed()
        serves(token)
    eventually(lambda: is_at_rest(token))


HUGE = struct.pack("!I", 0xFFFFFFFF)
BODIES = {
    "empty": b"",
    "half a call id": b"\0\0",
    "no such call": body(9999, ""),
    "the error call": body(0, "u", ulong(0)),
    "another's signature": body(GET_INFO, "ayfy"),
    "a signature of 4 GiB": struct.pack("!I", GET_INFO) + HUGE,
    "a signature past the end": struct.pack("!II", GET_INFO, 100) + b"u",
    "values missing": body(GENERATE_RANDOM, "ufy"),
    "half a value": body(GENERATE_RANDOM, "ufy", b"\0\0\0"),
    "4 GiB of attributes": body(FIND_OBJECTS_INIT, "uaA", ulong(1), HUGE),
    "2 GiB of attributes": body(FIND_OBJECTS_INIT, "uaA", ulong(1), b"\x7f\xff\xff\xff"),
    "an attribute past the end": body(
        *(FIND_OBJECTS_INIT, "uaA", ulong(1), struct.pack("!IIBI", 1, 3, 1, 1000), b"\0\0\x03\xe8")
    ),
    "4 GiB of room": body(GET_ATTRIBUTE_VALUE, "uufA", ulong(1), ulong(1), HUGE),
    "a byte array past the end": body(63, "uay", ulong(1), b"\x01\0\1\0\0abc"),
    "a byte array of form 7": body(63, "uay", ulong(1), b"\x07" + counted(b"abc")),
    "templates in templates": body(
        *(FIND_OBJECTS_INIT, "uaA", ulong(1)),
        b"".join(struct.pack("!IIBI", 1, 0x40000211, 1, 24) for _ in range(5000)),
    ),
}


@pytest.mark.parametrize("name", sorted(BODIES))
def test_nonsense_in_a_frame_is_refused_and_the_connection_goes_on(
    token: TokenAddress, name: str
) -> None:
    with RawClient(token.socket) as client:
        client.begin()
        assert error_of(client.call(BODIES[name])) not in {None, 0}
        assert error_of(client.call(body(GET_INFO, ""))) is None
        assert highest_kb(token) < MOST_KB


def test_random_numbers_are_not_drawn_by_the_gigabyte(token: TokenAddress) -> None:
    with RawClient(token.socket) as client:
        session = client.begin().log_in()
        for room in (0x7FFFFFFF, 0xFFFFFFFF, 0x10000000):
            asked = body(GENERATE_RANDOM, "ufy", ulong(session), struct.pack("!I", room))
            assert error_of(client.call(asked)) is not None
        small = body(GENERATE_RANDOM, "ufy", ulong(session), struct.pack("!I", 32))
        assert len(client.call(small)) == len(body(GENERATE_RANDOM, "ay", array(bytes(32))))


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\0\0\0\x10", b"\x7f", b"\xff" * 5])
def test_half_of_something_then_nothing(token: TokenAddress, said: bytes) -> None:
    with RawClient(token.socket) as client:
        client.sock.sendall(said)
        serves(token)
    eventually(lambda: is_at_rest(token))


def test_half_a_frame_then_nothing(token: TokenAddress) -> None:
    with RawClient(token.socket) as client:
        client.begin()
        client.sock.sendall(client.frame(body(GENERATE_RANDOM, "ufy", ulong(1)))[:-3])
        serves(token)
    eventually(lambda: is_at_rest(token))


def test_one_byte_at_a_time(token: TokenAddress) -> None:
    with RawClient(token.socket) as client:
        for byte in b"\0" + client.frame(client.initialize()) + client.frame(body(GET_INFO, "")):
            client.sock.sendall(bytes([byte]))
        assert len(client.read(1)) == 1
        assert error_of(client.answer()[1]) is None
        assert client.answer()[1][:4] == struct.pack("!I", GET_INFO)


def test_all_at_once(token: TokenAddress) -> None:
    """The version, the first call and fifty more in one write; all are answered, by their codes."""
    with RawClient(token.socket) as client:
        said = b"\0" + client.frame(client.initialize())
        said += b"".join(client.frame(body(GET_INFO, "")) for _ in range(50))
        client.sock.sendall(said)
        client.read(1)
        answers = [client.answer() for _ in range(51)]
        assert sorted(code for code, _ in answers) == list(range(0x11, 0x11 + 51))
        assert all(error_of(answer) is None for _, answer in answers)


@pytest.mark.parametrize("offers", [0, 1, 2, 3, 255])
def test_every_version_is_answered(token: TokenAddress, offers: int) -> None:
    with RawClient(token.socket, offers=offers) as client:
        client.sock.sendall(bytes([offers]))
        (agreed,) = client.read(1)
        assert agreed <= min(offers, 2)
        assert error_of(client.call(client.initialize())) is None


def test_a_first_call_that_is_not_the_protocols(token: TokenAddress) -> None:
    with RawClient(token.socket) as client:
        client.sock.sendall(b"\0")
        client.read(1)
        wrong = body(1, "ayyay", array(b"another protocol"), b"\0", array(b"\0"))
        assert error_of(client.call(wrong)) not in {None, 0}


def test_one_who_never_listens(token: TokenAddress) -> None:
    """His answers are not piled up for him: the gateway stops to read, and others go on."""
    with RawClient(token.socket, timeout_s=3) as client:
        session = client.begin().log_in()
        asked = body(GENERATE_RANDOM, "ufy", ulong(session), struct.pack("!I", 4096))
        with pytest.raises(TimeoutError):
            client.sock.sendall(b"".join(client.frame(asked) for _ in range(200_000)))
        assert highest_kb(token) < MOST_KB
        serves(token)
    eventually(lambda: is_at_rest(token))


def test_five_hundred_idle_clients(token: TokenAddress) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= 600, f"{soft} of {hard} files"
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(token.socket)).begin() for _ in range(500)]
        serves(token)
        first, last = clients[0], clients[-1]
        for client in (first, last):
            assert error_of(client.call(body(GET_INFO, ""))) is None
    eventually(lambda: is_at_rest(token), 30)
    serves(token)
