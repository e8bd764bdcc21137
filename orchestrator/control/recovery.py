"""A new cluster from a backup: with a living HSM of the family, or with the custodians' shares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.serialization import Encoding

from orchestrator.client.connection import expect
from orchestrator.control.backups import Backups
from orchestrator.control.joining import Joining
from orchestrator.control.plane import ControlPlane
from orchestrator.control.profiles import profile_path
from orchestrator.control.records import ClusterRow, HsmRow
from orchestrator.control.views import ClusterState, ClusterView, HsmState
from orchestrator.model.cluster_decisions import SUCCESSORS, check_restorable
from orchestrator.model.errors import NotFoundError, OrchestratorError, RefusedError
from orchestrator.model.ids import new_id
from orchestrator.model.signatures import load_certificate
from orchestrator.model.steps import Step
from orchestrator.sealed.recovery import combine_shares, recovery_key, send_recovery_key
from orchestrator.sealed.snapshot import Manifest
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m
from orchestrator.wire.files import publish


class Recovery:
    """Restores clusters from backups."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane, self._backups = plane, Backups(plane)

    def recover(
        self,
        backup: str,
        mnemonics: Sequence[str],
        zone: str,
        hsm_type: str | None = None,
        approval: TokenFile | None = None,
    ) -> ClusterView:
        """Make a new cluster with one HSM from a backup and custodian shares.

        On failure the half-made cluster is removed, and so is one that a crash has left: the call
        can be repeated.

        Args:
            backup: to go on from.
            mnemonics: enough of the custodians' shares.
            zone: where the HSM shall be.
            hsm_type: None takes the backup's type, or the one that took its place.
            approval: of the backup's admins, where the backup's quorum asks for it.
        """
        plane = self._plane
        _, snapshot = self._backups.read(backup)
        envelope = snapshot.manifest.envelope
        if envelope is None:
            raise RefusedError(
                "no-envelope",
                f"backup {backup} was made without a recovery key: only a living HSM of "
                f"{snapshot.manifest.cluster} or of its clones can restore it",
            )
        key = recovery_key(combine_shares(mnemonics))
        row, hsm = self._record(backup, snapshot.manifest, zone, hsm_type)
        try:
            plane.infrastructure.create_hsm(hsm.host, hsm.hsm_id, row.hsm_type)
            roster = plane.controller(row.cluster_id).roster
            transport = expect(roster.call(hsm.hsm_id, m.RecoverStart()), m.Data).data
            sent = send_recovery_key(key, transport)
            roster.call(hsm.hsm_id, m.RecoverAccept(sent, envelope))
            self._restore(row, hsm, approval)
        except OrchestratorError as exc:
            self._undo(row, [hsm])
            if exc.code == "blob-refused":
                raise RefusedError(
                    "share-other-set", "these shares are not of this backup's recovery key"
                ) from exc
            raise
        plane.records.set_hsm_state(hsm.hsm_id, HsmState.ACTIVE)
        plane.publish_endpoints(row.cluster_id)
        plane.records.put_cluster(replace(row, state=ClusterState.UNINITIALIZED))
        return plane.cluster(row.cluster_id)

    def _record(
        self, backup: str, manifest: Manifest, zone: str, hsm_type: str | None
    ) -> tuple[ClusterRow, HsmRow]:
        """Record the new cluster and its HSM in place of what was cut off, after all checks."""
        plane = self._plane
        zones = sorted({host.zone for host in plane.infrastructure.hosts()})
        host = next((h for h in plane.infrastructure.hosts() if h.zone == zone), None)
        if host is None:
            raise NotFoundError("availability zone", zone, f"there are {', '.join(zones)}")
        chosen = hsm_type or SUCCESSORS.get(manifest.hsm_type, manifest.hsm_type)
        profile_path(chosen)  # raises for an unknown type
        check_restorable(manifest.hsm_type, chosen)
        self._clear_away(backup)
        now = plane.clock.now_ms()
        row = ClusterRow(
            new_id("cluster", os.urandom),
            chosen,
            manifest.mode,
            ",".join(zones),
            ClusterState.CREATE_IN_PROGRESS,
            now,
            backup,
        )
        hsm = HsmRow(
            new_id("hsm", os.urandom), row.cluster_id, host.name, zone,
            HsmState.CREATE_IN_PROGRESS, now,
        )  # fmt: skip
        plane.records.put_cluster(row, hsm)
        plane.on_step(Step.HSM_RECORDED)
        return row, hsm

    def restore_from_clone(
        self, row: ClusterRow, hsm: HsmRow, approval: TokenFile | None = None
    ) -> None:
        """Give a restored cluster's first HSM the masking key of a living HSM of the family."""
        plane = self._plane
        if plane.controller(row.cluster_id).ledger.head().seq:
            self._restore(row, hsm, approval)  # cut off after the commit: it has the masking key
            return
        _, snapshot = self._backups.read(row.source_backup)
        family = [
            c.cluster_id
            for c in plane.records.clusters()
            if c.cluster_id == snapshot.manifest.cluster or c.source_backup == row.source_backup
        ]
        for cluster in family:
            if cluster == row.cluster_id:
                continue
            controller = plane.controller(cluster)
            heard = controller.roster.hear()
            living = [h for h in controller.members(heard) if h in heard.welcomes]
            if not living:
                continue
            granted, _ = Joining(plane).handshake(controller, living[0], hsm, row.cluster_id)
            own = plane.controller(row.cluster_id).roster
            expect(own.call(hsm.hsm_id, m.JoinAccept(granted.grant, "")), m.Accepted)
            self._restore(row, hsm, approval)
            return
        raise RefusedError(
            "no-living-hsm",
            f"no HSM of {snapshot.manifest.cluster} or of its clones answers; use "
            f"`cloister recovery recover {row.source_backup}` with the custodians' shares",
        )

    def _restore(self, row: ClusterRow, hsm: HsmRow, approval: TokenFile | None) -> None:
        plane = self._plane
        data, snapshot = self._backups.read(row.source_backup)
        controller = plane.controller(row.cluster_id)
        # What a prepared restore goes on from, the HSM holds in memory until it is stored.
        if expect(controller.roster.call(hsm.hsm_id, m.Hello()), m.Welcome).seq == 0:
            controller.roster.upload(hsm.hsm_id, row.source_backup, data)
            request = f"restore-{row.cluster_id}"
            change = m.RestoreCluster(row.cluster_id, row.source_backup)
            given = approval.approval if approval else None
            reply = controller.roster.call(hsm.hsm_id, m.Prepare(b"", request, change, 0, given))
            if controller.ledger.find(request) is None:
                controller.ledger.commit(expect(reply, m.Prepared).entry, is_base=True)
                plane.on_step(Step.FIRST_COMMITTED)
            Joining(plane).offer_first(row.cluster_id, hsm.hsm_id)
        directory = plane.published(row.cluster_id)
        anchor = load_certificate(snapshot.manifest.trust_anchor, "the trust anchor")
        publish(directory / "anchor.pem", anchor.public_bytes(Encoding.PEM))

    def _clear_away(self, backup: str) -> None:
        """Remove what recoveries of this backup left that were cut off before their end."""
        plane = self._plane
        for row in plane.records.clusters():
            if row.source_backup == backup and row.state == ClusterState.CREATE_IN_PROGRESS:
                self._undo(row, plane.records.hsms(row.cluster_id))

    def _undo(self, row: ClusterRow, hsms: Sequence[HsmRow]) -> None:
        plane = self._plane
        for hsm in hsms:
            plane.infrastructure.destroy_hsm(hsm.host, hsm.hsm_id)
            plane.records.set_hsm_state(hsm.hsm_id, HsmState.DELETED)
        plane.delete_cluster(row.cluster_id)
