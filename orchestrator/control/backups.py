"""Backups in the vault directory: made, verified, exported, imported, deleted."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.client.connection import expect
from orchestrator.control.plane import ControlPlane
from orchestrator.control.records import BackupRow
from orchestrator.control.views import BackupState, BackupView
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    RefusedError,
    TamperedError,
    UnavailableError,
)
from orchestrator.model.ids import check_id, new_id
from orchestrator.model.steps import Step
from orchestrator.sealed.snapshot import (
    SNAPSHOT_BYTES_MAX,
    Snapshot,
    parse_snapshot,
    verify_snapshot,
)
from orchestrator.wire import messages as m
from orchestrator.wire.files import make_directory, publish

UNDO_MS: Final = 7 * 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class BackupVerification:
    """What was checked: signature, chain, body hash; and which HSM opened it (empty: none)."""

    backup_id: str
    seq: int
    digest: str
    sha256: str
    is_anchor_known: bool
    opened_by: str


class Backups:
    """The vault directory and its records. Every operation may be run again."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._vault = plane.home / "backups"
        make_directory(self._vault, parents=True)
        self._places: dict[str, int] = {}

    def path(self, backup: str) -> Path:
        """Return a backup's file."""
        return self._vault / f"{backup}.backup"

    def create(self, cluster: str, reason: str = "on demand") -> BackupView:
        """Have an HSM seal its state; READY once the file is on the disk.

        What entries said up to there is then erased: deleted keys and old passwords do not live on.
        """
        plane = self._plane
        controller = plane.controller(cluster)
        heard = controller.roster.hear()
        members = [h for h in controller.members(heard) if h in heard.welcomes]
        if not members:
            raise UnavailableError(f"no HSM of {cluster} answers; see `cloister hsm list`")
        hsm = max(members, key=lambda h: heard.welcomes[h].seq)
        controller.catch_up(hsm)
        backup = new_id("backup", os.urandom)
        now = plane.clock.now_ms()
        row = BackupRow(backup, cluster, BackupState.CREATE_IN_PROGRESS, now, None)
        expect(controller.roster.call(hsm, m.TakeSnapshot(backup, reason)), m.BlobReady)
        data = controller.roster.download(hsm, backup)
        manifest = verify_snapshot(parse_snapshot(data))
        plane.records.put_backup(row)
        plane.on_step(Step.BACKUP_RECORDED)
        publish(self.path(backup), data)
        plane.on_step(Step.BACKUP_PUBLISHED)
        plane.records.put_backup(BackupRow(backup, cluster, BackupState.READY, now, None))
        controller.erase_bodies(manifest.seq)
        return self.view(backup)

    def newest_seq(self, cluster: str) -> int:
        """Return the place of a cluster's newest backup, 0 when there is none."""
        newest = 0
        for row in self._plane.records.backups():
            if row.cluster_id != cluster or row.state == BackupState.CREATE_IN_PROGRESS:
                continue
            if row.backup_id not in self._places:
                try:
                    self._places[row.backup_id] = self._read(row.backup_id)[1].manifest.seq
                except OrchestratorError:
                    continue  # damaged: it saves nobody
            newest = max(newest, self._places[row.backup_id])
        return newest

    def list(self) -> list[BackupView]:
        """Return all backups, oldest first. One cut off while being written is gone."""
        views = []
        for row in self._plane.records.backups():
            if row.state == BackupState.CREATE_IN_PROGRESS:
                whole = self.path(row.backup_id).exists()
                state = BackupState.READY if whole else BackupState.DELETED
                row = BackupRow(row.backup_id, row.cluster_id, state, row.created_at, None)  # noqa: PLW2901  # the row as it is now
                self._plane.records.put_backup(row)
                if not whole:
                    continue
            views.append(self._view(row))
        return views

    def view(self, backup: str) -> BackupView:
        """Return one backup."""
        return self._view(self._plane.records.backup(backup))

    def _view(self, row: BackupRow) -> BackupView:
        try:
            manifest = self._read(row.backup_id)[1].manifest
        except OrchestratorError as exc:
            return BackupView(
                row.backup_id, row.cluster_id, BackupState(row.state), "", "", row.created_at,
                row.delete_at, 0, "", 0, 0, 0, f"damaged: {exc}", "",
            )  # fmt: skip
        counts = dict(manifest.counts)
        recovery = (
            f"{manifest.recovery_threshold} of {manifest.recovery_shares} shares"
            if manifest.envelope
            else "none"
        )
        return BackupView(
            backup_id=row.backup_id,
            cluster_id=manifest.cluster,
            state=BackupState(row.state),
            hsm_type=manifest.hsm_type,
            mode=manifest.mode,
            created_at=manifest.created_at,
            delete_at=row.delete_at,
            seq=manifest.seq,
            digest=manifest.digest.hex(),
            size_bytes=self.path(row.backup_id).stat().st_size,
            users=counts.get("users", 0),
            keys=counts.get("keys", 0),
            recovery=recovery,
            reason=manifest.reason,
        )

    def read(self, backup: str) -> tuple[bytes, Snapshot]:
        """Return a backup's bytes after checking signature, chain and body."""
        data, snapshot = self._read(backup)
        verify_snapshot(snapshot)
        return data, snapshot

    def _read(self, backup: str) -> tuple[bytes, Snapshot]:
        self._plane.records.backup(backup)
        data = _read_bounded(self.path(backup))
        snapshot = parse_snapshot(data)
        if snapshot.manifest.id != backup:
            raise TamperedError(f"{self.path(backup)} holds {snapshot.manifest.id}")
        return data, snapshot

    def verify(self, backup: str) -> BackupVerification:
        """Check a backup without restoring it; an HSM that can opens it and compares digests."""
        data, snapshot = self.read(backup)
        manifest = snapshot.manifest
        opened = ""
        controller = None
        if any(r.cluster_id == manifest.cluster for r in self._plane.records.clusters()):
            controller = self._plane.controller(manifest.cluster)
        for hsm in controller.roster.hear().welcomes if controller else ():
            assert controller is not None  # noqa: S101  # for the type checker
            controller.roster.upload(hsm, backup, data)
            checked = expect(
                controller.roster.call(hsm, m.CheckSnapshot(backup)), m.SnapshotChecked
            )
            if checked.digest != manifest.digest:
                raise TamperedError(f"{hsm} finds another digest in {backup} than its manifest's")
            opened = hsm
            break
        return BackupVerification(
            backup,
            manifest.seq,
            manifest.digest.hex(),
            hashlib.sha256(data).hexdigest(),
            controller is not None,
            opened,
        )

    def export(self, backup: str, path: Path) -> None:
        """Write a verified copy to `path`, which must not exist yet."""
        data, _ = self.read(backup)
        if path.exists():
            raise RefusedError("exists", f"{path} exists already")
        if not path.parent.is_dir():
            raise NotFoundError("directory", str(path.parent))
        publish(path.absolute(), data)

    def import_(self, path: Path) -> BackupView:
        """Take a backup file into the vault after verifying it; the same one twice is one."""
        if not path.is_file():
            raise NotFoundError("file", str(path))
        data = _read_bounded(path)
        manifest = verify_snapshot(parse_snapshot(data))
        if manifest.purpose != "backup":
            raise RefusedError("no-backup", "this snapshot was made for one joining HSM")
        backup = check_id("backup", manifest.id)
        publish(self.path(backup), data)
        self._plane.records.put_backup(
            BackupRow(backup, manifest.cluster, BackupState.READY, manifest.created_at, None)
        )
        return self.view(backup)

    def delete(self, backup: str) -> BackupView:
        """Mark for deletion in 7 days."""
        row = self._plane.records.backup(backup)
        if row.state != BackupState.READY:
            raise RefusedError("not-ready", f"backup {backup} is {row.state}")
        due = self._plane.clock.now_ms() + UNDO_MS
        pending = BackupState.PENDING_DELETION
        self._plane.records.put_backup(
            BackupRow(backup, row.cluster_id, pending, row.created_at, due)
        )
        return self.view(backup)

    def restore(self, backup: str) -> BackupView:
        """Undo a deletion while it is pending."""
        row = self._plane.records.backup(backup)
        if row.state != BackupState.PENDING_DELETION:
            raise RefusedError("not-pending", f"backup {backup} is {row.state}")
        self._plane.records.put_backup(
            BackupRow(backup, row.cluster_id, BackupState.READY, row.created_at, None)
        )
        return self.view(backup)

    def purge(self) -> None:
        """Remove the files of backups whose deletion is due."""
        now = self._plane.clock.now_ms()
        for row in self._plane.records.backups():
            if row.state == BackupState.PENDING_DELETION and (row.delete_at or now) <= now:
                self.path(row.backup_id).unlink(missing_ok=True)
                gone = BackupState.DELETED
                self._plane.records.put_backup(
                    BackupRow(row.backup_id, row.cluster_id, gone, row.created_at, row.delete_at)
                )


def _read_bounded(path: Path) -> bytes:
    try:
        if path.stat().st_size > SNAPSHOT_BYTES_MAX:
            raise RefusedError("too-large", f"{path} exceeds {SNAPSHOT_BYTES_MAX} bytes")
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise NotFoundError("backup file", str(path), "it was moved away or deleted") from exc
    except OSError as exc:
        raise RefusedError("backup-access", f"{path} cannot be read: {exc.strerror}") from exc
