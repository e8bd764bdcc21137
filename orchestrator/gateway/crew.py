"""The worker processes: each serves one client at a time, and never two Unix users.

To fork takes milliseconds, and so does proving an HSM; who connects should wait for neither. So a
few workers stand ready before anybody comes, and one whose client has left is ready for the next
client of the same Unix user.

Invariants: a worker that has served somebody is given nobody of another user or other groups;
one whose client did what a client must not, or in which anything failed, ends with that client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from orchestrator.gateway.peers import Peer
from orchestrator.gateway.token import Token
from orchestrator.gateway.worker.main import LEFT, READY, work
from orchestrator.model.clock import Clock

SPARE: Final = 2
"""Workers that have served nobody and stand ready."""
IDLE_MAX: Final = 4
IDLE_S: Final = 30.0
"""How many that wait for another client of their user are kept, and how long."""
_REFILL_S: Final = 1.0
_SAID_MAX: Final = 16
_log = logging.getLogger("cloister.gateway")


@dataclass(slots=True, eq=False)
class Worker:
    """A process. `line` takes clients' sockets there, and a byte about each back."""

    pid: int
    line: socket.socket
    peer: Peer | None = None
    """Whom it serves, or has served last; None before anybody came."""
    since: int = 0
    """When that client came, in Unix ms."""
    was_ready: bool = False
    idle_until_s: float = 0.0


class Crew:
    """The listener's workers. Nothing here waits."""

    def __init__(
        self,
        token: Token,
        clock: Clock,
        selector: selectors.BaseSelector,
        reporter: socket.socket,
        let_go: Callable[[], None],
    ) -> None:
        """`let_go` closes what a forked process shall not have of the listener's."""
        self._token, self._clock, self._selector = token, clock, selector
        self._reporter, self._let_go = reporter, let_go
        self._all: dict[int, Worker] = {}
        self._serving: dict[int, Worker] = {}  # in the order in which clients came
        self._ready: list[Worker] = []  # who has waited longest comes last
        self._refill_at_s = 0.0
        self.of_user = Counter[int]()
        """Clients now, by Unix user."""

    @property
    def serving(self) -> Collection[Worker]:
        """Those who have a client, in the order in which clients came."""
        return self._serving.values()

    def serve(self, client: socket.socket, peer: Peer) -> None:
        """Have a worker serve a client.

        Raises:
            OSError: there is none, and none can be made.
        """
        worker = self._handed(client, peer) or self._hire(client)
        worker.peer, worker.since = peer, self._clock.now_ms()
        self._serving[worker.pid] = worker
        self.of_user[peer.uid] += 1

    def _handed(self, client: socket.socket, peer: Peer) -> Worker | None:
        """Give a client to a worker that is ready, where there is one for this user."""
        for worker in sorted(self._ready, key=lambda w: w.peer is None):
            if worker.peer is not None and worker.peer.user != peer.user:
                continue
            self._ready.remove(worker)
            try:
                socket.send_fds(worker.line, [b"c"], [client.fileno()])
            except OSError:  # it has just ended
                continue
            return worker
        return None

    def _hire(self, client: socket.socket | None = None) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            self._become_worker(theirs, client)
        theirs.close()
        worker = self._all[pid] = Worker(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _become_worker(self, line: socket.socket, client: socket.socket | None) -> None:
        """Never returns: what the listener holds is let go, and this process serves clients."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()  # a terminal's Ctrl-C is for the listener
            self._let_go()
            for worker in self._all.values():  # or none of them would see the listener's end
                worker.line.close()
            work(line, self._token, self._reporter, client)
            status = 0
        except BaseException:  # noqa: BLE001  # nothing may run on into the listener's loop
            _log.exception("a worker ended on an unexpected error")
        finally:
            os._exit(status)

    def _hear(self, worker: Worker) -> None:
        """Take what a worker says: its client has left; it is ready for another."""
        try:
            said = worker.line.recv(_SAID_MAX)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said == LEFT:
            self._left(worker)
        elif said == READY and worker.pid not in self._serving and worker not in self._ready:
            worker.was_ready = True
            worker.idle_until_s = self._clock.monotonic_s() + IDLE_S
            self._ready.insert(0, worker)
        else:
            self._dismiss(worker)

    def _left(self, worker: Worker) -> None:
        if self._serving.pop(worker.pid, None) and worker.peer is not None:
            uid = worker.peer.uid
            self.of_user[uid] -= 1
            if not self.of_user[uid]:
                del self.of_user[uid]

    def _dismiss(self, worker: Worker) -> None:
        """Have a worker end once its client, if it has one, has left."""
        if worker in self._ready:
            self._ready.remove(worker)
        if worker.line.fileno() >= 0:
            self._selector.unregister(worker.line)
            worker.line.close()

    def reap(self) -> list[int]:
        """Note which workers have ended, and return their processes' ids."""
        gone = []
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                pid, status = ended
                gone.append(pid)
                if (worker := self._all.pop(pid, None)) is not None:
                    self._bury(worker, status)
        return gone

    def _bury(self, worker: Worker, status: int) -> None:
        peer = worker.peer
        if peer is not None and worker.pid in self._serving and os.WIFSIGNALED(status):
            _log.warning(
                "the worker of uid %d (process %d) was ended by signal %d; its application "
                "fails until it initialises PKCS#11 again",
                *(peer.uid, peer.pid, os.WTERMSIG(status)),
            )
        if peer is None and not worker.was_ready:  # whatever it is, forking on will not cure it
            self._refill_at_s = self._clock.monotonic_s() + _REFILL_S
        self._left(worker)
        self._dismiss(worker)

    # --- keeping some ready ---

    def tend(self) -> None:
        """Have as many ready as there should be."""
        now = self._clock.monotonic_s()
        idle = [worker for worker in self._ready if worker.peer is not None]
        for count, worker in enumerate(idle):
            if count >= IDLE_MAX or now >= worker.idle_until_s:
                self._dismiss(worker)
        if now < self._refill_at_s:
            return
        spare = sum(worker.peer is None for worker in self._all.values())
        try:
            for _ in range(SPARE - spare):
                self._hire()
        except OSError as exc:  # clients are told when they come
            _log.debug("no worker can be made: %s", exc)
            self._refill_at_s = now + _REFILL_S

    def next_at_s(self) -> float | None:
        """Return when `tend` will have something to do."""
        moments = [worker.idle_until_s for worker in self._ready if worker.peer is not None]
        if self._refill_at_s > self._clock.monotonic_s():
            moments.append(self._refill_at_s)
        return min(moments, default=None)
