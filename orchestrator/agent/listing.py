"""What an HSM tells about users, quorum and login tickets."""

from __future__ import annotations

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.passwords import PasswordCheck
from orchestrator.model.quorum import Token
from orchestrator.model.roles import Role
from orchestrator.model.services import VALUED_SERVICES, Service
from orchestrator.model.state import Host, LoginTicket, State, Table, key_row
from orchestrator.wire import messages as m


class Listing:
    """Reads state n for those who ask."""

    def __init__(self, core: Core, passwords: PasswordCheck) -> None:
        self._core, self._passwords = core, passwords

    def users(self) -> m.UserPage:
        """List users; a lock that this HSM has counted shows before the ledger has it."""
        state = self._core.state
        tried = self._passwords.tried_users(state)
        counted = {user for user in tried if self._passwords.wants_lock(state, user)}
        return m.UserPage(
            tuple(
                m.UserView(
                    u.name,
                    u.role,
                    u.locked or u in counted,
                    u.disabled,
                    bool(u.mfa_key),
                    bool(u.quorum_key),
                )
                for u in state.users()
            )
        )

    def members(self) -> m.MemberPage:
        """List members and admitted hosts."""
        state = self._core.state
        hosts = [r for _, r in sorted(state.tables[Table.HOSTS].items()) if isinstance(r, Host)]
        return m.MemberPage(
            tuple(m.MemberView(x.hsm, x.host, x.zone) for x in state.members()),
            tuple(m.HostView(host.name, host.key) for host in hosts),
            state.meta.recovery_threshold,
            state.meta.recovery_shares,
        )

    def quorum(self) -> m.QuorumPage:
        """List quorum values, policy, and the tokens that are still good."""
        state, now = self._core.state, self._core.clock.now_ms()
        policy = state.quorum
        tokens = tuple(
            m.TokenView(
                name, t.service, t.ref, t.name, t.role, t.words, t.issued_at, t.expires_at,
                _required(state, t),
            )
            for name, t in sorted(state.tokens().items(), key=lambda item: item[1].issued_at)
            if t.expires_at > now
        )  # fmt: skip
        return m.QuorumPage(
            tuple((service, policy.value(service)) for service in VALUED_SERVICES),
            policy.bound_only,
            policy.guards_use,
            policy.generated_s,
            policy.approved_s,
            tokens,
        )

    def login_tickets(self, caller: Caller) -> m.LoginTicketPage:
        """List the caller's login tickets; an admin sees everybody's."""
        rows = self._core.state.tables[Table.LOGIN_TICKETS].copy().items()
        now = self._core.clock.now_ms()
        return m.LoginTicketPage(
            tuple(
                m.LoginTicketView(login, row.name, row.role, row.uid, row.until)
                for login, row in sorted(rows)
                if isinstance(row, LoginTicket)
                and row.until > now
                and (
                    caller.role is Role.ADMIN or (row.role, row.name) == (caller.role, caller.name)
                )
            )
        )


def _required(state: State, token: Token) -> int:
    key = state.tables[Table.KEYS].get(key_row(token.ref)) if token.ref else None
    if key is None:
        return state.quorum.value(token.service)
    uses = token.service is Service.KEY_USAGE
    return int(getattr(key, "use_quorum" if uses else "manage_quorum"))
