"""One stream, many callers: no call waits for a lead that is lost, no frame is cut or doubled."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client.connection import BEGUN_BYTES_MAX, BEGUN_MAX, RpcConnection
from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, NoAnswerError, UnavailableError
from orchestrator.wire import messages as m
from orchestrator.wire.frames import LEFT_FRAMES_MAX, FrameReader, FrameWriter, pack_frame
from orchestrator.wire.streams import limit_waits, listen

DEADLINE_S = 10.0


class Gate(FrameWriter):
    """Holds one caller back just before it sends."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.held: threading.Thread | None = None
        self.arrived, self.opened = threading.Event(), threading.Event()

    def write(self, frame: bytes) -> None:
        if threading.current_thread() is self.held:
            self.arrived.set()
            assert self.opened.wait(DEADLINE_S)
        super().write(frame)


class Caller(threading.Thread):
    """A call in a thread of its own, and how it ended."""

    def __init__(self, connection: RpcConnection, timeout_s: float = 2 * DEADLINE_S) -> None:
        super().__init__(daemon=True)
        self._connection, self._timeout_s = connection, timeout_s
        self.outcome: object = None

    def run(self) -> None:
        try:
            self.outcome = self._connection.call(m.Random(b"", 1), self._timeout_s)
        except UnavailableError as exc:
            self.outcome = exc


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[RpcConnection, socket.socket]]:
    with listen(tmp_path / "s") as listener:
        connection = RpcConnection(tmp_path / "s")
        far, _ = listener.accept()
        with far:
            far.settimeout(DEADLINE_S)
            yield connection, far
            connection.close()


def _read(reader: FrameReader, count: int) -> list[int]:
    frames = [reader.read() for _ in range(count)]
    return [frame[0] for frame in frames if frame is not None]


def test_a_lead_passed_to_a_caller_whose_send_fails_is_passed_on(
    ends: tuple[RpcConnection, socket.socket],
) -> None:
    connection, far = ends
    gate = connection._writer = Gate(connection._sock)
    reader = FrameReader(far)
    leader, held, waiting = (Caller(connection) for _ in range(3))
    leader.start()
    assert _read(reader, 1) == [1]
    gate.held = held
    held.start()  # is in line for the lead, and has not sent yet
    assert gate.arrived.wait(DEADLINE_S)
    waiting.start()
    assert _read(reader, 1) == [3]
    far.close()  # kill -9: the leader goes, the one in line meets the broken stream
    leader.join(DEADLINE_S)
    gate.opened.set()
    held.join(DEADLINE_S)
    waiting.join(DEADLINE_S)
    assert [c.is_alive() for c in (leader, held, waiting)] == [False] * 3
    assert all(isinstance(c.outcome, UnavailableError) for c in (leader, held, waiting))


def test_a_lead_passed_to_a_caller_that_gives_up_is_passed_on(
    ends: tuple[RpcConnection, socket.socket],
) -> None:
    connection, far = ends
    reader = FrameReader(far)
    impatient = [Caller(connection, 0.2) for _ in range(8)]
    patient = Caller(connection)
    for caller in (*impatient, patient):
        caller.start()
    numbers = _read(reader, 9)
    for caller in impatient:
        caller.join(DEADLINE_S)
        assert isinstance(caller.outcome, NoAnswerError)
    for number in numbers:  # late replies are for nobody
        far.sendall(pack_frame(number, encode(m.Data(b"x"))))
    patient.join(DEADLINE_S)
    assert patient.outcome == m.Data(b"x")


def test_close_ends_those_who_wait(ends: tuple[RpcConnection, socket.socket]) -> None:
    connection, far = ends
    callers = [Caller(connection) for _ in range(4)]
    for caller in callers:
        caller.start()
    _read(FrameReader(far), 4)
    connection.close()
    for caller in callers:
        caller.join(DEADLINE_S)
        assert isinstance(caller.outcome, UnavailableError)


def test_a_reply_in_pieces_and_pauses_is_one_reply(
    ends: tuple[RpcConnection, socket.socket],
) -> None:
    connection, far = ends
    caller = Caller(connection)
    caller.start()
    [number] = _read(FrameReader(far), 1)
    reply = pack_frame(number, encode(m.Data(b"whole")))
    for start in range(0, len(reply), 7):
        far.sendall(reply[start : start + 7])
        time.sleep(0.06)  # longer than the reader looks for at a time
    caller.join(DEADLINE_S)
    assert caller.outcome == m.Data(b"whole")


class Replies(list[m.Reply | None]):
    """What was begun, as it ended."""

    def begin(self, connection: RpcConnection, size: int = 1) -> bool:
        return connection.begin(m.Random(bytes(size), 1), self.append)


def _answer(far: socket.socket, *numbers: int) -> None:
    far.sendall(b"".join(pack_frame(n, encode(m.Data(bytes([n])))) for n in numbers))


def test_an_adopted_connection_answers_who_began_and_who_waits(
    ends: tuple[RpcConnection, socket.socket],
) -> None:
    connection, far = ends
    connection.adopt(threading.get_ident())
    replies, caller = Replies(), Caller(connection)
    assert replies.begin(connection)
    assert replies.begin(connection)
    caller.start()  # its frame takes along what was begun and not flushed
    assert set(_read(FrameReader(far), 3)) == {1, 2, 3}
    _answer(far, 3, 1)
    while not (caller.outcome and replies):
        connection.pump(wait=True)
        caller.join(0.01)
    assert caller.outcome == m.Data(bytes([3]))
    assert replies == [m.Data(bytes([1]))]
    assert connection.oldest_begun_s() <= time.monotonic()
    connection.close()
    connection.close()
    assert replies[1:] == [None]  # told once that it broke
    assert not replies.begin(connection)
    assert connection.oldest_begun_s() == math.inf


def test_who_reads_for_all_may_wait_for_a_reply_too(
    ends: tuple[RpcConnection, socket.socket],
) -> None:
    connection, far = ends
    connection.adopt(threading.get_ident())
    replies = Replies()
    assert replies.begin(connection)
    _answer(far, 1, 2)
    assert connection.call(m.Random(b"", 1), DEADLINE_S) == m.Data(bytes([2]))
    assert replies == [m.Data(bytes([1]))]
    with pytest.raises(NoAnswerError):
        connection.call(m.Random(b"", 1), 0.1)


@pytest.mark.parametrize("garbage", [b"\xff" * 16, pack_frame(1, b"\xc1")])
def test_a_reply_that_cannot_be_read_ends_what_was_begun(
    ends: tuple[RpcConnection, socket.socket], garbage: bytes
) -> None:
    connection, far = ends
    connection.adopt(threading.get_ident())
    replies = Replies()
    assert replies.begin(connection)
    assert replies.begin(connection)
    far.sendall(garbage)
    connection.pump(wait=True)
    assert replies == [None, None]
    assert not replies.begin(connection)


def test_what_is_begun_never_fills_the_socket(ends: tuple[RpcConnection, socket.socket]) -> None:
    connection, _ = ends
    connection.adopt(threading.get_ident())
    replies = Replies()
    assert not replies.begin(connection, BEGUN_BYTES_MAX)
    begun = 0
    while replies.begin(connection, BEGUN_BYTES_MAX - 64):
        begun += 1
    assert begun == BEGUN_MAX
    connection.flush()  # the far end reads nothing, and this returns


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40, 4096])
def test_frames_in_pieces_of_any_size_are_received_whole(size: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        reader, frames = FrameReader(near), [(n, bytes([n]) * n * 9) for n in range(12)]
        data = b"".join(pack_frame(*frame) for frame in frames) + b"half a f"
        found = []
        for start in range(0, len(data), size):
            far.sendall(data[start : start + size])
            assert reader.receive()
            while start % 3 and (frame := reader.buffered()) is not None:  # not after every piece
                found.append(frame)
        while (frame := reader.buffered()) is not None:
            found.append(frame)
        assert found == frames
        with pytest.raises(MalformedError, match="within a frame"):
            reader.check_end()


def test_what_is_left_is_sent_as_far_as_nobody_has_to_wait() -> None:
    near, far = socket.socketpair()
    with near, far:
        writer, frame = FrameWriter(near), bytes(range(256)) * 4096
        writer.leave(frame)
        assert not writer.try_flush()
        threading.Thread(target=writer.write, args=(b"the end",), daemon=True).start()
        received = b""
        while len(received) < len(frame) + 7:
            received += far.recv(1 << 20)
        assert received == frame + b"the end"
        assert writer.try_flush()


def test_frames_of_many_threads_arrive_whole_and_once() -> None:
    near, far = socket.socketpair()
    with near, far:
        writer, reader = FrameWriter(near), FrameReader(far)
        sizes = {n: n * 37 % 5000 for n in range(1, 801)}

        def write(first: int) -> None:
            for number in range(first, 801, 8):
                writer.write(pack_frame(number, bytes([number % 251]) * sizes[number]))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 9)]
        for thread in threads:
            thread.start()
        found = dict(filter(None, (reader.read() for _ in sizes)))
        for thread in threads:
            thread.join(DEADLINE_S)
        assert found == {n: bytes([n % 251]) * size for n, size in sizes.items()}


def test_a_peer_that_does_not_read_is_left_few_frames_and_ends_every_writer() -> None:
    near, far = socket.socketpair()
    with near, far:
        limit_waits(near, send_s=0.3)
        writer = FrameWriter(near)
        errors: list[OSError] = []

        def write() -> None:
            try:
                for _ in range(LEFT_FRAMES_MAX):
                    writer.write(bytes(64 * 1024))
            except OSError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        assert errors
        assert len(writer._left) <= LEFT_FRAMES_MAX + len(threads)
        with pytest.raises(OSError, match="broke within a frame"):
            writer.write(b"what follows half a frame would be read as its rest")
