"""The HSM's RPC server: blocking sockets, leader and followers.

On each connection one thread reads; when a request arrives it lets another one read on and
answers itself, so that overlapping requests are served side by side. What will be done sooner
than another thread could be woken it answers in between, and reads on itself. Where uses of keys
keep all processors busy nobody is woken: who is done first reads on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from orchestrator.agent.core import Peer
from orchestrator.agent.hsm import Hsm
from orchestrator.model.entries import encode
from orchestrator.model.errors import MalformedError, RefusedError
from orchestrator.wire import messages as m
from orchestrator.wire.frames import FRAME_BYTES_MAX, FrameReader, FrameWriter, pack_frame
from orchestrator.wire.messages import Reply, decode_request, refusal_of
from orchestrator.wire.streams import limit_waits, peer_uid

CONNECTIONS_MAX: Final = 2048
THREADS_PER_CONNECTION: Final = 32
SEND_TIMEOUT_S: Final = 30
ACCEPT_PAUSE_S: Final = 0.2
LINGER_S: Final = 1.0
SHORT_S: Final = 250e-6
"""A use of a key that takes less is not worth a hand-over to another thread."""
_KEYS_NOTED_MAX: Final = 512
_PROCESSORS: Final = len(os.sched_getaffinity(0))
_Use = m.Sign | m.Mac | m.VerifyMac | m.Encrypt | m.Decrypt
_USES: Final = (m.Sign, m.Mac, m.VerifyMac, m.Encrypt, m.Decrypt)
_log = logging.getLogger("cloister.agent")


class Server:
    """Accepts connections until `stop`."""

    def __init__(self, hsm: Hsm, listener: socket.socket) -> None:
        self._hsm, self._listener = hsm, listener
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def run(self) -> None:
        """Serve until the listener is shut down or closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as exc:
                if self._listener.fileno() < 0 or exc.errno in {errno.EINVAL, errno.EBADF}:
                    return
                _log.warning("no connection can be accepted: %s", exc)
                time.sleep(ACCEPT_PAUSE_S)  # no free descriptor, say: the next one may succeed
                continue
            if not self._room.acquire(blocking=False):
                sock.close()
                continue
            try:
                connection = Connection(self._hsm, sock, self._room.release)
            except Exception:  # noqa: BLE001  # one connection, not the HSM
                _log.exception("connection refused on an unexpected error")
                sock.close()
                self._room.release()
                continue
            connection.start()


class Connection:
    """One client's stream."""

    def __init__(self, hsm: Hsm, sock: socket.socket, on_end: Callable[[], None]) -> None:
        self._hsm, self._sock, self._on_end = hsm, sock, on_end
        # A client that never reads blocks its own connection, and not for ever.
        limit_waits(sock, send_s=SEND_TIMEOUT_S)
        self._peer: Peer = hsm.connect(peer_uid(sock))
        self._reader, self._writer = FrameReader(sock), FrameWriter(sock)
        self._count = threading.Lock()
        self._threads = 0
        self._reader_thread = 0  # whose turn to read it is, until it passes on
        self._waiting: list[tuple[threading.Lock, int]] = []  # for the turn; the last is next
        self._short: set[int] = set()  # keys whose latest use was short
        self._busy: set[int] = set()  # keys whose latest use was longer, and spent computing
        self._computing = 0  # threads in a use that is not known to be short
        self._open = True

    def start(self) -> None:
        """Begin to serve; the connection ends at once when there is no thread to be had."""
        self._hire()

    def _hire(self) -> None:
        with self._count:
            self._threads += 1
        try:
            threading.Thread(target=self._serve, daemon=True, name="rpc").start()
        except RuntimeError as exc:  # those that are here go on; a first one there must be
            _log.warning("no thread for a connection: %s", exc)
            with self._count:
                self._open = self._open and self._threads > 1
            self._leave()

    def _serve(self) -> None:
        try:
            while (frame := self._next()) is not None:
                self._answer(*frame)
        except OSError:
            self._open = False
        except MalformedError as exc:
            self._open = False
            with contextlib.suppress(OSError):
                self._reply(0, refusal_of(exc))  # number 0: the stream itself is broken
        except Exception:  # noqa: BLE001  # one connection, not the HSM
            # A bug, or an audit log that cannot be written: this connection ends, unanswered.
            self._open = False
            _log.exception("connection closed on an unexpected error")
        finally:
            self._leave()

    def _next(self) -> tuple[int, bytes] | None:
        """Return the next frame; None when the stream has ended or enough threads wait.

        The turn to read stays with this thread until `_answer` or `_leave` passes it on.
        """
        if not self._may_read():
            return None
        frame = self._reader.read() if self._open else None
        self._open = self._open and frame is not None
        return frame

    def _may_read(self) -> bool:
        """Wait for the turn to read; tell whether it came. Who is not needed leaves after a while.

        Threads wait on a stack: the one that worked last is warm, and those below it can go.
        """
        own = threading.get_ident()
        if self._reader_thread == own:  # it answered without passing the turn on
            return True
        turn = threading.Lock()
        with self._count:
            if not self._reader_thread:
                self._reader_thread = own
                return True
            turn.acquire()
            self._waiting.append((turn, own))
            stays = len(self._waiting) == 1
        if turn.acquire(timeout=-1 if stays else LINGER_S):
            return True
        with self._count:
            if self._reader_thread == own:  # it came just now
                return True
            self._waiting.remove((turn, own))
            return False

    def _pass_on(self) -> None:
        """Let another thread read, if it is this one's turn; one is hired when none waits."""
        with self._count:
            if self._reader_thread != threading.get_ident():
                return
            self._reader_thread = 0
            if self._waiting:
                turn, self._reader_thread = self._waiting.pop()
                turn.release()
                return
            hire = self._open and self._threads < THREADS_PER_CONNECTION
        if hire:
            self._hire()

    def _answer(self, number: int, body: bytes) -> None:
        reads_on = False
        try:
            request = decode_request(body)
            if isinstance(request, _USES):
                reads_on = request.ref in self._short
                reply = self._use_shortly(request) if reads_on else self._use(request)
            else:
                # Passed on just before the work: up to there the interpreter serves one thread
                # anyway, and a thread woken earlier would only contend for it.
                reply = self._hsm.answer(request, self._peer, self._pass_on)
        except MalformedError as exc:
            reply = refusal_of(exc)
        except OverflowError:  # numbers of msgpack reach 2^64, those of SQLite 2^63
            reply = refusal_of(MalformedError("a number in the request is out of range"))
        finally:
            if not reads_on:
                self._pass_on()
        self._reply(number, reply)

    def _use_shortly(self, request: _Use) -> Reply:
        """Use a key that was quick the last time, without waking anybody."""
        begun = time.perf_counter()
        reply = self._hsm.answer(request, self._peer, lambda: None)
        if time.perf_counter() - begun >= SHORT_S:
            self._short.discard(request.ref)
        return reply

    def _use(self, request: _Use) -> Reply:
        """Use a key, and note what that was like."""
        ref = request.ref
        with self._count:
            self._computing += 1
        begun, computed = time.perf_counter(), time.thread_time()
        try:
            reply = self._hsm.answer(request, self._peer, lambda: self._hand_over(ref))
        finally:
            with self._count:
                self._computing -= 1
        is_short = time.perf_counter() - begun < SHORT_S
        _note(self._short, ref, holds=is_short)
        _note(self._busy, ref, holds=not is_short and time.thread_time() - computed >= SHORT_S)
        return reply

    def _hand_over(self, ref: int) -> None:
        """Let another thread read, woken only if a processor is free for what it would do.

        A thread that is woken to a busy processor waits for as long as the use takes, and the
        requests behind it with it: the first that is done finds the turn free, and is running.
        """
        if ref not in self._busy or self._computing < _PROCESSORS:
            self._pass_on()
            return
        with self._count:
            if self._reader_thread == threading.get_ident():
                self._reader_thread = 0

    def _reply(self, number: int, reply: Reply) -> None:
        body = encode(reply)
        if len(body) > FRAME_BYTES_MAX:
            refusal = RefusedError(
                "reply-too-large",
                f"the reply has {len(body)} bytes a frame holds {FRAME_BYTES_MAX}; ask for less "
                "at a time",
            )
            body = encode(refusal_of(refusal))
        self._writer.write(pack_frame(number, body))

    def _leave(self) -> None:
        if not self._open:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
            with self._count:  # if none does: those who wait must hear of the end
                self._reader_thread = self._reader_thread or threading.get_ident()
        self._pass_on()
        with self._count:
            self._threads -= 1
            last = self._threads == 0
        if last:
            self._sock.close()
            try:
                self._hsm.disconnect(self._peer)
            finally:
                self._on_end()


def _note(refs: set[int], ref: int, *, holds: bool) -> None:
    if not holds:
        refs.discard(ref)
    elif len(refs) < _KEYS_NOTED_MAX:
        refs.add(ref)
