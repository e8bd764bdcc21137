"""A worker process: one client after the other, each from its first byte to the end of its stream.

Nothing of a client is kept for the next but the process: its connection, its login and its links
to HSMs end with it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final

import msgspec

from orchestrator.gateway.report import HsmReport, WorkerReport
from orchestrator.gateway.token import Token
from orchestrator.gateway.worker.connection import HELPERS_MAX, Connection
from orchestrator.gateway.worker.links import Links

WORKER_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
"""What one application's worker may take of this host's memory, stacks of 64 threads included."""
CLIENTS_MAX: Final = 256
"""How many one process serves: what a library may leak ends with it."""
KEPT_KB_MAX: Final = 256 * 1024
"""One that ever was larger than this ends with its client."""
LEFT: Final = b"l"
READY: Final = b"r"
"""What a worker tells its listener."""


def work(
    line: socket.socket, token: Token, reporter: socket.socket, client: socket.socket | None
) -> None:
    """Serve a client, and those that come by `line`, until that ends; on SIGUSR1 tell how it goes.

    `client` is already there for a worker that was made when one came.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > WORKER_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES_MAX, WORKER_BYTES_MAX))
    reporter.setblocking(False)
    connection: Connection | None = None

    def tell(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            reporter.send(msgspec.json.encode(report(connection)))

    signal.signal(signal.SIGUSR1, tell)
    helpers = ThreadPoolExecutor(HELPERS_MAX, "helper")
    helpers.submit(bool)  # one there must be: with more it is only faster
    links = Links(token)
    for _ in range(CLIENTS_MAX):
        if client is None:
            links.prepare()
            if not _said(line, READY) or (client := _next_client(line)) is None:
                return
        client.setblocking(True)
        connection = Connection(client, links, helpers)
        with client, contextlib.suppress(OSError):  # the client has gone
            connection.run()
        is_small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= KEPT_KB_MAX
        if not (connection.is_sound and is_small and _said(line, LEFT)):
            return
        links.close()
        client, connection, links = None, None, Links(token)


def _said(line: socket.socket, word: bytes) -> bool:
    """Tell the listener something; False when it has gone."""
    try:
        line.send(word)
    except OSError:
        return False
    return True


def _next_client(line: socket.socket) -> socket.socket | None:
    """Return the next client's socket; None when the listener wants no more of this worker."""
    _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def report(connection: Connection | None) -> WorkerReport:
    """Return what a connection has done; takes no lock, for it interrupts those who hold one."""
    if connection is None or (app := connection.app) is None:
        return WorkerReport(os.getpid())
    backend = app.backend
    return WorkerReport(
        pid=os.getpid(),
        user=backend.user,
        sessions=len(app.sessions),
        calls=connection.calls,
        operations=backend.operations,
        errors=backend.errors,
        hsms=tuple(
            HsmReport(
                node.hsm,
                node.requests,
                node.errors,
                node.outstanding,
                round(node.service_s * 1000, 3),
            )
            for node in backend.nodes
        ),
    )
