"""One client's stream: one thread reads it, and the replies of the HSMs.

That thread answers what it can from memory, and begins uses of keys without waiting for them.
What else may have to wait for an HSM is done by helper threads. Calls of one session are answered
in the order in which they came. What has come is worked off before anything is sent, so that a
crowd of callers costs few calls to the kernel; a lone caller costs no call to `epoll`.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from orchestrator.client.channel import Channel
from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.peers import peer_of
from orchestrator.gateway.rpc import frames
from orchestrator.gateway.rpc.calls import pack_error
from orchestrator.gateway.worker.application import Application, P11Session
from orchestrator.gateway.worker.dispatch import Task
from orchestrator.gateway.worker.links import Links
from orchestrator.gateway.worker.operation import Use
from orchestrator.model.errors import MalformedError, OrchestratorError
from orchestrator.wire.frames import FrameWriter
from orchestrator.wire.messages import Reply

HELPERS_MAX: Final = 64
PENDING_MAX: Final = 256
"""A client that does not wait for its answers is not read beyond so many calls."""
RECEIVE_BYTES: Final = 64 * 1024
CHECK_S: Final = 0.25
"""How often it is looked whether an HSM owes a reply for too long."""
_CROWDED_S: Final = 0.02
Made = TypeVar("Made", bytes, bytes | Use)
_log = logging.getLogger("cloister.gateway")


class Connection:
    """Serves one client until it leaves."""

    def __init__(self, sock: socket.socket, links: Links, helpers: ThreadPoolExecutor) -> None:
        """Take the client, its links to HSMs, and threads for what may wait."""
        self._sock, self._links, self._helpers = sock, links, helpers
        self._buffer, self._writer = frames.FrameBuffer(), FrameWriter(sock)
        self._poller = links.poller
        self._touched: set[Channel] = set()  # have begun requests to be sent
        self._latest: Channel | None = None  # that something was begun on
        self._order = threading.Lock()  # of what is below, and of every session's turn
        self._begun = self._helped = self._queued = 0  # uses; tasks of helpers; calls in line
        self._open = self._is_read = True
        self.is_sound = True
        """Nothing has failed here, and the client did what clients do."""
        self.app: Application | None = None
        self.calls = 0

    def run(self) -> None:
        """Serve; returns when the client has left and all its calls are done."""
        offered = self._sock.recv(1)
        if not offered:
            return
        # Answered whatever it is: a client that gets no answer hides its dialect from then on.
        self._sock.sendall(bytes([min(offered[0], frames.VERSION_MAX)]))
        uid = peer_of(self._sock).uid
        self.app = app = Application(self._links, offered[0], uid, self._later)
        self._poller.register(self._sock, select.EPOLLIN)
        try:
            while self._open or self._begun or self._helped:
                self._turn(app)
        finally:
            app.backend.close()

    def _turn(self, app: Application) -> None:
        """Wait for something, and do all that has come."""
        try:
            self._wait(app)
            self._take(app)
            self._flush()
        except OSError:
            self._leave()
        except MalformedError as exc:
            _log.warning("connection closed: %s", exc)
            self.is_sound = False
            with contextlib.suppress(OSError):
                self._flush()  # what came before is answered
            self._leave()
        except Exception:  # noqa: BLE001  # a bug: this client's stream ends, and is reported
            _log.exception("connection closed on an unexpected error")
            self.is_sound = False
            self._leave()

    def _leave(self) -> None:
        """Read no more of the client; what is under way is brought to its end."""
        if self._open:
            self._open = False
            self._poller.unregister(self._sock)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    # --- waiting ---

    def _wait(self, app: Application) -> None:
        timeout_s = CHECK_S
        if not self._is_read:
            is_crowded = self._is_crowded()
            self._read_client(wanted=not is_crowded)
            timeout_s = _CROWDED_S if is_crowded else 0.0  # calls may be here already
        elif self._open and not self._helped:
            if not self._begun:
                self._receive()
                return
            if self._begun == 1 and self._latest is not None and len(app.sessions) == 1:
                self._latest.pump(wait=True)  # a lone session: nothing else can come
                if not self._begun:
                    return
        self._poll(timeout_s)
        if self._begun:
            app.backend.give_up_late()

    def _poll(self, timeout_s: float) -> None:
        for number, _ in self._poller.poll(timeout_s):
            if number == self._sock.fileno():
                self._receive()
            elif (channel := self._links.channels.get(number)) is not None:
                channel.pump()

    def _is_crowded(self) -> bool:
        return self._begun + self._helped + self._queued > PENDING_MAX

    def _read_client(self, *, wanted: bool) -> None:
        if self._open and wanted != self._is_read:
            self._poller.modify(self._sock, select.EPOLLIN if wanted else 0)
            self._is_read = wanted

    def _receive(self) -> None:
        piece = self._sock.recv(RECEIVE_BYTES)
        if piece:
            self._buffer.feed(piece)
        else:
            self._leave()

    def _flush(self) -> None:
        while self._touched:
            self._touched.pop().flush()
        if self._open:
            self._writer.flush()

    # --- calls ---

    def _take(self, app: Application) -> None:
        """Answer, begin, or give to a helper each call that is here whole."""
        while self._open:
            if self._is_crowded():
                self._read_client(wanted=False)
                return
            if (frame := self._buffer.frame()) is None:
                return
            code, body = frame
            if code == 0:
                raise MalformedError("a frame has the code 0")
            self.calls += 1
            try:
                task = Task(app, body)
            except CryptokiError as exc:
                self._answer(code, pack_error(exc.rv))
                continue
            except MalformedError:
                self._answer(code, pack_error(CKR.DEVICE_ERROR))
                continue
            session = task.session
            if session is None or not session.is_busy or not self._has_queued(session, code, task):
                self._start(app, code, task)

    def _has_queued(self, session: P11Session, code: int, task: Task) -> bool:
        with self._order:
            if session.is_busy:
                session.waiting.append((code, task))
                self._queued += 1
            return session.is_busy

    def _start(self, app: Application, code: int, task: Task) -> None:
        use: Use | None = None
        if not task.waits(app):
            made = self._made(app, task)
            if not isinstance(made, Use):
                self._answer(code, made)
                return
            use = made
        if task.session is not None:
            task.session.is_busy = True
        if use is None or not self._begin(app, code, task, use):
            self._later(partial(self._serve, app, code, task, use))

    def _begin(self, app: Application, code: int, task: Task, use: Use) -> bool:
        with self._order:
            self._begun += 1
        channel = app.backend.begin(use, partial(self._replied, app, code, task, use))
        if channel is None:
            with self._order:
                self._begun -= 1
            return False
        self._latest = channel
        self._touched.add(channel)
        return True

    def _replied(
        self, app: Application, code: int, task: Task, use: Use, reply: Reply | None
    ) -> None:
        """Answer a use that was begun, or have a helper do it by another HSM."""
        with self._order:
            self._begun -= 1
        try:
            data = app.backend.judge(use, reply)
        except CryptokiError as exc:
            body = pack_error(exc.rv)
        else:
            if data is None:
                self._later(partial(self._serve, app, code, task, use))
                return
            body = task.end(use, data)
        self._answer(code, body)
        if task.session is not None and (following := self._following(task.session)):
            self._later(partial(self._serve, app, *following))

    def _following(self, session: P11Session) -> tuple[int, Task] | None:
        """End a call's turn; return the next call of the session."""
        with self._order:
            if session.waiting:
                self._queued -= 1
                following: tuple[int, Task] = session.waiting.popleft()
                return following
            session.is_busy = False
            return None

    def _answer(self, code: int, body: bytes) -> None:
        """Have an answer sent with the others; whole frames only: half of one hangs a client."""
        self._writer.leave(frames.pack(code, body))

    # --- helpers ---

    def _later(self, action: Callable[[], None]) -> None:
        with self._order:
            self._helped += 1
        with contextlib.suppress(RuntimeError):  # no thread to be had: those that are here do it
            self._helpers.submit(self._help, action)

    def _help(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001  # a bug, not the application's only connection
            _log.exception("a helper failed on an unexpected error")
            self.is_sound = False
        finally:
            with self._order:
                self._helped -= 1

    def _serve(self, app: Application, code: int, task: Task, use: Use | None = None) -> None:
        """Answer a call, and those of its session that came meanwhile."""
        following: tuple[int, Task] | None = (code, task)
        while following is not None:
            code, task = following
            made = use or self._made(app, task)
            use = None
            if isinstance(made, Use):
                made = self._caught(task, partial(self._used, app, task, made))
            with contextlib.suppress(OSError):  # the reader meets it, too
                self._writer.write(frames.pack(code, made))
            following = self._following(task.session) if task.session is not None else None

    @staticmethod
    def _used(app: Application, task: Task, use: Use) -> bytes:
        return task.end(use, app.backend.use(use))

    def _made(self, app: Application, task: Task) -> bytes | Use:
        return self._caught(task, partial(task.run, app))

    def _caught(self, task: Task, action: Callable[[], Made]) -> Made | bytes:
        """Return what an action makes; what it raises is an answer, too."""
        try:
            return action()
        except CryptokiError as exc:
            if exc.rv is CKR.FUNCTION_FAILED:
                _log.warning("%s: %s", task.call.name, exc)
            return pack_error(exc.rv)
        except OrchestratorError as exc:
            _log.warning("%s: %s", task.call.name, exc)
            return pack_error(CKR.FUNCTION_FAILED)
        except Exception:  # noqa: BLE001  # one call, not the application's only connection
            _log.exception("%s failed on an unexpected error", task.call.name)
            self.is_sound = False
            return pack_error(CKR.GENERAL_ERROR)
