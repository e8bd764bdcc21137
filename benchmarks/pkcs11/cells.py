"""The figures that the gateway is held to, measured in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.pkcs11 import sources
from benchmarks.pkcs11.driver import Driver
from benchmarks.pkcs11.sources import Source
from benchmarks.report import Case, Samples, Scale, Target
from benchmarks.site import Site
from orchestrator.lab import lab

Tell = Callable[[str], None]
ROOT: Final = "pkcs11"


class Cell(NamedTuple):
    """An action by threads x processes; bounds on the ratio to each baseline."""

    action: str
    threads: int
    processes: int
    to_stock: float | None = None
    to_direct: float | None = None

    @property
    def name(self) -> str:
        """Name it as the table does."""
        return f"{self.action} {self.threads}x{self.processes}"


CELLS: Final = (
    Cell("rsa", 1, 1, 0.90, 0.60),
    Cell("rsa", 4, 1, 1.35, 0.65),
    Cell("rsa", 8, 1, 1.35, 0.65),
    Cell("p256", 1, 1, 0.80),
    Cell("p256", 4, 1, 0.85),
    Cell("p256", 8, 1, 0.80),
    Cell("p256", 1, 4, 0.65),
    Cell("random", 1, 1, 0.80),
)
CONNECT: Final = Cell("connect", 1, 1)
SCALING: Final = {1: 1.0, 2: 1.9, 4: 3.7}
OUTAGE_S: Final = 5.0


def run(home: Path, scale: Scale, tell: Tell) -> Iterator[Case]:
    """Measure everything; two agents unless said."""
    home.mkdir(mode=0o700)
    driver = Driver(home)
    with (
        sources.baselines(home / "baselines", driver) as (direct, stock),
        Site(home / "site", 2) as site,
        sources.gateway(site) as ours,
    ):
        yield from _beside(driver, (ours, stock, direct), scale, tell)
        yield from _outage(driver, ours, site, scale, tell)
    yield from _scaling(driver, home, scale, tell)


def _beside(
    driver: Driver, three: tuple[Source, Source, Source], scale: Scale, tell: Tell
) -> Iterator[Case]:
    samples = Samples()
    cells = (*CELLS, CONNECT)
    for number in range(scale.rounds):
        for cell in cells:
            turn = number % len(three)
            for source in three[turn:] + three[:turn]:  # nobody always comes first
                tell(f"round {number + 1}, {cell.name}, {source.name}")
                figures = _measured(driver, source, cell, scale.seconds)
                value = figures["p50"] / 1e3 if cell is CONNECT else figures["ops"]
                samples.add(f"{cell.name} {source.name}", value)
    for cell in cells:
        for baseline, bound in (("stock", cell.to_stock), ("direct", cell.to_direct)):
            target = None if bound is None else Target("ratio", bound, at_least=True)
            if cell is CONNECT and baseline == "stock":
                target = Target("ratio", 0.6)
            yield Case(
                ROOT,
                cell.name,
                "ms" if cell is CONNECT else "/s",
                samples.of(f"{cell.name} gateway"),
                baseline,
                samples.of(f"{cell.name} {baseline}"),
                target,
            )


def _measured(driver: Driver, source: Source, cell: Cell, seconds: float) -> dict[str, float]:
    figures = driver.read(
        driver.start(
            source.module,
            cell.action,
            seconds,
            source.env,
            processes=cell.processes,
            threads=cell.threads,
        )
    )
    if figures["failures"]:
        raise RuntimeError(f"{cell.name} through {source.name}: {figures}")
    return figures


def _outage(driver: Driver, ours: Source, site: Site, scale: Scale, tell: Tell) -> Iterator[Case]:
    """`kill -9` of one of two HSMs, twice in the time of a load."""
    samples, failures = Samples(), []
    seconds = OUTAGE_S if scale.seconds >= 1 else 2.0
    for number in range(scale.rounds):
        for is_steady in (True, False):
            tell(f"round {number + 1}, {'steady' if is_steady else 'an HSM killed twice'}")
            site.wait_until_whole()
            process = driver.start(ours.module, "p256", seconds, ours.env, threads=4)
            if not is_steady:
                for part in (0.25, 0.35):
                    time.sleep(part * seconds)
                    site.kill(number % 2)
            figures = driver.read(process)
            failures.append(figures["failures"])
            samples.add("steady" if is_steady else "outage", figures["p99"] / 1e3)
    site.wait_until_whole()
    held = (samples.of("outage"), "steady", samples.of("steady"), Target("ratio", 2.0))
    yield Case(ROOT, "p99, one of two HSMs killed twice", "ms", *held)
    yield Case(ROOT, "errors meanwhile", "", tuple(failures), target=Target("value", 0))


def _scaling(driver: Driver, home: Path, scale: Scale, tell: Tell) -> Iterator[Case]:
    """Tokens of 4 ms a signature, one at a time: how much more two and four of them do."""
    samples = Samples()
    with (
        sources.slow_tokens(home / "slow"),
        Site(home / "slow-site", 4) as site,
        sources.gateway(site) as ours,
    ):
        for number in range(scale.rounds):
            for count in SCALING:
                tell(f"round {number + 1}, {count} slow HSMs")
                for index, hsm in enumerate(site.hsms):
                    (lab.start if index < count else lab.kill)(site.home, hsm)
                cell = Cell("p256", 8, 1)
                samples.add(str(count), _measured(driver, ours, cell, scale.seconds)["ops"])
        for hsm in site.hsms:
            lab.start(site.home, hsm)
    for count, bound in SCALING.items():
        if count > 1:
            target = Target("ratio", bound, at_least=True)
            held = (samples.of(str(count)), "one", samples.of("1"), target)
            yield Case(ROOT, f"{count} HSMs of 4 ms, 8 threads", "/s", *held)
