"""The command tree."""

from __future__ import annotations

from typing import cast

import typer
import typer.main
from typer.core import TyperGroup

from orchestrator.cli import (
    audit,
    backup,
    cluster,
    crypto,
    demo,
    doctor,
    gateway,
    host,
    hsm,
    key,
    lab,
    login_check,
    profile,
    recovery,
    user,
)
from orchestrator.cli.command import Group


def build() -> TyperGroup:
    """Build the whole tree; nothing heavy is loaded for it."""
    app = typer.Typer(
        name="cloister",
        help="CloudHSM on hardware that you own: clusters of HSMs that never drift.",
        cls=Group,
        rich_markup_mode=None,  # help in plain text: a tenth of a second less
        pretty_exceptions_enable=False,
    )
    for part in (lab, cluster, host, hsm, user, key, crypto, backup, recovery, audit, profile):
        app.add_typer(part.app)
    app.add_typer(gateway.app)
    for single in (login_check, doctor, demo):
        single.register(app)
    return cast(TyperGroup, typer.main.get_command(app))
