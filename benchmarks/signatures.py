"""Signatures through the client library, beside a loop that calls SoftHSM directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.report import Case, Samples, Scale, Target
from benchmarks.site import Site, direct

IN_FLIGHT: Final = (1, 16)
_KINDS: Final = {"rsa": "RSA-2048", "p256": "P-256"}
_RSA_TARGET: Final = Target("ratio", 0.85, at_least=True)
_P256_TARGET: Final = Target("added", 250)


def run(home: Path, scale: Scale, on_turn: Callable[[str], None]) -> Iterator[Case]:
    """Measure; every round asks the baseline and all numbers of HSMs in turn."""
    samples = Samples()
    with Site(home, max(scale.hsms)) as site:
        for number in range(scale.rounds):
            for kind, name in _KINDS.items():
                on_turn(f"{name}, round {number + 1} of {scale.rounds}")
                _round(site, kind, scale, samples)
    for kind, name in _KINDS.items():
        yield from _cases(kind, name, scale, samples)


def _round(site: Site, kind: str, scale: Scale, samples: Samples) -> None:
    for threads in scale.direct_threads:
        for figure, value in direct(kind, threads, scale.seconds).items():
            samples.add(f"{kind} direct {threads} {figure}", value)
    for hsms in scale.hsms:
        for threads in IN_FLIGHT:
            figures = site.load(kind, threads, scale.seconds, hsms)
            if figures["failures"]:
                raise RuntimeError(f"{figures['failures']:.0f} signatures failed")
            for figure, value in figures.items():
                samples.add(f"{kind} {hsms} {threads} {figure}", value)


def _cases(kind: str, name: str, scale: Scale, samples: Samples) -> Iterator[Case]:
    by_threads = {f"{n} threads": f"{kind} direct {n} ops" for n in scale.direct_threads}
    best = samples.best(by_threads)
    for threads, key in by_threads.items():
        mark = ", the best" if threads == best else ""
        yield Case("direct", f"{name}, {threads}{mark}", "/s", samples.of(key))
    figure = "signatures"
    for hsms in scale.hsms:
        for in_flight in IN_FLIGHT:
            base = best if in_flight > 1 else "1 threads"
            base_key = by_threads[base].removesuffix(" ops")
            key, target = f"{kind} {hsms} {in_flight}", None
            if kind == "rsa" and in_flight > 1:
                target = _RSA_TARGET
            case = f"{name}, {hsms} HSMs, {in_flight} in flight"
            label = f"direct, {base}"
            ops, base_ops = samples.of(f"{key} ops"), samples.of(f"{base_key} ops")
            yield Case(figure, case, "/s", ops, label, base_ops, target)
            # Beside as many threads: what a crowd costs the kernel is no cost of ours.
            cpu, base_cpu = samples.of(f"{key} cpu"), samples.of(f"{kind} direct {in_flight} cpu")
            yield Case("processor", case, "µs", cpu, f"direct, {in_flight} threads", base_cpu)
            if in_flight == 1:
                p50, base_p50 = samples.of(f"{key} p50"), samples.of(f"{base_key} p50")
                target = _P256_TARGET if kind == "p256" else None
                yield Case("p50", case, "µs", p50, label, base_p50, target)
