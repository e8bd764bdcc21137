"""Loops in threads, what they took, and what is said of several rounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

WARM_S: Final = 0.3
Figures = dict[str, float]


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which `part` of an ordered sample lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure(
    actions: Sequence[Callable[[], object]], seconds: float, warm_s: float = WARM_S
) -> Figures:
    """Repeat each action in a thread of its own; return what that took.

    What happens in the first `warm_s` is not counted. An action that raises is counted in
    `failures` and goes on.

    Returns:
        `ops` per second, latencies `p50`, `p99` and `worst` in µs, `cpu`: µs of this process's
        processor time for each operation, and `failures`.
    """
    began = time.perf_counter() + warm_s
    end = began + seconds
    taken: list[list[float]] = [[] for _ in actions]
    failures = [0] * len(actions)

    def repeat(number: int, action: Callable[[], object]) -> None:
        own = taken[number]
        while (start := time.perf_counter()) < end or not (own or failures[number]):
            try:
                action()
            except Exception:  # noqa: BLE001  # what failed is counted
                failures[number] += 1
                continue
            if start >= began:
                own.append(time.perf_counter() - start)

    cpu_s = time.process_time()
    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu_s = time.process_time() - cpu_s
    latencies = sorted(value * 1e6 for own in taken for value in own)
    if not latencies:
        raise RuntimeError(f"all {sum(failures)} operations failed")
    ops = len(latencies) / seconds
    return {
        "ops": ops,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "worst": latencies[-1],
        "cpu": cpu_s * 1e6 / (ops * (seconds + warm_s)),
        "failures": sum(failures),
    }


def times_ms(
    action: Callable[[], object], count: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return what an action takes (ms) on average over `count` in a row.

    With `time.thread_time` for a clock it is processor time, whoever else uses the machine.
    """
    start = clock()
    for _ in range(count):
        action()
    return (clock() - start) * 1e3 / count
