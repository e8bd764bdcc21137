"""Loops in threads, and what they took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which `part` of an ordered sample lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure(
    actions: Sequence[Callable[[], object]], seconds: float, warm_s: float = 0.3
) -> dict[str, float]:
    """Repeat each action in a thread of its own; return ops per second and latencies in µs.

    An action that raises is counted in `failures` and goes on. What happens in the first
    `warm_s` is not counted.
    """
    began = time.perf_counter() + warm_s
    end = began + seconds
    taken: list[list[float]] = [[] for _ in actions]
    failures = [0] * len(actions)

    def repeat(number: int, action: Callable[[], object]) -> None:
        own = taken[number]
        while (start := time.perf_counter()) < end:
            try:
                action()
            except Exception:  # noqa: BLE001  # what failed is counted
                failures[number] += 1
                continue
            if start >= began:
                own.append(time.perf_counter() - start)

    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies = sorted(value * 1e6 for own in taken for value in own)
    return {
        "ops": len(latencies) / seconds,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "worst": latencies[-1],
        "failures": sum(failures),
    }
