"""Making HSMs and ending them: each can be run again after a crash."""

from __future__ import annotations

import os

from orchestrator.control.backups import Backups
from orchestrator.control.hosts import HostInfo
from orchestrator.control.joining import Joining
from orchestrator.control.plane import ControlPlane
from orchestrator.control.records import ClusterRow, HsmRow
from orchestrator.control.views import ClusterState, HsmState, HsmView
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    RefusedError,
    RemoteError,
    UnavailableError,
)
from orchestrator.model.ids import new_id
from orchestrator.model.services import Service
from orchestrator.model.state import Phase
from orchestrator.model.steps import Step
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m

HSMS_MAX = 28


class Membership:
    """Who is an HSM of a cluster, in records and ledger and on the hosts."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def create(
        self,
        cluster: str,
        zone: str,
        *,
        host: str | None = None,
        approval: TokenFile | None = None,
    ) -> HsmView:
        """Add an HSM; one whose making was cut off in this zone is made whole first.

        Raises:
            RefusedError: `not-activated` (only one HSM before activation), or the host is not
                admitted; nothing is left behind.
        """
        row = self._plane.records.cluster(cluster)
        if zone not in row.zones.split(","):
            raise NotFoundError(
                "availability zone", zone, f"cluster {cluster} has {row.zones.replace(',', ', ')}"
            )
        chosen = self._host_in(zone, host)
        unfinished = [
            h
            for h in self._plane.records.hsms(cluster)
            if h.state == HsmState.CREATE_IN_PROGRESS and h.host == chosen.name
        ]
        if unfinished:
            hsm = unfinished[0]
        else:
            self.check_room(row)
            hsm = HsmRow(
                new_id("hsm", os.urandom),
                cluster,
                chosen.name,
                zone,
                HsmState.CREATE_IN_PROGRESS,
                self._plane.clock.now_ms(),
            )
            self._plane.records.put_hsm(hsm)
            self._plane.on_step(Step.HSM_RECORDED)
        joining = Joining(self._plane)
        try:
            joining.make(row, hsm, approval)
        except OrchestratorError as exc:
            if not exc.retryable and not joining.is_member(cluster, hsm.hsm_id):
                self._plane.infrastructure.destroy_hsm(hsm.host, hsm.hsm_id)
                self._plane.records.set_hsm_state(hsm.hsm_id, HsmState.DELETED)
            raise
        self._plane.records.set_hsm_state(hsm.hsm_id, HsmState.ACTIVE)
        self._plane.publish_endpoints(cluster)
        return next(view for view in self._plane.hsms(cluster) if view.hsm_id == hsm.hsm_id)

    def _host_in(self, zone: str, host: str | None) -> HostInfo:
        for info in self._plane.infrastructure.hosts():
            if info.zone == zone and host in {None, info.name}:
                return info
        raise NotFoundError("host", host or f"in {zone}", "see `cloister host list`")

    def check_room(self, row: ClusterRow) -> None:
        """Raise RefusedError unless the cluster may have one HSM more."""
        cluster = row.cluster_id
        present = self._plane.records.hsms(cluster)
        if len(present) >= HSMS_MAX:
            raise RefusedError("limit", f"a cluster has at most {HSMS_MAX} HSMs")
        if not present:
            if self._plane.controller(cluster).ledger.head().seq:
                raise RefusedError(
                    "no-living-hsm",
                    f"cluster {cluster} has no HSM left to clone; `cloister recovery recover` "
                    "makes a new cluster from a backup",
                )
            return
        if self._plane.cluster(cluster).state not in {ClusterState.ACTIVE, ClusterState.DEGRADED}:
            raise RefusedError(
                "not-activated",
                f"Cluster '{cluster}' already contains an HSM but has not yet been fully activated",
            )

    def delete(
        self,
        cluster: str,
        hsm_id: str,
        *,
        force: bool,
        compromised: bool = False,
        approval: TokenFile | None = None,
    ) -> None:
        """End an HSM's membership, zeroise it, and remove it from its host."""
        row = self._plane.records.hsm(hsm_id)
        if row.cluster_id != cluster:
            raise NotFoundError("HSM", f"{hsm_id} of {cluster}", "see `cloister hsm list`")
        controller = self._plane.controller(cluster)
        heard = controller.roster.hear()
        members = controller.members(heard)
        others = [h for h in members if h != hsm_id]
        was_allowed = row.state == HsmState.DELETE_IN_PROGRESS  # and cut off
        if not force and not was_allowed:
            phases = {w.phase for w in heard.welcomes.values()}
            if hsm_id in members and not others and Phase.ACTIVE in phases:
                self._check_last(cluster)
            if not members and controller.ledger.head().seq:
                raise UnavailableError(
                    f"no HSM of {cluster} answers, so nobody can tell what would be lost with "
                    f"{hsm_id}; start one, or --force"
                )
        self._plane.records.set_hsm_state(hsm_id, HsmState.DELETE_IN_PROGRESS)
        try:
            if others and hsm_id in members:
                change = m.RemoveHsm(hsm_id, compromised)
                author = next((h for h in others if h in heard.welcomes), None)
                controller.change(
                    lambda _: change,
                    request=f"remove-{hsm_id}",
                    author=author,
                    leaving=hsm_id,
                    approval=approval.approval if approval else None,
                )
                self._plane.on_step(Step.HSM_REMOVED)
            elif not others and hsm_id in heard.welcomes:
                self._close_cluster(cluster, approval)
        except RemoteError as exc:
            if not exc.retryable:  # refused: nothing was allowed that a next try could rely on
                self._plane.records.set_hsm_state(hsm_id, HsmState(row.state))
            raise
        try:
            controller.catch_up(hsm_id)
            controller.roster.call(hsm_id, m.Zeroize())
        except OrchestratorError:
            pass  # out of reach, or alone: its directory goes with its keys
        self._plane.infrastructure.destroy_hsm(row.host, hsm_id)
        self._plane.on_step(Step.HSM_DESTROYED)
        self._plane.records.set_hsm_state(hsm_id, HsmState.DELETED)
        self._plane.publish_endpoints(cluster)

    def _close_cluster(self, cluster: str, approval: TokenFile | None) -> None:
        """The last HSM goes with the approvals that its own state asks for; force is none."""
        controller = self._plane.controller(cluster)
        if controller.ask_best(m.Hello(), m.Welcome).phase is not Phase.ACTIVE:
            return
        if dict(self._plane.quorum(cluster).values)[Service.CLUSTER_DELETE] > 1:
            given = approval.approval if approval else None
            controller.change(
                lambda _: m.CloseCluster(), request=f"close-{cluster}", approval=given
            )

    def _check_last(self, cluster: str) -> None:
        """The last HSM takes the masking key with it: without recovery, every key is lost."""
        if self._plane.warnings(cluster, ClusterState.ACTIVE):
            raise RefusedError(
                "last-hsm",
                "this is the last HSM and there is no recovery key: every key of the cluster would "
                "be lost. `cloister recovery create-shares` first, or --force",
            )
        Backups(self._plane).create(cluster)
