"""The listener: it accepts, has a worker serve each client, tells the status, and never waits.

It has one thread and holds no connection to an HSM and none to the database, so that a fork
takes nothing along. A worker's end is one application's; the listener's end is nobody's: who is
connected is served to the end.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from orchestrator.client.trust import rehearse
from orchestrator.gateway.crew import Crew
from orchestrator.gateway.peers import Peer, PeerRules, peer_of
from orchestrator.gateway.refusals import Refusals
from orchestrator.gateway.report import ClientReport, GatewayReport, WorkerReport
from orchestrator.gateway.token import Token
from orchestrator.model.clock import Clock

WORKERS_MAX: Final = 1024
CLIENTS_PER_USER: Final = 256
ACCEPT_PAUSE_S: Final = 0.2
GATHER_S: Final = 0.5
_REPORT_BYTES_MAX: Final = 128 * 1024
_log = logging.getLogger("cloister.gateway")


@dataclass(slots=True, eq=False)
class _Asking:
    """Somebody who waits for the status, and workers that have not answered yet."""

    sock: socket.socket
    waiting: set[int]
    until_s: float
    reports: dict[int, WorkerReport] = field(default_factory=dict)


class Listener:
    """Runs until SIGTERM or SIGINT."""

    def __init__(
        self,
        token: Token,
        sock: socket.socket,
        status: socket.socket,
        path: Path,
        rules: PeerRules,
        clock: Clock,
        workers_max: int = WORKERS_MAX,
        clients_per_user: int = CLIENTS_PER_USER,
    ) -> None:
        self._token, self._sock, self._status, self._path = token, sock, status, path
        self._rules, self._clock = rules, clock
        self._workers_max, self._clients_per_user = workers_max, clients_per_user
        self._asking: list[_Asking] = []
        self._served, self._refusals = 0, Refusals(clock)
        self._started_at = clock.now_ms()
        self._resume_at_s: float | None = None
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        # One for all: datagrams of several senders stay apart.
        self._reports, self._reporter = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._crew = Crew(token, clock, self._selector, self._reporter, self._let_go)

    def run(self) -> None:
        """Serve."""
        everything = (self._sock, self._status, self._wake, self._waker, self._reports)
        for sock in everything:
            sock.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        # A worker is asked for its status by this: not before it can listen, it would be its end.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for sock, action in (
            (self._sock, self._accept),
            (self._status, self._accept_status),
            (self._wake, self._drain_wake),
            (self._reports, self._take_reports),
        ):
            self._selector.register(sock, selectors.EVENT_READ, action)
        rehearse(self._token.anchor)
        gc.collect()
        gc.freeze()  # what stands now is shared with every worker, and never looked through again
        self._crew.tend()
        while not self._stopping:
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            self._tick()
        self._sock.close()
        self._status.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stopping = self._stopping or number != signal.SIGCHLD

    def _timeout_s(self) -> float | None:
        now = self._clock.monotonic_s()
        moments = [asking.until_s for asking in self._asking]
        if self._resume_at_s is not None:
            moments.append(self._resume_at_s)
        if (at_s := self._crew.next_at_s()) is not None:
            moments.append(at_s)
        return max(0.0, min(moments) - now) if moments else None

    def _tick(self) -> None:
        now = self._clock.monotonic_s()
        if self._resume_at_s is not None and now >= self._resume_at_s:
            self._resume_at_s = None
        for asking in [a for a in self._asking if not a.waiting or now >= a.until_s]:
            self._asking.remove(asking)
            self._tell(asking)
        self._watch()
        self._crew.tend()

    def _watch(self) -> None:
        """Accept exactly while there is room for another worker."""
        is_watched = self._sock in self._selector.get_map()
        wanted = len(self._crew.serving) < self._workers_max and self._resume_at_s is None
        if wanted and not is_watched:
            self._selector.register(self._sock, selectors.EVENT_READ, self._accept)
        elif is_watched and not wanted:
            self._selector.unregister(self._sock)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        for pid in self._crew.reap():
            for asking in self._asking:
                asking.waiting.discard(pid)

    # --- clients ---

    def _accept(self) -> None:
        try:
            client, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as exc:  # no free descriptor, say: the next one may succeed
            _log.warning("no connection can be accepted: %s", exc)
            self._pause()
            return
        with client:
            try:
                peer = peer_of(client)
            except OSError as exc:
                self._refusals.count += 1
                _log.warning("refused a peer that cannot be told: %s", exc)
                return
            if reason := self._reason_against(peer):
                self._refusals.note(peer, reason)
                return
            try:
                self._crew.serve(client, peer)
            except OSError as exc:
                _log.warning("no worker can be made: %s", exc)
                self._pause()
                return
        self._served += 1
        if len(self._crew.serving) >= self._workers_max:
            _log.warning("%d workers, the limit: further clients wait", len(self._crew.serving))

    def _reason_against(self, peer: Peer) -> str:
        """Return why a peer is not let in; empty when it is."""
        if not self._rules.admits(peer):
            return "neither --allow-user nor --allow-group names it"
        if (count := self._crew.of_user[peer.uid]) >= self._clients_per_user:
            return f"clients of this user: {count}, the limit; close some, or --clients-per-user"
        return ""

    def _pause(self) -> None:
        self._resume_at_s = self._clock.monotonic_s() + ACCEPT_PAUSE_S

    def _let_go(self) -> None:
        """In a forked process: close what is the listener's alone."""
        self._selector.close()
        for asking in self._asking:
            asking.sock.close()
        for sock in (self._sock, self._status, self._wake, self._waker, self._reports):
            sock.close()

    # --- status ---

    def _accept_status(self) -> None:
        try:
            sock, _ = self._status.accept()
        except OSError:
            return
        waiting = set()
        for worker in self._crew.serving:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGUSR1)
                waiting.add(worker.pid)
        self._asking.append(_Asking(sock, waiting, self._clock.monotonic_s() + GATHER_S))

    def _take_reports(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._reports.recv(_REPORT_BYTES_MAX)
                with contextlib.suppress(msgspec.DecodeError):
                    report = msgspec.json.decode(data, type=WorkerReport)
                    for asking in self._asking:
                        asking.waiting.discard(report.pid)
                        asking.reports[report.pid] = report

    def report(self, workers: Mapping[int, WorkerReport]) -> GatewayReport:
        """Return what this gateway has done, with what its workers say of themselves."""
        return GatewayReport(
            cluster_id=self._token.cluster,
            socket=str(self._path),
            pid=os.getpid(),
            started_at=self._started_at,
            served=self._served,
            refused=self._refusals.count,
            clients=tuple(
                ClientReport(
                    client_pid=worker.peer.pid,
                    uid=worker.peer.uid,
                    since=worker.since,
                    has_answered=worker.pid in workers,
                    worker=workers.get(worker.pid, WorkerReport(worker.pid)),
                )
                for worker in self._crew.serving
                if worker.peer is not None
            ),
        )

    def _tell(self, asking: _Asking) -> None:
        # The socket's own buffer takes it, or who asked does not read: nobody waits for that.
        with asking.sock, contextlib.suppress(OSError):
            asking.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            asking.sock.setblocking(False)
            asking.sock.sendall(msgspec.json.encode(self.report(asking.reports)))
