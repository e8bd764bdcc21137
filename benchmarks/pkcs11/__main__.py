"""`python -m benchmarks.pkcs11`: measure, and print a table or JSON."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.pkcs11.cells import run
from benchmarks.report import FULL, SMOKE, machine
from orchestrator.cli.render import write_json, write_tables

app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A size that proves that the tool works, and no more.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Interleaved rounds; figures are their medians.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure the PKCS#11 gateway beside p11-kit's server and SoftHSM in process, in turns.

    The machine should be idle: about ten minutes. A missed target is shown and is no failure.
    """
    scale = SMOKE if smoke else FULL
    scale = scale if rounds is None else replace(scale, rounds=rounds)
    about = machine()
    with (
        tempfile.TemporaryDirectory(prefix="cloister-p11-") as directory,
        Console(stderr=True).status("starting") as status,
    ):
        found = list(run(Path(directory) / "b", scale, status.update))
    if json:
        write_json({"machine": about, "cases": [case.plain() for case in found]}, sys.stdout)
    else:
        write_tables(about, (), sys.stdout)
        write_tables({"cases": [case.line() for case in found]}, (), sys.stdout)


if __name__ == "__main__":
    app()
