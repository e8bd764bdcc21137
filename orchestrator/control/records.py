"""Rows of clusters, HSMs and backups: what the control plane has recorded."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from orchestrator.control.database import backups, clusters, hsms
from orchestrator.control.views import BackupState, ClusterState, HsmState
from orchestrator.model.errors import NotFoundError, RefusedError
from orchestrator.model.ids import BackupId, ClusterId, HsmId


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A recorded cluster."""

    cluster_id: str
    hsm_type: str
    mode: str
    zones: str
    state: str
    created_at: int
    source_backup: str


@dataclass(frozen=True, slots=True)
class HsmRow:
    """A recorded HSM."""

    hsm_id: str
    cluster_id: str
    host: str
    zone: str
    state: str
    created_at: int


@dataclass(frozen=True, slots=True)
class BackupRow:
    """A recorded backup."""

    backup_id: str
    cluster_id: str
    state: str
    created_at: int
    delete_at: int | None


class Records:
    """The control plane's own tables. Every write is durable on return."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- clusters ---

    def clusters(self) -> list[ClusterRow]:
        """Return clusters that are not deleted, oldest first."""
        query = (
            select(clusters)
            .where(clusters.c.state != ClusterState.DELETED)
            .order_by(clusters.c.created_at)
        )
        with self._engine.connect() as db:
            return [ClusterRow(*row) for row in db.execute(query)]

    def cluster(self, cluster: str) -> ClusterRow:
        """Return a cluster or raise NotFoundError."""
        for row in self.clusters():
            if row.cluster_id == cluster:
                return row
        raise NotFoundError("cluster", cluster, "see `cloister cluster list`")

    def put_cluster(self, row: ClusterRow, first: HsmRow | None = None) -> None:
        """Record a cluster, new or changed; with its first HSM, both or neither."""
        values = {name: getattr(row, name) for name in row.__slots__}
        with self._engine.begin() as db:
            db.execute(
                upsert(clusters)
                .values(values)
                .on_conflict_do_update(index_elements=["cluster_id"], set_=values)
            )
            if first is not None:
                self._put_hsm(db, first)

    def resolve_cluster(self, prefix: str | None) -> ClusterId:
        """Return the cluster with this id or unique prefix; None takes the only one."""
        names = [row.cluster_id for row in self.clusters()]
        remedy = "make one: `cloister cluster create`" if prefix is None else ""
        return ClusterId(_resolve("cluster", names, prefix, remedy))

    # --- HSMs ---

    def hsms(self, cluster: str | None = None) -> list[HsmRow]:
        """Return HSMs that are not deleted, oldest first."""
        query = select(hsms).where(hsms.c.state != HsmState.DELETED).order_by(hsms.c.created_at)
        if cluster is not None:
            query = query.where(hsms.c.cluster_id == cluster)
        with self._engine.connect() as db:
            return [HsmRow(*row) for row in db.execute(query)]

    def hsm(self, hsm: str) -> HsmRow:
        """Return an HSM or raise NotFoundError."""
        for row in self.hsms():
            if row.hsm_id == hsm:
                return row
        raise NotFoundError("HSM", hsm, "see `cloister hsm list`")

    def put_hsm(self, row: HsmRow) -> None:
        """Record an HSM, new or found again."""
        with self._engine.begin() as db:
            self._put_hsm(db, row)

    def _put_hsm(self, db: Connection, row: HsmRow) -> None:
        values = {name: getattr(row, name) for name in row.__slots__}
        db.execute(
            upsert(hsms)
            .values(values)
            .on_conflict_do_update(index_elements=["hsm_id"], set_=values)
        )

    def set_hsm_state(self, hsm: str, state: HsmState) -> None:
        """Record an HSM's state."""
        with self._engine.begin() as db:
            db.execute(update(hsms).where(hsms.c.hsm_id == hsm).values(state=state))

    def resolve_hsm(self, cluster: str | None, prefix: str) -> tuple[ClusterId, HsmId]:
        """Return the HSM with this id or unique prefix, and its cluster."""
        rows = {row.hsm_id: row.cluster_id for row in self.hsms(cluster)}
        found = _resolve("HSM", list(rows), prefix, "see `cloister hsm list`")
        return ClusterId(rows[found]), HsmId(found)

    # --- backups ---

    def backups(self) -> list[BackupRow]:
        """Return backups that are not deleted, oldest first."""
        query = (
            select(backups)
            .where(backups.c.state != BackupState.DELETED)
            .order_by(backups.c.created_at)
        )
        with self._engine.connect() as db:
            return [BackupRow(*row) for row in db.execute(query)]

    def backup(self, backup: str) -> BackupRow:
        """Return a backup or raise NotFoundError."""
        for row in self.backups():
            if row.backup_id == backup:
                return row
        raise NotFoundError("backup", backup, "see `cloister backup list`")

    def put_backup(self, row: BackupRow) -> None:
        """Record a backup, new or changed."""
        values = {name: getattr(row, name) for name in row.__slots__}
        with self._engine.begin() as db:
            db.execute(
                upsert(backups)
                .values(values)
                .on_conflict_do_update(index_elements=["backup_id"], set_=values)
            )

    def resolve_backup(self, prefix: str) -> BackupId:
        """Return the backup with this id or unique prefix."""
        names = [row.backup_id for row in self.backups()]
        return BackupId(_resolve("backup", names, prefix, "see `cloister backup list`"))


def _resolve(kind: str, names: list[str], prefix: str | None, remedy: str) -> str:
    if prefix in names:
        return prefix
    found = [name for name in names if prefix is None or name.startswith(prefix)]
    if not found:
        raise NotFoundError(kind, prefix or "", remedy or f"see `cloister {kind.lower()} list`")
    if len(found) > 1:
        raise RefusedError("ambiguous", f"several match, name one: {', '.join(found)}")
    return found[0]
