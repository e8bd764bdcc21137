"""Second factors, and the log-ins that users lend: what a logged-in user changes about them."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.client.session import Session
from orchestrator.control.controller import Ask, Controller, Outcome
from orchestrator.control.quorum import possession
from orchestrator.control.views import ChangeReport
from orchestrator.model.clock import Clock
from orchestrator.model.roles import Role, check_password, parse_user_name
from orchestrator.model.services import Service
from orchestrator.model.ssh_signature import parse_public_key
from orchestrator.sealed.token_files import LoginTicketFile, PossessionFile, TokenFile
from orchestrator.wire import messages as m


class FactorChanges:
    """Second factors in one user's name."""

    def __init__(
        self,
        controller: Controller,
        session: Session,
        clock: Clock,
        change: Callable[[Ask, str | None, TokenFile | None], Outcome],
        sealing: Callable[[Role, str, bytes, Callable[[bytes], m.ChangeRequest]], Ask],
    ) -> None:
        self._controller, self._session, self._clock = controller, session, clock
        self._change, self._sealing = change, sealing

    def enrolment(self, name: str, role: Role) -> PossessionFile:
        """Return what to sign with the key that shall be a second factor, one part an HSM."""
        heard, name = self._controller.roster.hear(), parse_user_name(name)
        cluster, now_s = self._controller.cluster, self._clock.now_ms() // 1000
        hsms = sorted(heard.welcomes)
        return PossessionFile(
            tuple(possession(Service.MFA, cluster, role, name, now_s, hsm) for hsm in hsms)
        )

    def set(  # the parts of one change
        self,
        name: str,
        role: Role,
        password: bytes | None,
        public_key: bytes,
        signed: PossessionFile,
        *,
        change_quorum: bool = False,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Set or replace a second factor; `signed` is what `enrolment` gave, signed with it."""
        public, part = parse_public_key(public_key), signed.complete().parts[0]
        proof = (public, part.data.pack(), part.signed)
        return self._change_factor(name, role, password, proof, change_quorum, approval, request)

    def remove(
        self,
        name: str,
        role: Role,
        password: bytes | None = None,
        *,
        change_quorum: bool = False,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Remove a second factor; `change_quorum` removes the quorum key too."""
        proof = (b"", b"", b"")
        return self._change_factor(name, role, password, proof, change_quorum, approval, request)

    def _change_factor(
        self,
        name: str,
        role: Role,
        password: bytes | None,
        proof: tuple[bytes, bytes, bytes],
        change_quorum: bool,  # a field of the change
        approval: TokenFile | None,
        request: str | None,
    ) -> ChangeReport:
        name = parse_user_name(name)
        if password is None:
            change = m.ChangeMfa(name, role, b"", *proof, change_quorum)
            return self._change(lambda _: change, request, approval).report
        check_password(password)
        ask = self._sealing(
            role, name, password, lambda p: m.ChangeMfa(name, role, p, *proof, change_quorum)
        )
        return self._change(ask, request, approval).report

    def issue_ticket(self, uid: int, hours: float) -> LoginTicketFile:
        """Let a Unix user log in as this user, without second factor, for some hours."""
        until = self._clock.now_ms() + int(hours * 3_600_000)
        login = self._change(lambda _: m.IssueLoginTicket(uid, until), None, None).data.decode()
        session = self._session
        ticket = session.take_login_ticket(login)
        cluster = self._controller.cluster
        return LoginTicketFile(cluster, session.name, session.role, uid, until, login, ticket)

    def tickets(self) -> tuple[m.LoginTicketView, ...]:
        """Return the user's login tickets; an admin sees everybody's."""
        return self._session.login_tickets()

    def revoke_ticket(self, login: str, *, request: str | None = None) -> ChangeReport:
        """End a login ticket on every HSM."""
        return self._change(lambda _: m.RevokeLoginTicket(login), request, None).report
