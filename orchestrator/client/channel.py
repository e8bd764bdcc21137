"""The way to one HSM: a request goes in, a reply comes out."""

from __future__ import annotations

from typing import Protocol

from orchestrator.wire.messages import Reply, Request


class Channel(Protocol):
    """One connection to one HSM; calls from several threads may overlap.

    A connection has a nonce of its own (see `Welcome`), and session keys die with it.
    """

    def call(self, request: Request, timeout_s: float) -> Reply:
        """Return the reply, which is never a Refusal.

        Raises:
            RemoteError: the HSM refused; it alone is not retried elsewhere unless `retryable`.
            UnavailableError: no answer, a broken stream, or none within `timeout_s`.
        """

    def close(self) -> None:
        """End the connection. Idempotent."""
