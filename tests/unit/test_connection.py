"""One stream, many callers: no call waits for a lead that is lost, no frame is cut or doubled."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client.connection import RpcConnection
from orchestrator.model.entries import encode
from orchestrator.model.errors import NoAnswerError, UnavailableError
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
