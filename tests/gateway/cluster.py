"""A gateway's worker in this process, on a small cluster of fake tokens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from orchestrator.client.session import Session
from orchestrator.control.application import Application
from orchestrator.control.changes import Changes
from orchestrator.gateway.token import Token
from orchestrator.gateway.worker.connection import HELPERS_MAX, Connection
from orchestrator.gateway.worker.links import Links
from orchestrator.model.errors import UnavailableError
from orchestrator.model.ids import ClusterId
from orchestrator.wire.system_clock import SystemClock
from tests.gateway.wire import Client
from tests.stateful.harness import CLUSTER, PASSWORD, PROFILE, FakeStream, LocalCluster

PIN = b"cu:" + PASSWORD


class OnTheCluster(Application):
    """The way to changes, by the controller that the cluster has already."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(Path(), ClusterId(CLUSTER), gateway.cluster.anchor, SystemClock())
        self._cluster = gateway.cluster
        self._source = gateway.source

    def changes(self, session: Session) -> Changes:
        return Changes(
            self._cluster.controller, session, self._cluster.anchor, list, self._cluster.clock
        )


class Gateway:
    """Workers for as many clients as a test wants."""

    def __init__(self, cluster: LocalCluster, patience_s: float = 1.0) -> None:
        self.cluster = cluster
        self.token = Token(
            CLUSTER,
            cluster.anchor,
            self.source,
            PROFILE,
            "FIPS",
            lambda: OnTheCluster(self),
            patience_s,
        )
        self.helpers = ThreadPoolExecutor(HELPERS_MAX)
        self.connections: list[tuple[Connection, threading.Thread, socket.socket]] = []

    def source(self) -> dict[str, Callable[[], Any]]:
        def dial(machine: Any) -> FakeStream:
            if machine.hsm is None:
                raise UnavailableError(f"{machine.id} is down")
            return FakeStream(machine)

        return {m.id: (lambda m=m: dial(m)) for m in self.cluster.members}  # type: ignore[misc]

    def connect(self, offered: int = 0, *, initialized: bool = True) -> Client:
        ours, theirs = socket.socketpair()
        made = SimpleQueue[Connection]()

        def serve() -> None:
            connection = Connection(theirs, Links(self.token), self.helpers)
            made.put(connection)
            connection.run()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.connections.append((made.get(), thread, ours))
        return Client(ours, offered, initialized=initialized)

    def close(self) -> None:
        for _, thread, ours in self.connections:
            ours.close()
            thread.join(10)
            assert not thread.is_alive(), "a worker does not end with its client"
        for connection, _, _ in self.connections:
            connection._sock.close()
        self.helpers.shutdown()
