"""Tickets: proof of a login that every HSM of the cluster accepts, sealed under its secret."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.model.entries import LOGIN_LIFE_MS, Record, decode, encode
from orchestrator.model.errors import BehindError, MalformedError, TicketRefusedError
from orchestrator.model.roles import Role
from orchestrator.model.state import Secrets, State, Table, User, user_row
from orchestrator.tokens.store import TokenStore

LIFE_MS: Final = 10 * 60 * 1000
_CACHED: Final = 1024


class TicketBody(Record):
    """A login. `uid` is the caller's transport identity as the HSM saw it; times in Unix ms.

    `ends_at` is 0 but for a login that its user has lent to `uid` until then.
    """

    name: str
    role: Role
    version: int
    login: str
    seq: int
    started_at: int
    expires_at: int
    uid: int
    has_factor: bool = False
    ends_at: int = 0

    @property
    def last_renewal_at(self) -> int:
        """When the login is over, renewed or not."""
        return self.ends_at or self.started_at + LOGIN_LIFE_MS


class Tickets:
    """Seals and opens tickets. Opened ones are remembered, and judged anew at every use."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._opened: OrderedDict[bytes, TicketBody] = OrderedDict()

    def seal(self, body: TicketBody, secrets: Secrets, cluster: str) -> bytes:
        """Return the ticket's bytes."""
        nonce = self._store.random(12)
        sealed = AESGCM(secrets.ticket_secret).encrypt(nonce, encode(body), _aad(cluster))
        return secrets.epoch.to_bytes(4, "big") + nonce + sealed

    def check(self, ticket: bytes, state: State, now_ms: int, uid: int) -> TicketBody:
        """Return an unexpired ticket's login.

        Raises:
            TicketRefusedError: forged, of another caller, expired, ended, or of a user who has
                since got a new password or is gone.
            BehindError: the user is newer than this HSM's state.
        """
        body = self.check_login(ticket, state, now_ms, uid)
        if now_ms >= body.expires_at:
            raise TicketRefusedError("the ticket has expired; renew it")
        return body

    def check_login(self, ticket: bytes, state: State, now_ms: int, uid: int) -> TicketBody:
        """Return a ticket's login, expired or not, while it may still be renewed."""
        body = self._open(ticket, state, now_ms)
        if body.uid != uid:
            raise TicketRefusedError("the ticket was given to another caller; log in")
        if now_ms >= body.last_renewal_at:
            raise TicketRefusedError("the login has come to its end; log in again")
        if body.login in state.tables[Table.LOGINS]:
            raise TicketRefusedError("the user has logged out; log in again")
        user = state.tables[Table.USERS].get(user_row(body.role, body.name))
        if not isinstance(user, User) or user.version != body.version:
            if body.seq > state.seq:
                raise BehindError(state.seq, body.seq)
            raise TicketRefusedError("the user's password has changed or the user is gone; log in")
        if body.ends_at and body.login not in state.tables[Table.LOGIN_TICKETS]:
            if body.seq > state.seq:
                raise BehindError(state.seq, body.seq)
            raise TicketRefusedError("the login ticket was revoked; ask its user for another")
        return body

    def _open(self, ticket: bytes, state: State, now_ms: int) -> TicketBody:
        secret = _secret_of(state.secrets, int.from_bytes(ticket[:4], "big"), now_ms)
        # The secret is part of the key: another epoch, or cluster, is another ticket.
        if (known := self._opened.get(secret + ticket)) is not None:
            return known
        try:
            plain = AESGCM(secret).decrypt(ticket[4:16], ticket[16:], _aad(state.meta.cluster))
            body = decode(TicketBody, plain, "ticket")
        except (InvalidTag, ValueError, MalformedError) as exc:
            raise TicketRefusedError("the ticket is not of this cluster; log in again") from exc
        self._opened[secret + ticket] = body
        while len(self._opened) > _CACHED:
            self._opened.popitem(last=False)
        return body


def _aad(cluster: str) -> bytes:
    return f"cloister/1 ticket {cluster}".encode()


def _secret_of(secrets: Secrets, epoch: int, now_ms: int) -> bytes:
    if epoch == secrets.epoch:
        return secrets.ticket_secret
    for old in secrets.old:
        if old.epoch == epoch and now_ms < old.until:
            return old.ticket_secret
    raise TicketRefusedError("the ticket is not of this cluster; log in again")
