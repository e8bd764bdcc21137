"""`cloister demo`: the main job from nothing to restored, measured."""

from __future__ import annotations

import typer

from orchestrator.cli.command import command
from orchestrator.cli.invocation import Invocation


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "demo")
    def demo(call: Invocation) -> None:
        """Run the main job on real tokens, in a temporary home, and show what was measured.

        Exits with 1 when a step fails; leaves no process and no file behind.
        """
        rows = call.services.demo().run(call.say)
        call.show({"steps": rows})
