"""The way to one HSM: a request goes in, a reply comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.wire.messages import Reply, Request

OnReply = Callable[[Reply | None], None]
"""Is given the reply, which may be a Refusal, or None when the connection broke before it."""


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

    def begin(self, request: Request, on_reply: OnReply) -> bool:
        """Send a request by the next `flush`, where somebody pumps.

        `on_reply` is called from `pump`, or by who closes. False: nothing is sent, for the stream
        is broken, or the request is so large or one too many that sending might wait.
        """

    def flush(self) -> None:
        """Send what was begun; a stream that breaks tells those whose requests were under way."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable, below 0 where none does."""

    def adopt(self, reader: int) -> None:
        """Have this thread alone read, by `pump`, from now on; no call may be under way."""

    def pump(self, *, wait: bool = False) -> None:
        """Hand out the replies that have come; `wait` a moment for the first."""

    def oldest_begun_s(self) -> float:
        """Return when the oldest request began that has no reply (monotonic), or infinity."""

    def close(self) -> None:
        """End the connection. Idempotent."""
