"""The machine's clock: the one place that asks for the time."""

from __future__ import annotations

import time


class SystemClock:
    """`model.clock.Clock` of this machine."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds since boot or so."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
