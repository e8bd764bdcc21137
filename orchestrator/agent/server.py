"""The HSM's RPC server: it accepts, and `turns` serves."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from typing import Final

from orchestrator.agent.hsm import Hsm
from orchestrator.agent.stream import Stream
from orchestrator.agent.turns import Turns

CONNECTIONS_MAX: Final = 2048
ACCEPT_PAUSE_S: Final = 0.2
_log = logging.getLogger("cloister.agent")


class Server:
    """Accepts connections until its listener ends."""

    def __init__(self, hsm: Hsm, listener: socket.socket) -> None:
        self._hsm, self._listener = hsm, listener
        self._turns = Turns(hsm)
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def run(self) -> None:
        """Serve until the listener is shut down or closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as exc:
                if self._listener.fileno() < 0 or exc.errno in {errno.EINVAL, errno.EBADF}:
                    self._turns.finish()
                    return
                _log.warning("no connection can be accepted: %s", exc)
                time.sleep(ACCEPT_PAUSE_S)  # no free descriptor, say: the next one may succeed
                continue
            if not self._room.acquire(blocking=False):
                sock.close()
                continue
            try:
                stream = Stream(self._hsm, sock, self._room.release)
            except Exception:  # noqa: BLE001  # one connection, not the HSM
                _log.exception("connection refused on an unexpected error")
                sock.close()
                self._room.release()
                continue
            self._turns.add(stream)
