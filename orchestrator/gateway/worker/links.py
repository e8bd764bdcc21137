"""A client's links to HSMs: the first is made before the client comes, where there is time.

The thread that serves the client reads them all, by `poll`.
"""

from __future__ import annotations

import contextlib
import select
import threading
from typing import Final

from orchestrator.client.balancer import Balancer
from orchestrator.client.channel import Channel
from orchestrator.gateway.token import Token
from orchestrator.model.errors import OrchestratorError
from orchestrator.wire.system_clock import SystemClock

PREPARED_S: Final = 60.0
"""How long a link that nobody has used is trusted: an HSM may hang meanwhile, or be another."""


class Links:
    """What one client's requests go over. Made by the thread that polls."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self.poller = select.epoll()
        self.channels: dict[int, Channel] = {}
        self._reader = threading.get_ident()
        self._clock = SystemClock()
        self._prepared: Balancer | None = None
        self._prepared_at_s = 0.0

    def prepare(self) -> None:
        """Link an HSM; where that fails, whoever logs in will try them all."""
        with contextlib.suppress(OrchestratorError):
            self._prepared = self._balancer()
            self._prepared.link_one()
        self._prepared_at_s = self._clock.monotonic_s()

    def balancer(self) -> Balancer:
        """Return a balancer of the caller's own: one that was prepared lately, or a new one."""
        balancer, self._prepared = self._prepared, None
        if balancer is None:
            return self._balancer()
        if self._clock.monotonic_s() < self._prepared_at_s + PREPARED_S:
            return balancer
        balancer.close()
        return self._balancer()

    def _balancer(self) -> Balancer:
        token = self.token
        return Balancer(
            *(token.cluster, token.anchor, token.source, self._clock),
            patience_s=token.patience_s,
            watch=self._watch,
        )

    def _watch(self, channel: Channel) -> None:
        channel.adopt(self._reader)
        if (number := channel.fileno()) >= 0:
            self.channels[number] = channel
            self.poller.register(number, select.EPOLLIN)

    def close(self) -> None:
        """End what nobody has taken."""
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
        self.poller.close()
