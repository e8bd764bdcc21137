"""What grows with a cluster's keys, and what must not: clusters of several sizes side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.report import Case, Samples, Scale, Target
from benchmarks.site import Site
from benchmarks.timing import times_ms
from orchestrator.control.inspection import Inspection

_LARGE: Final = 10_000
_MEMORY_MB: Final = 150


def run(home: Path, scale: Scale, on_turn: Callable[[str], None]) -> Iterator[Case]:
    """Measure; every round asks all clusters in turn."""
    samples = Samples()
    with ExitStack() as stack:
        sites = {}
        for size in scale.sizes:
            on_turn(f"making a cluster of {size} keys")
            site = sites[size] = stack.enter_context(Site(home / str(size), 2))
            site.fill(size)
        for number in range(scale.rounds):
            for size, site in sites.items():
                on_turn(f"{size} keys, round {number + 1} of {scale.rounds}")
                _round(site, size, scale, samples)
    yield from _cases(scale, samples)


def _round(site: Site, size: int, scale: Scale, samples: Samples) -> None:
    made: list[int] = []
    samples.add(
        f"create {size}", times_ms(lambda: made.append(site.make_key("one more")), scale.in_a_row)
    )
    for ref in made:  # the next round finds as many keys as this one
        site.changes.delete_key(ref)
    samples.add(f"login {size}", times_ms(site.log_in, scale.in_a_row))
    samples.add(f"verify {size}", times_ms(lambda: _verify(site), 1))
    samples.add(f"join {size}", times_ms(lambda: site.add_hsm("c"), 1))
    memory = site.memory_mb()
    samples.add(f"resident {size}", max(now for now, _ in memory))
    samples.add(f"peak {size}", max(peak for _, peak in memory))
    site.remove_hsm()


def _verify(site: Site) -> None:
    report = Inspection(site.plane).verify(site.cluster)
    if report.problems:
        raise RuntimeError(f"the cluster is not whole: {'; '.join(report.problems)}")


def _cases(scale: Scale, samples: Samples) -> Iterator[Case]:
    smallest = scale.sizes[0]
    flat, join_target, memory = (
        Target("ratio", 1.3), Target("value", 30_000), Target("value", _MEMORY_MB)
    )  # fmt: skip
    names = (
        ("create", "create a key", "ms", flat),
        ("login", "log in", "ms", None),
        ("verify", "cluster verify", "ms", None),
        ("join", "join of an HSM", "ms", join_target),
        ("resident", "memory of an agent", "MB", None),
        ("peak", "memory of an agent, peak", "MB", memory),
    )
    for name, figure, unit, target in names:
        for size in scale.sizes:
            based = size != smallest
            yield Case(
                figure,
                f"{size} keys",
                unit,
                samples.of(f"{name} {size}"),
                f"{smallest} keys" if based else "",
                samples.of(f"{name} {smallest}") if based else (),
                target if size == _LARGE else None,
            )
