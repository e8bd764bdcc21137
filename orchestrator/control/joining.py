"""How an HSM comes into a cluster, from the control plane's side: every step may be run again.

Invariant: what is left to do follows from the ledger and from what the HSM itself says; one that
holds a masking key or a state without being a member is made anew under the same id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.client.connection import expect
from orchestrator.control.controller import Controller
from orchestrator.control.records import ClusterRow, HsmRow
from orchestrator.model.entries import SignedJoinRequest
from orchestrator.model.errors import OrchestratorError, RefusedError, UnavailableError
from orchestrator.model.steps import Step
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m

if TYPE_CHECKING:
    from orchestrator.control.plane import ControlPlane


class Joining:
    """Makes HSMs members."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def make(self, row: ClusterRow, hsm: HsmRow, approval: TokenFile | None = None) -> None:
        """Make a recorded HSM whole: the first of a new or restored cluster, or a joiner."""
        cluster = row.cluster_id
        self._plane.infrastructure.create_hsm(hsm.host, hsm.hsm_id, row.hsm_type)
        self._plane.on_step(Step.HSM_STARTED)
        others = [h for h in self._plane.records.hsms(cluster) if h.hsm_id != hsm.hsm_id]
        if not others and not row.source_backup:
            self._make_first(row, hsm)
        elif not others:
            from orchestrator.control.recovery import Recovery  # noqa: PLC0415  # stands on this

            Recovery(self._plane).restore_from_clone(row, hsm, approval)
        else:
            self.join(cluster, hsm)

    def _make_first(self, row: ClusterRow, hsm: HsmRow) -> None:
        controller = self._plane.controller(row.cluster_id)
        request = f"create-{row.cluster_id}"
        entry = controller.ledger.find(request)
        if entry is None:
            prepare = m.Prepare(b"", request, m.CreateCluster(row.cluster_id, row.mode), 0)
            try:
                reply = controller.roster.call(hsm.hsm_id, prepare)
            except OrchestratorError as exc:
                if exc.code != "not-empty":
                    raise
                self.start_over(hsm)  # an earlier attempt left a masking key without a cluster
                reply = controller.roster.call(hsm.hsm_id, prepare)
            controller.ledger.commit(expect(reply, m.Prepared).entry, is_base=True)
            self._plane.on_step(Step.FIRST_COMMITTED)
        self.offer_first(row.cluster_id, hsm.hsm_id)

    def offer_first(self, cluster: str, hsm: str) -> None:
        """Offer a cluster's first entry to its first HSM."""
        controller = self._plane.controller(cluster)
        controller.offer(hsm, controller.ledger.after(0, 1), 0)

    def is_member(self, cluster: str, hsm: str) -> bool:
        """Tell whether the cluster, as far as it is in reach, has this member."""
        controller = self._plane.controller(cluster)
        heard = controller.roster.hear()
        return hsm in controller.members(heard)

    def join(self, cluster: str, hsm: HsmRow) -> None:
        """Bring an HSM into the cluster by the cloning handshake."""
        controller = self._plane.controller(cluster)
        roster = controller.roster
        if self.is_member(cluster, hsm.hsm_id):  # cut off after the commit
            controller.catch_up(hsm.hsm_id)
            return
        donor = self._donor(cluster, hsm.hsm_id)
        if expect(roster.call(hsm.hsm_id, m.Hello()), m.Welcome).seq:
            self.start_over(hsm)  # it holds a state without having become a member
        granted, join = self.handshake(controller, donor, hsm, cluster)
        snapshot = roster.download(donor, granted.blob)
        roster.upload(hsm.hsm_id, granted.blob, snapshot)
        accepted = expect(
            roster.call(hsm.hsm_id, m.JoinAccept(granted.grant, granted.blob)), m.Accepted
        )
        self._confirm_digest(controller, accepted, {donor, hsm.hsm_id})
        change = m.JoinHsm(join, accepted.receipt)
        controller.change(lambda _: change, request=f"join-{hsm.hsm_id}", author=donor)

    def handshake(
        self, controller: Controller, donor: str, hsm: HsmRow, cluster: str
    ) -> tuple[m.Granted, SignedJoinRequest]:
        """Let an empty HSM ask a member of `controller`'s cluster for the masking key."""
        challenge = expect(controller.roster.call(donor, m.JoinChallenge()), m.Data).data
        start = m.JoinStart(cluster, challenge)
        own = self._plane.controller(cluster).roster
        try:
            join = expect(own.call(hsm.hsm_id, start), m.SignedJoin).join
        except OrchestratorError as exc:
            if exc.code != "not-empty":
                raise
            self.start_over(hsm)  # an earlier attempt left a masking key without a state
            join = expect(own.call(hsm.hsm_id, start), m.SignedJoin).join
        return expect(controller.roster.call(donor, m.JoinGrant(join)), m.Granted), join

    def start_over(self, hsm: HsmRow) -> None:
        """Make an HSM that never became a member anew under the same id."""
        row = self._plane.records.cluster(hsm.cluster_id)
        self._plane.infrastructure.destroy_hsm(hsm.host, hsm.hsm_id)
        self._plane.infrastructure.create_hsm(hsm.host, hsm.hsm_id, row.hsm_type)

    def _donor(self, cluster: str, joiner: str) -> str:
        controller = self._plane.controller(cluster)
        heard = controller.roster.hear()
        able = [h for h in controller.members(heard) if h in heard.welcomes and h != joiner]
        if not able:
            raise UnavailableError(f"no HSM of {cluster} is in reach to clone from")
        donor = max(able, key=lambda hsm: heard.welcomes[hsm].seq)
        controller.catch_up(donor)
        return donor

    def _confirm_digest(
        self, controller: Controller, accepted: m.Accepted, known: set[str]
    ) -> None:
        """A second member confirms what the donor said, where there is one at that place."""
        for hsm in controller.members(controller.roster.hear()):
            if hsm in known:
                continue
            try:
                said = expect(controller.roster.call(hsm, m.Digest()), m.StateDigest)
            except OrchestratorError:
                continue
            if said.seq == accepted.seq and said.digest != accepted.digest:
                raise RefusedError(
                    "digest", f"{hsm} has another state at {said.seq} than the joiner was given"
                )
