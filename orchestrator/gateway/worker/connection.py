"""One client's stream: leader and followers, as on the HSM's side.

One thread reads. Calls that are answered from memory it answers itself; before one that may have
to wait for an HSM it lets another thread read on, unless there is but one session: then nothing
else can come, and a hand-over would only cost. Calls of one session are answered in the order in
which they came.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.peers import peer_of
from orchestrator.gateway.rpc import frames
from orchestrator.gateway.rpc.calls import pack_error
from orchestrator.gateway.token import Token
from orchestrator.gateway.worker.application import Application
from orchestrator.gateway.worker.dispatch import Task
from orchestrator.model.errors import MalformedError, OrchestratorError

THREADS_MAX: Final = 64
RECEIVE_BYTES: Final = 64 * 1024
_IDLE_THREADS: Final = 2  # one reads, one waits for its turn
_log = logging.getLogger("cloister.gateway")


class Connection:
    """Serves one client until it leaves."""

    def __init__(self, sock: socket.socket, token: Token) -> None:
        self._sock, self._token = sock, token
        self._buffer = frames.FrameBuffer()
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._count = threading.Lock()
        self._threads, self._idle = 1, 0
        self._open = True
        self._ended = threading.Event()
        self.app: Application | None = None
        self.calls = 0

    def run(self) -> None:
        """Serve; returns when the client has left and all its calls are done."""
        offered = self._sock.recv(1)
        if not offered:
            return
        # Answered whatever it is: a client that gets no answer hides its dialect from then on.
        self._sock.sendall(bytes([min(offered[0], frames.VERSION_MAX)]))
        self.app = app = Application(self._token, offered[0], peer_of(self._sock).uid)
        try:
            self._serve(app)
            self._ended.wait()
        finally:
            app.backend.close()

    def _serve(self, app: Application) -> None:
        try:
            while (work := self._next(app)) is not None:
                code, task = work
                try:
                    self._answer(app, code, task)
                finally:
                    if task.session is not None:
                        task.session.lock.release()
        except OSError:
            self._open = False
        except MalformedError as exc:
            self._open = False
            _log.warning("connection closed: %s", exc)
        except Exception:  # noqa: BLE001  # a bug: this client's stream ends, and is reported
            self._open = False
            _log.exception("connection closed on an unexpected error")
        finally:
            self._leave()

    def _next(self, app: Application) -> tuple[int, Task] | None:
        """Return a call that may have to wait; its session's lock is held, so its turn is kept."""
        with self._count:
            if self._idle >= _IDLE_THREADS:
                return None
            self._idle += 1
        work: tuple[int, Task] | None = None  # and so it stays when reading fails: nobody is hired
        try:
            with self._reading:
                work = self._read(app) if self._open else None
                self._open = self._open and work is not None
        except BaseException:
            self._open = False
            raise
        finally:
            with self._count:
                self._idle -= 1
                wanted = self._open and work is not None and self._idle == 0
                hire = wanted and self._threads < THREADS_MAX
                self._threads += hire
        if hire:
            self._hire(app)
        return work

    def _hire(self, app: Application) -> None:
        try:
            threading.Thread(target=self._serve, args=(app,), daemon=True, name="rpc").start()
        except RuntimeError:  # no thread to be had: those that are here go on
            with self._count:
                self._threads -= 1

    def _read(self, app: Application) -> tuple[int, Task] | None:
        """Read on, answering what needs no HSM, to the next call that others need not wait for."""
        buffer, sock = self._buffer, self._sock
        while True:
            while (frame := buffer.frame()) is None:
                piece = sock.recv(RECEIVE_BYTES)
                if not piece:
                    return None
                buffer.feed(piece)
            code, body = frame
            if code == 0:
                raise MalformedError("a frame has the code 0")
            self.calls += 1
            try:
                task = Task(app, body)
            except CryptokiError as exc:
                self._send(code, pack_error(exc.rv))
                continue
            except MalformedError:
                self._send(code, pack_error(CKR.DEVICE_ERROR))
                continue
            session = task.session
            if session is not None:
                session.lock.acquire()
            if task.is_slow and len(app.sessions) > 1:
                return code, task
            try:
                self._answer(app, code, task)
            finally:
                if session is not None:
                    session.lock.release()

    def _answer(self, app: Application, code: int, task: Task) -> None:
        try:
            body = task.run(app)
        except CryptokiError as exc:
            if exc.rv is CKR.FUNCTION_FAILED:
                _log.warning("%s: %s", task.call.name, exc)
            body = pack_error(exc.rv)
        except OrchestratorError as exc:
            _log.warning("%s: %s", task.call.name, exc)
            body = pack_error(CKR.FUNCTION_FAILED)
        except Exception:  # noqa: BLE001  # one call, not the application's only connection
            _log.exception("%s failed on an unexpected error", task.call.name)
            body = pack_error(CKR.GENERAL_ERROR)
        self._send(code, body)

    def _send(self, code: int, body: bytes) -> None:
        """Answer; whole frames only, for a client that reads half of one waits for ever."""
        with self._writing:
            self._sock.sendall(frames.pack(code, body))

    def _leave(self) -> None:
        if not self._open:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        with self._count:
            self._threads -= 1
            if self._threads == 0:
                self._ended.set()
