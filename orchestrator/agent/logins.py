"""Log-ins at this HSM, and the tickets that they give.

Invariant: a log-in, right or wrong, is in the audit log before it is answered.
"""

from __future__ import annotations

from msgspec import structs

from orchestrator.agent.core import Caller, Core, Peer
from orchestrator.agent.mfa import Factors
from orchestrator.agent.passwords import PasswordCheck, open_password
from orchestrator.agent.tickets import LIFE_MS, TicketBody, Tickets
from orchestrator.model.errors import NotFoundError, OrchestratorError, RefusedError
from orchestrator.model.roles import parse_user_name
from orchestrator.model.state import LoginTicket, Table
from orchestrator.wire import messages as m


class Logins:
    """Checks who comes: by password and second factor, or by ticket."""

    def __init__(self, core: Core, passwords: PasswordCheck) -> None:
        self._core, self._passwords = core, passwords
        self._tickets = Tickets(core.store)
        self.factors = Factors(core)

    def check(self, ticket: bytes, peer: Peer) -> TicketBody:
        """Return what a ticket that is good now, on this connection, says."""
        core = self._core
        return self._tickets.check(ticket, core.state, core.clock.now_ms(), peer.uid)

    def login(self, asked: m.Login, caller: Caller) -> m.Ticket:
        """Check a password and give out a ticket; right or wrong, it is audited first."""
        core, state = self._core, self._core.state
        name = parse_user_name(asked.name)
        who = f"{asked.role}/{name}"
        if core.is_removed:
            raise RefusedError("removed", f"{core.config.hsm} has left the cluster")
        try:
            has_factor = self.factors.check(asked.role, name, asked.factor)
            password = open_password(core, "login", asked.password, caller, asked.role, name)
            user = self._passwords.check(state, asked.role, name, password, caller.peer.uid)
        except OrchestratorError as exc:
            core.vault.audit(core.line("login", who, "", exc.code))
            raise
        now = core.clock.now_ms()
        login = core.store.random(12).hex()
        body = TicketBody(
            user.name,
            user.role,
            user.version,
            login,
            state.seq,
            now,
            now + LIFE_MS,
            caller.peer.uid,
            has_factor,
        )
        core.vault.audit(core.line("login", who, login, "done"))
        return self._ticket(body)

    def renew(self, asked: m.Renew, caller: Caller) -> m.Ticket:
        """Give out a fresh ticket of the same login."""
        core = self._core
        now = core.clock.now_ms()
        old = self._tickets.check_login(asked.ticket, core.state, now, caller.peer.uid)
        end = min(now + LIFE_MS, old.last_renewal_at)
        return self._ticket(structs.replace(old, seq=core.state.seq, expires_at=end))

    def take_ticket(self, asked: m.TakeLoginTicket, caller: Caller) -> m.Ticket:
        """Give out the ticket of a login that the caller has lent: good only to be renewed."""
        state = self._core.state
        row = state.tables[Table.LOGIN_TICKETS].get(asked.login)
        user = state.user(caller.role, caller.name)
        if not isinstance(row, LoginTicket) or (row.role, row.name, row.version) != (
            user.role, user.name, user.version
        ):  # fmt: skip
            raise NotFoundError("login ticket", asked.login)
        return self._ticket(
            TicketBody(
                name=user.name,
                role=user.role,
                version=user.version,
                login=asked.login,
                seq=state.seq,
                started_at=self._core.clock.now_ms(),
                expires_at=0,
                uid=row.uid,
                ends_at=row.until,
            )
        )

    def _ticket(self, body: TicketBody) -> m.Ticket:
        state = self._core.state
        sealed = self._tickets.seal(body, state.secrets, state.meta.cluster)
        return m.Ticket(sealed, body.login, body.expires_at, state.seq)
