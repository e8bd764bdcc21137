"""`kill -9` of one of several HSMs while an application signs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.report import Case, Samples, Scale, Target
from benchmarks.site import Site, finish

HSMS: Final = 3
IN_FLIGHT: Final = 16
_LONGER: Final = 2.5  # than other loads: the restart of the killed HSM is part of it


def run(home: Path, scale: Scale, on_turn: Callable[[str], None]) -> Iterator[Case]:
    """Measure; every round loads the cluster undisturbed first, then kills one HSM."""
    samples = Samples()
    seconds = scale.seconds * _LONGER
    with Site(home, HSMS) as site:
        for number in range(scale.rounds):
            on_turn(f"round {number + 1} of {scale.rounds}")
            site.wait_until_whole()
            for name in ("steady", "killed"):
                load = site.start_load("p256", IN_FLIGHT, seconds)
                if name == "killed":
                    time.sleep(seconds / 4)
                    site.kill(number % HSMS)
                for figure, value in finish(load).items():
                    samples.add(f"{name} {figure}", value)
    case = f"P-256, {HSMS} HSMs, {IN_FLIGHT} in flight"
    for figure, unit, target in (
        ("ops", "/s", None),
        ("p99", "µs", Target("ratio", 2)),
        ("worst", "µs", None),
    ):
        killed, steady = samples.of(f"killed {figure}"), samples.of(f"steady {figure}")
        yield Case(f"kill -9: {figure}", case, unit, killed, "steady", steady, target)
    failures = Target("value", 0)
    total = (sum(samples.of("killed failures")),)
    yield Case("kill -9: failures", case, "in all", total, target=failures)
    yield Case("kill -9: sent again", case, "requests", samples.of("killed retries"))
