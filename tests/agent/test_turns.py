"""Who reads a connection: uses that are short follow one another, all others run side by side."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from orchestrator.agent import turns
from orchestrator.agent.core import Peer
from orchestrator.agent.hsm import Hsm
from orchestrator.agent.stream import Stream
from orchestrator.agent.turns import Turns
from orchestrator.model.entries import encode
from orchestrator.model.key_spec import SignMechanism, SignScheme
from orchestrator.wire import messages as m
from orchestrator.wire.frames import FrameReader, pack_frame

SHORT, LONG, SLOWER_NOW, COMPUTING = 1, 2, 3, 4
WAIT_S = 10.0
MECHANISM = SignMechanism(SignScheme.ECDSA, None)


class StandIn:
    """An HSM whose keys take as long as the test wants; no token, no state."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2)
        self.threads: list[int] = []
        self.held = threading.Event()

    def connect(self, uid: int) -> Peer:
        return Peer(uid, is_enrolled=False, nonce=b"")

    def disconnect(self, _: Peer) -> None:
        pass

    def answer(
        self, request: m.Request, _: Peer, on_judged: Callable[[], None] = lambda: None
    ) -> m.Reply:
        on_judged()
        if isinstance(request, m.Sign):
            self.threads.append(threading.get_ident())
            if request.ref == LONG:
                self.meeting.wait(WAIT_S)  # two at a time, or none
            elif request.ref == SLOWER_NOW and request.digest:
                self.held.wait(WAIT_S)
            elif request.ref == COMPUTING:
                end = time.thread_time() + 0.002
                while time.thread_time() < end:
                    pass
                if request.digest == b"broken":
                    raise RuntimeError("a bug")
            return m.Data(request.digest)
        self.meeting.wait(WAIT_S)
        return m.Done()


class Client:
    def __init__(self, sock: socket.socket, served: Turns) -> None:
        self._sock, self._reader, self._number = sock, FrameReader(sock), 0
        self._served = served

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self._served._waiting) != self._served._threads - 1 or not self._served._leader:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def send(self, *requests: m.Request) -> None:
        frames = []
        for request in requests:
            self._number += 1
            frames.append(pack_frame(self._number, encode(request)))
        self._sock.sendall(b"".join(frames))

    def receive(self) -> tuple[int, m.Reply]:
        frame = self._reader.read()
        assert frame is not None
        return frame[0], m.decode_reply(frame[1])


def sign(ref: int, digest: bytes = b"") -> m.Sign:
    return m.Sign(b"ticket", 0, ref, MECHANISM, digest)


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def client(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(turns, "SHORT_S", 1.0)  # a busy machine shall not make a short use long
    ours, theirs = socket.socketpair()
    ended = threading.Event()
    hsm = cast(Hsm, stand_in)
    served = Turns(hsm)
    served.add(Stream(hsm, theirs, ended.set))
    with ours:
        ours.settimeout(WAIT_S)
        yield Client(ours, served)
    served.finish()
    assert ended.wait(WAIT_S)


def test_short_uses_follow_one_another_in_one_thread(client: Client, stand_in: StandIn) -> None:
    client.send(sign(SHORT))
    client.receive()
    client.send(*(sign(SHORT, bytes([number])) for number in range(100)))
    replies = [client.receive() for _ in range(100)]
    assert replies == [(number + 2, m.Data(bytes([number]))) for number in range(100)]
    assert len(set(stand_in.threads[2:])) == 1


def test_uses_of_a_key_that_is_not_known_to_be_short_are_side_by_side(client: Client) -> None:
    client.send(sign(SHORT), sign(LONG), sign(LONG))
    assert {client.receive()[0] for _ in range(3)} == {1, 2, 3}


def test_what_is_no_use_of_a_key_is_side_by_side_always(client: Client) -> None:
    for _ in range(2):
        client.send(m.Random(b"ticket", 8), m.Random(b"ticket", 8))
        assert {type(client.receive()[1]) for _ in range(2)} == {m.Done}


def test_a_key_that_has_become_slow_holds_up_others_once(
    client: Client, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.send(sign(SLOWER_NOW))
    client.receive()
    client.send(sign(SLOWER_NOW, b"slow"), sign(SHORT))
    monkeypatch.setattr(turns, "SHORT_S", 0.0)
    time.sleep(0.05)
    stand_in.held.set()
    assert [client.receive()[0] for _ in range(2)] == [2, 3]
    stand_in.held.clear()
    client.send(sign(SLOWER_NOW, b"slow"), sign(SHORT))
    assert client.receive()[0] == 5  # the other key's use does not wait for it
    stand_in.held.set()
    assert client.receive()[0] == 4


@pytest.fixture
def computing(client: Client, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Client:
    """One processor, and keys that are known to keep it busy."""
    monkeypatch.setattr(turns, "SHORT_S", 0.001)
    monkeypatch.setattr(turns, "_PROCESSORS", 1)
    client.send(m.Random(b"", 8), m.Random(b"", 8))  # so that there are threads that wait
    client.send(sign(COMPUTING))
    assert {client.receive()[0] for _ in range(3)} == {1, 2, 3}
    stand_in.threads.clear()
    client.wait_until_idle()  # nobody comes from another request to a turn that is free
    return client


def test_no_more_threads_compute_than_there_are_processors(
    computing: Client, stand_in: StandIn
) -> None:
    computing.send(*(sign(COMPUTING, bytes([number])) for number in range(50)))
    assert [computing.receive()[0] for _ in range(50)] == list(range(4, 54))
    assert len(set(stand_in.threads[1:])) == 1  # who is done reads on


def test_what_comes_behind_a_computation_is_side_by_side_again(computing: Client) -> None:
    computing.send(sign(COMPUTING), sign(LONG), sign(LONG), m.Random(b"", 8), m.Random(b"", 8))
    assert {computing.receive()[0] for _ in range(5)} == {4, 5, 6, 7, 8}


def test_a_bug_while_nobody_reads_ends_the_connection(computing: Client) -> None:
    """The fixture waits until every thread has left."""
    computing.send(sign(COMPUTING, b"broken"))
    with pytest.raises(AssertionError):
        computing.receive()
