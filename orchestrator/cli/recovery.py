"""`cloister recovery`: custodians' shares, and a new cluster from them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import approvals, completion, credentials, files, next_steps
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.command import NOTHING, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import BackupArgument
from orchestrator.model.errors import PendingError, UsageError
from orchestrator.model.roles import Role

app = group("recovery", "Recovery: shares for custodians, and a cluster from a backup.")


@command(app, "create-shares", Needs(login=True))
def create_shares(
    call: Invocation,
    *,
    threshold: Annotated[int, typer.Option(metavar="M", min=2, max=16, help="How many open it.")],
    shares: Annotated[int, typer.Option(metavar="N", min=2, max=16, help="How many there are.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a file per custodian (0600); default: show one by one."
        ),
    ] = None,
    approval: ApprovalOption = None,
) -> None:
    """Make a recovery key and split it to custodians (admin).

    Backups made from now on can be restored with M of the N shares when every
    HSM is lost. A new key replaces the old one for later backups. The key is
    made on this machine: run this where you would hold the ceremony.

    Example:
      cloister recovery create-shares --threshold 3 --shares 5 --output-dir shares
    """
    if output_dir is None and (call.is_json or not credentials.is_interactive()):
        raise UsageError("give --output-dir: shares are shown on a terminal only")
    if threshold > shares:
        raise UsageError("--threshold is at most --shares")
    given = approvals.read(approval)
    changes = call.changes(Role.ADMIN)
    # The files come first: words that cannot be kept must not become the cluster's recovery key.
    drafts = _create_files(output_dir, shares) if output_dir else []
    about = f"share {{}} of {shares} for {call.cluster_id}; {threshold} are needed"

    def keep(words: list[str]) -> None:
        for number, (_, descriptor) in enumerate(drafts, start=1):
            header = f"# Cloister recovery, {about.format(number)}\n"
            files.write_and_close(descriptor, f"{header}{words[number - 1]}\n".encode())
        if not drafts:
            _show_one_by_one(words, about)

    try:
        changes.create_recovery_key(threshold, shares, keep, approval=given)
    except PendingError:
        raise  # committed: these shares are the cluster's
    except BaseException:
        _remove(drafts)
        raise
    result = {
        "cluster_id": call.cluster_id,
        "threshold": threshold,
        "shares": shares,
        "files": [path for path, _ in drafts],
    }
    call.show(result, next_step=next_steps.CREATE_BACKUP)


@command(app, "recover", NOTHING)
def recover(
    call: Invocation,
    backup: BackupArgument,
    *,
    az: Annotated[
        str | None,
        typer.Option(
            metavar="AZ", help="Default: the first zone.", autocompletion=completion.zones
        ),
    ] = None,
    hsm_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Default: the backup's type, or the one that took its place.",
            autocompletion=completion.profiles,
        ),
    ] = None,
    share_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE …", help="Custodians' files; default: ask for the words."),
    ] = None,
    approval: ApprovalOption = None,
) -> None:
    """Make a new cluster from BACKUP and the custodians' shares, without any old HSM.

    Users, passwords and keys are those of the backup.

    Example:
      cloister recovery recover backup-abc --share-file s/share-1.txt s/share-4.txt s/share-5.txt
    """
    backup_id = call.backup(backup)
    words = [_words(files.read(path)) for path in share_file or ()] or _ask_words()
    zone = az or call.plane.infrastructure.hosts()[0].zone
    with call.progress("Recovering"):
        view = call.services.recovery(call.plane).recover(
            backup_id, words, zone, hsm_type, approvals.read(approval)
        )
    call.go_on_with(view.cluster_id)
    call.show(view, next_step=next_steps.after(view, call.plane.host_views(view.cluster_id)))


def _create_files(directory: Path, shares: int) -> list[tuple[Path, int]]:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot make {directory}: {exc.strerror}") from exc
    drafts: list[tuple[Path, int]] = []
    try:
        for number in range(1, shares + 1):
            path = directory / f"share-{number}.txt"
            drafts.append((path, files.create(path, mode=0o600)))
    except BaseException:
        _remove(drafts)
        raise
    return drafts


def _remove(drafts: list[tuple[Path, int]]) -> None:
    for path, descriptor in drafts:
        with suppress(OSError):  # closed already when writing it failed
            os.close(descriptor)
        path.unlink(missing_ok=True)


def _show_one_by_one(words: list[str], about: str) -> None:
    for number, mnemonic in enumerate(words, start=1):
        sys.stderr.write(f"\n{about.format(number)}. Custodian, write down:\n\n  {mnemonic}\n\n")
        credentials.ask("Enter when it is written down; the screen is cleared")
        sys.stderr.write("\x1b[2J\x1b[3J\x1b[H")  # screen and scrollback


def _words(content: bytes) -> str:
    lines = content.decode("ascii", errors="replace").splitlines()
    return " ".join(" ".join(line for line in lines if not line.startswith("#")).split())


def _ask_words() -> list[str]:
    if not credentials.is_interactive():
        raise UsageError("give --share-file, or run this on a terminal to type the words")
    found: list[str] = []
    while line := credentials.ask_hidden(f"Words of share {len(found) + 1} (Enter to end)"):
        found.append(_words(line.encode()))
    return found
