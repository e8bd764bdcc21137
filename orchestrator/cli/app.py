"""The command tree."""

from __future__ import annotations

from typing import Annotated, cast

import typer
import typer.main
from typer.core import TyperGroup

from orchestrator import __version__
from orchestrator.cli import (
    audit,
    backup,
    cipher,
    cluster,
    demo,
    doctor,
    gateway,
    host,
    hsm,
    key,
    lab,
    login_check,
    profile,
    quorum,
    recovery,
    user,
)
from orchestrator.cli.command import Group


def _show_version(*, is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"cloister {__version__}")
        raise typer.Exit


def _any(
    version: Annotated[  # its callback has acted
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What every command is run through."""


def build() -> TyperGroup:
    """Build the whole tree; nothing heavy is loaded for it."""
    app = typer.Typer(
        name="cloister",
        help="CloudHSM on hardware that you own: clusters of HSMs that never drift.",
        cls=Group,
        rich_markup_mode=None,  # help in plain text: a tenth of a second less
        pretty_exceptions_enable=False,
    )
    app.callback()(_any)
    for part in (
        lab,
        cluster,
        host,
        hsm,
        user,
        quorum,
        key,
        cipher,  # and what crypto has
        backup,
        recovery,
        audit,
        profile,
    ):
        app.add_typer(part.app)
    app.add_typer(gateway.app)
    for single in (login_check, doctor, demo):
        single.register(app)
    return cast(TyperGroup, typer.main.get_command(app))
