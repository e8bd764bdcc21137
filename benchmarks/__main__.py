"""`python -m benchmarks`: measure, and print a table or JSON."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks import failover, growth, signatures, steps
from benchmarks.report import FULL, SMOKE, Case, Scale, machine
from orchestrator.cli.render import write_json, write_tables

Run = Callable[[Path, Scale, Callable[[str], None]], Iterator[Case]]


class Figure(StrEnum):
    """What can be measured."""

    SIGNATURES = "signatures"
    STEPS = "steps"
    GROWTH = "growth"
    FAILOVER = "failover"


class Output(StrEnum):
    """How it is printed."""

    TEXT = "text"
    JSON = "json"


_RUNS: Final[dict[Figure, Run]] = {
    Figure.SIGNATURES: signatures.run,
    Figure.STEPS: steps.run,
    Figure.GROWTH: growth.run,
    Figure.FAILOVER: failover.run,
}
app = typer.Typer(add_completion=False)


@app.command()
def main(
    figures: Annotated[
        list[Figure] | None, typer.Argument(help="What to measure; everything when left out.")
    ] = None,
    *,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A size that proves that the tool works, and no more.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Interleaved rounds; figures are their medians.")
    ] = None,
    output: Annotated[Output, typer.Option(help="A table, or one JSON object.")] = Output.TEXT,
) -> None:
    """Measure Cloister beside a baseline of the same run, on SoftHSM tokens of its own.

    The machine should be idle: about 8 minutes, under 1 GB of the temporary directory. A missed
    target is shown and is no failure; docs/performance.md explains the figures.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # labs are removed
    scale = SMOKE if smoke else FULL
    scale = scale if rounds is None else replace(scale, rounds=rounds)
    found: list[Case] = []
    about = machine()
    with (
        tempfile.TemporaryDirectory(prefix="cloister-bench-") as directory,
        Console(stderr=True).status("starting") as status,
    ):
        for figure in figures or list(Figure):
            run = _RUNS[figure]
            on_turn = lambda text, figure=figure: status.update(f"{figure}: {text}")  # noqa: E731
            found.extend(run(Path(directory) / figure, scale, on_turn))
    if output is Output.JSON:
        write_json({"machine": about, "cases": [case.plain() for case in found]}, sys.stdout)
    else:
        write_tables(about, (), sys.stdout)
        write_tables({"cases": [case.line() for case in found]}, (), sys.stdout)


if __name__ == "__main__":
    app()
