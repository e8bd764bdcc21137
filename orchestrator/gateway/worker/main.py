"""A worker process: one client, from its first byte to the end of its stream."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from types import FrameType
from typing import Final

import msgspec

from orchestrator.gateway.report import HsmReport, WorkerReport
from orchestrator.gateway.token import Token
from orchestrator.gateway.worker.connection import Connection

WORKER_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
"""What one application's worker may take of this host's memory, stacks of 64 threads included."""


def serve(client: socket.socket, token: Token, reporter: socket.socket) -> None:
    """Serve a client; on SIGUSR1 tell how it goes, in between or while it waits."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > WORKER_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES_MAX, WORKER_BYTES_MAX))
    connection = Connection(client, token)
    reporter.setblocking(False)

    def tell(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            reporter.send(msgspec.json.encode(report(connection)))

    signal.signal(signal.SIGUSR1, tell)
    with contextlib.suppress(OSError):  # the client has gone
        connection.run()


def report(connection: Connection) -> WorkerReport:
    """Return what a connection has done; takes no lock, for it interrupts those who hold one."""
    app = connection.app
    if app is None:
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
