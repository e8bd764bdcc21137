"""`cloister backup`: sealed copies of a whole cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import next_steps
from orchestrator.cli.command import CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import BackupArgument

app = group("backup", "Backups: make, verify, export, import, delete.")

_COLUMNS = (
    "backup_id",
    "cluster_id",
    "state",
    "created_at",
    "seq",
    "users",
    "keys",
    "recovery",
    "reason",
)


@command(app, "create", CLUSTER)
def create(call: Invocation) -> None:
    """Have an HSM seal users, keys and policies into a backup."""
    cluster = call.cluster_id
    with call.progress("Making a backup"):
        view = call.backups.create(cluster)
    call.show(view, next_step=f"backup verify {view.backup_id}")


@command(app, "list")
def list_(call: Invocation) -> None:
    """List backups of all clusters."""
    views = call.backups.list()
    call.show(
        {"backups": views}, columns=_COLUMNS, next_step="" if views else next_steps.CREATE_BACKUP
    )


@command(app, "describe")
def describe(call: Invocation, backup: BackupArgument) -> None:
    """Show one backup."""
    call.show(call.backups.view(call.backup(backup)))


@command(app, "verify")
def verify(call: Invocation, backup: BackupArgument) -> None:
    """Check a backup's signature, chain and body; an HSM opens it, restoring nothing."""
    backup_id = call.backup(backup)
    with call.progress("Verifying"):
        found = call.backups.verify(backup_id)
    call.show(found, next_step=f"backup export {backup_id} {backup_id}.backup")


@command(app, "export")
def export(
    call: Invocation,
    backup: BackupArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not exist yet.")],
) -> None:
    """Write a verified copy of a backup to FILE.

    It is sealed: only an HSM of the cluster, or the custodians' shares, open it.
    """
    backup_id = call.backup(backup)
    call.backups.export(backup_id, file)
    call.show({"backup_id": backup_id, "path": file})


@command(app, "import")
def import_(
    call: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup export` wrote.")],
) -> None:
    """Take a backup file into the vault after verifying it."""
    view = call.backups.import_(file)
    call.show(view, next_step=f"recovery recover {view.backup_id}")


@command(app, "delete", Needs(confirmation=True))
def delete(call: Invocation, backup: BackupArgument) -> None:
    """Mark a backup for deletion in 7 days."""
    backup_id = call.backup(backup)
    call.confirm(f"Delete {backup_id} in 7 days?")
    call.show(call.backups.delete(backup_id))
