"""Time, passed in so that tests set it."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks: the calendar's and one that never jumps."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""

    def monotonic_s(self) -> float:
        """Return seconds since some fixed moment, never going back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
