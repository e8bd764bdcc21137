"""The control plane: clusters and their HSMs. Every operation can be run again after a crash.

Invariants: what is recorded is an intention or a fact, never a hope: an operation computes what
is left to do from the records, the ledger and the HSMs themselves, each time anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine

from orchestrator.client.balancer import Balancer, Dial
from orchestrator.client.connection import RpcConnection, expect
from orchestrator.client.directory import (
    Endpoint,
    Endpoints,
    cluster_directory,
    endpoints_source,
    read_anchor,
)
from orchestrator.client.session import Session
from orchestrator.client.trust import check_hsm, seal_password
from orchestrator.control.changes import Changes
from orchestrator.control.controller import Controller
from orchestrator.control.database import open_database
from orchestrator.control.hosts import Hosts
from orchestrator.control.ledger import Ledger
from orchestrator.control.profiles import load_profiles, profile_path
from orchestrator.control.records import ClusterRow, HsmRow, Records
from orchestrator.control.roster import Roster
from orchestrator.control.views import (
    ChangeReport,
    ClusterState,
    ClusterView,
    HostView,
    HsmState,
    HsmView,
)
from orchestrator.model.clock import Clock
from orchestrator.model.cluster_decisions import check_restorable
from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.fips import restrictions
from orchestrator.model.ids import new_id
from orchestrator.model.roles import Role, check_password, parse_user_name
from orchestrator.model.signatures import check_cluster_certificate, load_certificate, public_bytes
from orchestrator.model.state import Phase
from orchestrator.model.steps import OnStep, Step, no_step
from orchestrator.sealed.token_files import LoginTicketFile, Possession, PossessionFile
from orchestrator.wire import messages as m
from orchestrator.wire.files import make_directory, publish
from orchestrator.wire.process import fault_from_environment
from orchestrator.wire.system_clock import SystemClock

ZONES_MAX = 10


class ControlPlane:
    """Clusters, HSMs and hosts of one home."""

    def __init__(
        self,
        home: Path,
        hosts: Hosts,
        engine: Engine,
        clock: Clock,
        on_step: OnStep = no_step,
    ) -> None:
        self.home, self.infrastructure, self.clock, self.on_step = home, hosts, clock, on_step
        self._engine = engine
        self.records = Records(engine)
        self._controllers: dict[str, Controller] = {}

    @classmethod
    def open(cls, home: Path, hosts: Hosts) -> Self:
        """Open the control plane of a home."""
        engine = open_database(home / "control.db")
        return cls(home, hosts, engine, SystemClock(), fault_from_environment())

    def close(self) -> None:
        """End all connections."""
        for controller in self._controllers.values():
            controller.roster.close()
        self._controllers.clear()
        self._engine.dispose()

    def controller(self, cluster: str) -> Controller:
        """Return the cluster's controller."""
        if cluster not in self._controllers:
            roster = Roster(cluster, lambda: self._dials(cluster))
            ledger = Ledger(self._engine, cluster)
            self._controllers[cluster] = Controller(
                cluster, ledger, roster, self.clock, self.on_step
            )
        return self._controllers[cluster]

    def _dials(self, cluster: str) -> dict[str, Dial]:
        return {row.hsm_id: self.dial(row.host, row.hsm_id) for row in self.records.hsms(cluster)}

    def dial(self, host: str, hsm: str) -> Dial:
        """Return the way to an HSM on a host."""
        return lambda: RpcConnection(self.infrastructure.hsm_directory(host, hsm) / "agent.sock")

    # --- clusters ---

    def clusters(self) -> list[ClusterView]:
        """Return all clusters."""
        return [self.cluster(row.cluster_id) for row in self.records.clusters()]

    def cluster(self, cluster: str) -> ClusterView:
        """Return a cluster, its state as its HSMs tell it now."""
        row = self.records.cluster(cluster)
        views = self.hsms(cluster)
        heard = self.controller(cluster).roster.hear([v.hsm_id for v in views if v.seq is not None])
        phases = [w.phase for w in heard.welcomes.values() if w.phase is not None]
        state = ClusterState(row.state)
        if phases:
            state = ClusterState(str(max(phases, key=list(Phase).index)))
        if state is ClusterState.ACTIVE and any(v.state is HsmState.DEGRADED for v in views):
            state = ClusterState.DEGRADED
        return ClusterView(
            cluster_id=cluster,
            state=state,
            hsm_type=row.hsm_type,
            mode=row.mode,
            availability_zones=tuple(row.zones.split(",")),
            created_at=row.created_at,
            source_backup_id=row.source_backup,
            hsms=tuple(views),
            seq=self.controller(cluster).ledger.head().seq,
            warnings=self.warnings(cluster, state),
            restrictions=restrictions(row.mode),
        )

    def warnings(self, cluster: str, state: ClusterState) -> tuple[str, ...]:
        """Return what endangers the keys of an active cluster."""
        if state not in {ClusterState.ACTIVE, ClusterState.DEGRADED}:
            return ()
        controller = self.controller(cluster)
        for hsm in controller.roster.hear().welcomes:
            page = expect(controller.roster.call(hsm, m.ListMembers()), m.MemberPage)
            if page.recovery_threshold == 0:
                return (
                    "no recovery key: if every HSM is lost, so is every key; "
                    "`cloister recovery create-shares`",
                )
            return ()
        return ("no HSM answers",)

    def create_cluster(
        self, hsm_type: str, zones: tuple[str, ...], mode: str | None, source_backup: str | None
    ) -> ClusterView:
        """Record a new cluster; its first HSM makes it real."""
        profile_path(hsm_type)  # raises for an unknown type
        profile = load_profiles()[hsm_type]
        mode_given = mode is not None
        if mode is None:
            mode = profile.modes[0]
        if mode not in profile.modes:
            raise RefusedError("mode", f"{hsm_type} offers mode {' or '.join(profile.modes)}")
        known = sorted({host.zone for host in self.infrastructure.hosts()})
        zones = zones or tuple(known)
        if unknown := [zone for zone in zones if zone not in known]:
            raise NotFoundError(
                "availability zone", ", ".join(unknown), f"there are {', '.join(known)}"
            )
        if not 1 <= len(zones) <= ZONES_MAX or len(set(zones)) != len(zones):
            raise UsageError(f"a cluster has 1 to {ZONES_MAX} different availability zones")
        if source_backup is not None:
            mode = self._check_source(source_backup, hsm_type, mode if mode_given else None)
        cluster = new_id("cluster", os.urandom)
        self.records.put_cluster(
            ClusterRow(
                cluster,
                hsm_type,
                mode,
                ",".join(zones),
                ClusterState.UNINITIALIZED,
                self.clock.now_ms(),
                source_backup or "",
            )
        )
        return self.cluster(cluster)

    def _check_source(self, backup: str, hsm_type: str, mode: str | None) -> str:
        """Return the mode of a backup that shall become a cluster of this type."""
        from orchestrator.control.backups import Backups  # noqa: PLC0415  # stands on this

        manifest = Backups(self).read(backup)[1].manifest
        check_restorable(manifest.hsm_type, hsm_type)
        if mode not in {None, manifest.mode}:
            raise RefusedError(
                "mode", f"backup {backup} is of mode {manifest.mode}, and so is what it restores to"
            )
        return manifest.mode

    def csr(self, cluster: str) -> bytes:
        """Return the cluster's certificate signing request (PEM)."""
        self.records.cluster(cluster)
        for welcome in self.controller(cluster).roster.hear().welcomes.values():
            if welcome.csr:
                request = x509.load_der_x509_csr(welcome.csr)
                return request.public_bytes(Encoding.PEM)
        raise RefusedError("no-csr", "the CSR appears with the first HSM: `cloister hsm create`")

    def initialize(self, cluster: str, certificate: bytes, trust_anchor: bytes) -> ClusterView:
        """Give the cluster the certificate that the customer's CA signed."""
        controller = self.controller(cluster)
        csr = x509.load_pem_x509_csr(self.csr(cluster))
        check_cluster_certificate(certificate, trust_anchor, public_bytes(csr), self.clock.now_ms())
        change = m.InitializeCluster(certificate, trust_anchor)
        welcomes = controller.roster.hear().welcomes.values()
        if Phase.UNINITIALIZED in [welcome.phase for welcome in welcomes]:
            controller.change(lambda _: change, request=f"initialize-{cluster}")
        else:  # again: only what is published can be mended, and only by the same anchor
            for welcome in welcomes:
                check_hsm(welcome, cluster, trust_anchor)
        publish(self.published(cluster) / "anchor.pem", _pem(trust_anchor))
        self.on_step(Step.ANCHOR_PUBLISHED)
        self.publish_endpoints(cluster)
        return self.cluster(cluster)

    def activate(self, cluster: str, password: bytes) -> ChangeReport:
        """Set the first password of `admin`."""
        self.records.cluster(cluster)
        check_password(password)
        anchor = read_anchor(self.home, cluster)
        controller = self.controller(cluster)

        def ask(hsm: str) -> m.ChangeRequest:
            link = controller.roster.link(hsm, anchor)
            sealed = seal_password(
                "new-password", link.welcome, link.member, Role.ADMIN, "admin", password
            )
            return m.ActivateCluster(sealed)

        return controller.change(ask).report

    def delete_cluster(self, cluster: str) -> None:
        """Delete a cluster that has no HSMs; its backups stay."""
        row = self.records.cluster(cluster)
        if rows := self.records.hsms(cluster):
            raise RefusedError(
                "has-hsms", f"cluster {cluster} still has {len(rows)} HSMs; delete them first"
            )
        self.controller(cluster).ledger.erase()
        directory = self.published(cluster)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        self.records.put_cluster(replace(row, state=ClusterState.DELETED))

    # --- HSMs ---

    def hsms(self, cluster: str) -> list[HsmView]:
        """Return the cluster's HSMs and how they are."""
        rows = self.records.hsms(cluster)
        controller = self.controller(cluster)
        heard = controller.roster.hear([row.hsm_id for row in rows])
        head = controller.ledger.head().seq
        views = []
        for row in rows:
            welcome = heard.welcomes.get(row.hsm_id)
            state, trouble = HsmState(row.state), ""
            if welcome is None:
                trouble = self._trouble(row, str(heard.silent.get(row.hsm_id, "")))
            elif welcome.seq < head and state is HsmState.ACTIVE:
                trouble = f"is at {welcome.seq}, the ledger at {head}"
            elif off_s := controller.clock_error_s(heard, row.hsm_id):
                trouble = f"its clock is off by {off_s} s; set it"
            if trouble and state is HsmState.ACTIVE:
                state = HsmState.DEGRADED
            views.append(
                HsmView(
                    row.hsm_id,
                    cluster,
                    row.host,
                    row.zone,
                    state,
                    welcome.seq if welcome else None,
                    trouble,
                )
            )
        return views

    def _trouble(self, row: HsmRow, error: str) -> str:
        """An HSM that cannot open its state leaves a note of why."""
        note = self.infrastructure.hsm_directory(row.host, row.hsm_id) / "trouble"
        try:
            return note.read_text().strip()
        except OSError:
            return error

    # --- what applications read ---

    def published(self, cluster: str) -> Path:
        """Return the directory of what applications read, made when there is none."""
        directory = cluster_directory(self.home, cluster)
        make_directory(directory.parent)
        make_directory(directory)
        return directory

    def publish_endpoints(self, cluster: str) -> None:
        """Write where the cluster's HSMs are."""
        rows = [row for row in self.records.hsms(cluster) if row.state == HsmState.ACTIVE]
        where = self.infrastructure.hsm_directory
        listed = Endpoints(
            cluster,
            tuple(Endpoint(r.hsm_id, str(where(r.host, r.hsm_id) / "agent.sock")) for r in rows),
        )
        publish(self.published(cluster) / "endpoints.json", msgspec.json.encode(listed))

    # --- hosts and users ---

    def host_views(self, cluster: str) -> list[HostView]:
        """Return the hosts, and which of them the cluster has admitted with that very key."""
        controller = self.controller(cluster)
        admitted: dict[str, bytes] = {}
        for hsm, welcome in controller.roster.hear().welcomes.items():
            if welcome.cluster:
                page = expect(controller.roster.call(hsm, m.ListMembers()), m.MemberPage)
                admitted = {host.name: host.key for host in page.hosts}
                break
        return [
            HostView(
                info.name,
                info.zone,
                info.key,
                "SHA256:" + hashlib.sha256(info.key).hexdigest()[:32],
                admitted.get(info.name) == info.key,
            )
            for info in self.infrastructure.hosts()
        ]

    def users(self, cluster: str) -> tuple[m.UserView, ...]:
        """Return the cluster's users as the most advanced HSM knows them."""
        return self.controller(cluster).ask_best(m.ListUsers(), m.UserPage).users

    def quorum(self, cluster: str) -> m.QuorumPage:
        """Return quorum values, policy and tokens as the most advanced HSM knows them."""
        return self.controller(cluster).ask_best(m.ListQuorum(), m.QuorumPage)

    def login(
        self,
        cluster: str,
        role: Role,
        name: str,
        password: bytes,
        trust_anchor: bytes | None = None,
    ) -> Session:
        """Log a user in."""
        with self._session(cluster, role, name, trust_anchor) as session:
            return session.login(password)

    def mfa_challenges(self, cluster: str, role: Role, name: str) -> PossessionFile:
        """Return what a user's second factor is to sign, one part for each HSM in reach."""
        with self._session(cluster, role, name) as session:
            challenges = session.mfa_challenges()
            session.close()
        return PossessionFile(tuple(Possession(data) for data in challenges))

    def login_mfa(
        self, cluster: str, role: Role, name: str, password: bytes, signed: PossessionFile
    ) -> Session:
        """Log a user in with password and second factor, at any HSM whose part is signed."""
        factors = [m.Factor(p.data.pack(), p.signed) for p in signed.parts if p.signed]
        with self._session(cluster, role, name) as session:
            return session.login_mfa(password, factors)

    def login_with_ticket(self, file: LoginTicketFile) -> Session:
        """Log in with a ticket that its user has lent to this process's Unix user."""
        with self._session(file.cluster_id, file.role, file.username) as session:
            return session.login_with_ticket(file.ticket)

    @contextmanager
    def _session(
        self, cluster: str, role: Role, name: str, trust_anchor: bytes | None = None
    ) -> Iterator[Session]:
        """Give a session that is closed if its login fails."""
        anchor = trust_anchor or read_anchor(self.home, cluster)
        balancer = Balancer(cluster, anchor, endpoints_source(self.home, cluster), self.clock)
        try:
            yield Session(balancer, self.clock, role, parse_user_name(name))
        except BaseException:
            balancer.close()
            raise

    def changes(self, cluster: str, session: Session) -> Changes:
        """Return what this user may change."""
        anchor = read_anchor(self.home, cluster)
        return Changes(
            self.controller(cluster), session, anchor, self.infrastructure.hosts, self.clock
        )

    def heal(self, cluster: str) -> list[str]:
        """One pass over a cluster's HSMs; return what was done."""
        row = self.records.cluster(cluster)
        joined = any(h.state == HsmState.ACTIVE for h in self.records.hsms(cluster))
        return self.controller(row.cluster_id).heal() if joined else []


def _pem(certificate: bytes) -> bytes:
    return load_certificate(certificate, "the trust anchor").public_bytes(Encoding.PEM)
