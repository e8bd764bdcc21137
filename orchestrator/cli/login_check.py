"""`cloister login-check`: whose login works."""

from __future__ import annotations

import typer

from orchestrator.cli.command import LOGIN, command
from orchestrator.cli.invocation import Invocation


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "login-check", LOGIN)
    def login_check(call: Invocation) -> None:
        """Log in and say as whom; the login ends with the command.

        Example:
          CLOUDHSM_ROLE=crypto-user CLOUDHSM_PIN=alice:... cloister login-check
        """
        session = call.session(None)
        call.show({"cluster_id": call.cluster_id, "username": session.name, "role": session.role})
