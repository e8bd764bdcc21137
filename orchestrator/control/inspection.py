"""Whether a cluster is what it should be: `cluster verify`, the audit chains, adoption."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from orchestrator.client.connection import expect
from orchestrator.client.directory import read_anchor
from orchestrator.client.trust import check_hsm
from orchestrator.control.ledger import Head
from orchestrator.control.plane import ControlPlane
from orchestrator.control.records import ClusterRow, HsmRow
from orchestrator.control.views import ClusterState, HsmCheck, HsmState, VerifyReport
from orchestrator.model.entries import NO_HASH, decode
from orchestrator.model.errors import OrchestratorError, TamperedError, UnavailableError
from orchestrator.model.signatures import check_ecdsa, digest_of
from orchestrator.wire import messages as m

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """An audit log that was read whole. `problem` is empty when its chain and head hold."""

    hsm_id: str
    records: int
    problem: str


@dataclass(frozen=True, slots=True)
class AdoptReport:
    """A ledger rebuilt from the HSMs' chains."""

    cluster_id: str
    seq: int
    hsms: tuple[str, ...]


class Inspection:
    """Reads everything anew and compares."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def verify(self, cluster: str) -> VerifyReport:
        """Recount every HSM's digest, walk the ledger and the audit chains, and compare."""
        plane = self._plane
        plane.records.cluster(cluster)
        controller = plane.controller(cluster)
        head = controller.ledger.head()
        problems: list[str] = []
        try:
            controller.ledger.check()
        except OrchestratorError as exc:
            problems.append(str(exc))
        checks = []
        digests: dict[bytes, str] = {}
        for view in plane.hsms(cluster):
            check = HsmCheck(view.hsm_id, view.seq, "", None, view.trouble or "does not answer")
            if view.seq is not None:
                check = self._check(cluster, view.hsm_id, head, digests)
            checks.append(check)
            if check.problem:
                problems.append(f"{check.hsm_id}: {check.problem}")
        if len(digests) > 1:
            problems.append("HSMs at one place have different digests")
        return VerifyReport(cluster, not problems, head.seq, tuple(checks), tuple(problems))

    def _check(self, cluster: str, hsm: str, head: Head, digests: dict[bytes, str]) -> HsmCheck:
        controller = self._plane.controller(cluster)
        try:
            said = expect(controller.roster.call(hsm, m.Digest(recount=True)), m.StateDigest)
            audit = self.check_audit(cluster, hsm)
            off = controller.off_chain(head, said.seq, said.head)
        except OrchestratorError as exc:
            return HsmCheck(hsm, None, "", None, str(exc))
        problem = audit.problem
        if off:
            problem = f"FORKED: {off}"
        elif said.seq < head.seq:
            problem = f"is behind: at {said.seq}, the ledger at {head.seq}"
        elif said.seq == head.seq:
            digests.setdefault(said.digest, hsm)
        return HsmCheck(hsm, said.seq, said.digest.hex(), audit.records, problem)

    # --- audit ---

    def audit(self, cluster: str, hsm: str) -> list[m.AuditRecord]:
        """Return an HSM's audit log, oldest first."""
        lines, _ = self._read_audit(cluster, hsm)
        return [decode(m.AuditRecord, line, "audit line") for line in lines]

    def verify_audit(self, cluster: str) -> list[AuditCheck]:
        """Check the audit log of every HSM in reach."""
        return [self.check_audit(cluster, row.hsm_id) for row in self._plane.records.hsms(cluster)]

    def check_audit(self, cluster: str, hsm: str) -> AuditCheck:
        """Check that an audit log has no gap, that each line names the one before, and its head."""
        try:
            lines, page = self._read_audit(cluster, hsm)
            self._check_head(cluster, hsm, page)
            previous = NO_HASH
            for number, line in enumerate(lines):
                record = decode(m.AuditRecord, line, f"audit line {number}")
                if record.number != number or record.prev != previous:
                    raise TamperedError(f"the audit log breaks at line {number}")
                previous = hashlib.sha256(line).digest()
            if len(lines) != page.count or previous != page.head:
                raise TamperedError(
                    f"the audit log ends at {len(lines)}, its head says {page.count}"
                )
        except OrchestratorError as exc:
            return AuditCheck(hsm, 0, str(exc))
        return AuditCheck(hsm, len(lines), "")

    def _check_head(self, cluster: str, hsm: str, page: m.AuditPage) -> None:
        welcome = expect(self._plane.controller(cluster).roster.call(hsm, m.Hello()), m.Welcome)
        identity = welcome.identity
        if welcome.certificate:
            identity = check_hsm(welcome, cluster, read_anchor(self._plane.home, cluster)).identity
        digest = digest_of("audit-head", page.count.to_bytes(8, "big") + page.head)
        check_ecdsa(identity, digest, page.signature, f"audit head of {hsm}")

    def _read_audit(self, cluster: str, hsm: str) -> tuple[list[bytes], m.AuditPage]:
        roster = self._plane.controller(cluster).roster
        lines: list[bytes] = []
        while True:
            page = expect(roster.call(hsm, m.ReadAudit(b"", len(lines), _PAGE)), m.AuditPage)
            lines.extend(page.records)
            # Lines may be added while we read: the last page's head is the one that counts.
            if len(lines) >= page.count or not page.records:
                return lines, page

    # --- adoption ---

    def adopt(self, cluster: str | None, chosen: str | None) -> AdoptReport:
        """Rebuild the ledger, and records that are lost, from the HSMs of the hosts."""
        found = self._discover()
        names = sorted(found)
        if cluster is not None:
            names = [name for name in names if name.startswith(cluster)]
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise UnavailableError(f"HSMs of one cluster are wanted; those that answer: {listed}")
        [name] = names
        self._record(name, found[name])
        seq = self._plane.controller(name).adopt(chosen)
        self._plane.publish_endpoints(name)
        return AdoptReport(name, seq, tuple(row.hsm_id for row, _ in found[name]))

    def _discover(self) -> dict[str, list[tuple[HsmRow, m.Welcome]]]:
        plane = self._plane
        found: dict[str, list[tuple[HsmRow, m.Welcome]]] = {}
        for info in plane.infrastructure.hosts():
            for hsm in plane.infrastructure.hsms(info.name):
                try:
                    channel = plane.dial(info.name, hsm)()
                    welcome = expect(channel.call(m.Hello(), 3.0), m.Welcome)
                    channel.close()
                except OrchestratorError:
                    continue  # one that does not answer has no voice
                if welcome.cluster and not welcome.removed:
                    now = plane.clock.now_ms()
                    row = HsmRow(hsm, welcome.cluster, info.name, info.zone, HsmState.ACTIVE, now)
                    found.setdefault(welcome.cluster, []).append((row, welcome))
        return found

    def _record(self, cluster: str, found: list[tuple[HsmRow, m.Welcome]]) -> None:
        """Bring lost or old records to what the hosts show."""
        plane, records = self._plane, self._plane.records
        if not any(row.cluster_id == cluster for row in records.clusters()):
            zones = ",".join(sorted({host.zone for host in plane.infrastructure.hosts()}))
            welcome, now = found[0][1], plane.clock.now_ms()
            state = ClusterState.UNINITIALIZED  # what it is now, its HSMs tell
            records.put_cluster(
                ClusterRow(cluster, welcome.profile, welcome.mode, zones, state, now, "")
            )
        for row, _ in found:
            records.put_hsm(row)
        present = {row.hsm_id for row, _ in found}
        for row in records.hsms(cluster):
            where = plane.infrastructure.hsm_directory(row.host, row.hsm_id)
            if row.hsm_id not in present and not where.exists():
                records.set_hsm_state(row.hsm_id, HsmState.DELETED)
