"""Passwords: Argon2id, and the count of wrong ones that locks.

Invariants: a wrong password is counted durably before it is answered; one user's log-ins are
checked one after the other, so that no crowd of guesses passes the count; an unknown user costs
a guesser the same time as a known one; a proof of an earlier log-in (`proofs`) spares Argon2
alone, and only where the password is right.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.proofs import Proofs
from orchestrator.agent.vault import Vault
from orchestrator.model.clock import Clock
from orchestrator.model.entries import Record, decode, encode
from orchestrator.model.errors import (
    LoginFailedError,
    NotFoundError,
    UserDisabledError,
    UserLockedError,
)
from orchestrator.model.roles import LOGIN_ROLES, Role, check_password
from orchestrator.model.signatures import check_ecdsa, digest_of
from orchestrator.model.state import State, Table, User, user_row
from orchestrator.model.user_decisions import has_other_able_admin
from orchestrator.sealed.box import open_box
from orchestrator.tokens.store import TokenStore
from orchestrator.wire import messages as m

TRIES: Final = 5
SLOWEST_S: Final = 60
TELL_S: Final = 1.5
_PLACE: Final = "tries/"
_TURNS: Final = 64
# OWASP's second recommendation for Argon2id: 19 MiB, 2 passes, 1 lane.
_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY_HASH: Final = (
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA"
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)


class _Counted(Record):
    """What this HSM knows of one user's wrong passwords: one report of each HSM."""

    reports: tuple[m.SignedTries, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """All HSMs' reports as one: since the last right password, and this HSM's own."""

    resets: int
    count: int
    own: m.Tries | None


def hash_password(password: bytes) -> str:
    """Return an Argon2id PHC string."""
    return _hasher.hash(password)


class PasswordCheck:
    """Checks passwords at one HSM; wrong ones count together with those of the other HSMs."""

    def __init__(self, hsm: str, store: TokenStore, vault: Vault, clock: Clock) -> None:
        self._hsm, self._store, self._vault, self._clock = hsm, store, vault, clock
        self.proofs = Proofs(store.random(32), clock)
        self._turns = tuple(threading.Lock() for _ in range(_TURNS))
        self._writing = threading.Lock()
        self._untold: dict[str, m.SignedTries] = {}
        # When the last try was heard of, by the clock that nobody sets; a restart waits anew.
        self._heard_at: dict[str, float] = {}
        # Each check takes 19 MiB: bound what a crowd of log-ins can claim.
        self._room = threading.BoundedSemaphore(4)

    def check(self, state: State, role: Role, name: str, password: bytes, uid: int) -> User:
        """Return the user whose password this is, as the Unix user `uid` shows it.

        A wrong one is answered once the other HSMs have heard of it, or after TELL_S: so that
        a guesser's tries at all HSMs in reach are counted as one row.

        Raises:
            LoginFailedError: user, role or password is wrong.
            UserLockedError: locked, or the last admin who must wait a little.
        """
        row = user_row(role, name)
        with self._turns[zlib.crc32(row.encode()) % _TURNS]:
            try:
                user = state.user(role, name) if role in LOGIN_ROLES else None
            except NotFoundError:
                user = None
            if user is None:
                self._matches(_NOBODY_HASH, password)
                raise LoginFailedError("user, role or password is wrong")
            count = self._check_lock(state, user)
            if count == 0 and self.proofs.holds(user, uid, password):
                return user
            if not self._matches(user.password_hash, password):
                self.proofs.drop(name)
                self._count(user)
                if len(state.members()) > 1:
                    self._wait_until_told(row)
                raise LoginFailedError("user, role or password is wrong")
            if self._known(user).count:
                self._reset(user)
            self.proofs.keep(user, uid, password)
            return user

    # --- counting ---

    def _count(self, user: User) -> None:
        with self._writing:
            known = self._known(user)
            own = known.own
            now = self._clock.now_ms()
            count = own.count + 1 if own and own.resets == known.resets else 1
            self._report(user, m.Tries(
                self._hsm, user.role, user.name, user.tries_version, known.resets, count, now
            ))  # fmt: skip

    def _reset(self, user: User) -> None:
        with self._writing:
            resets = self._known(user).resets + 1
            self._report(user, m.Tries(
                self._hsm, user.role, user.name, user.tries_version, resets, 0, 0
            ))  # fmt: skip

    def _report(self, user: User, tries: m.Tries) -> None:
        encoded = encode(tries)
        report = m.SignedTries(encoded, self._store.identity_sign(digest_of("tries", encoded)))
        self._keep(user, report, tries)
        self._untold[user_row(user.role, user.name)] = report

    def _keep(self, user: User, report: m.SignedTries, tries: m.Tries) -> None:
        """Store a report in place of its HSM's earlier one; those of earlier versions go."""
        kept = [r for r, t in self._reports(user) if t.hsm != tries.hsm]
        row = user_row(user.role, user.name)
        self._vault.set_local(_PLACE + row, _Counted((*kept, report)))
        self._heard_at[row] = self._clock.monotonic_s()

    def _reports(self, user: User) -> list[tuple[m.SignedTries, m.Tries]]:
        stored = self._vault.local(_Counted, _PLACE + user_row(user.role, user.name))
        if stored is None:
            return []
        read = [(report, decode(m.Tries, report.tries, "tries")) for report in stored.reports]
        return [(report, tries) for report, tries in read if tries.version == user.tries_version]

    def _known(self, user: User) -> _Known:
        tries = [t for _, t in self._reports(user)]
        resets = max((t.resets for t in tries), default=0)
        counting = [t for t in tries if t.resets == resets]
        return _Known(
            resets,
            sum(t.count for t in counting),
            next((t for t in tries if t.hsm == self._hsm), None),
        )

    # --- telling ---

    def untold(self) -> tuple[m.SignedTries, ...]:
        """Return this HSM's reports that the others have not heard of, as far as it knows."""
        return tuple(self._untold.copy().values())

    def told(self, known: tuple[m.SignedTries, ...]) -> None:
        """Note that the other HSMs in reach have these reports."""
        for row, report in list(self._untold.items()):
            if report in known:
                with self._writing:
                    if self._untold.get(row) == report:
                        del self._untold[row]

    def learn(self, state: State, reports: tuple[m.SignedTries, ...]) -> None:
        """Keep what members have counted, newer before older.

        Raises:
            TamperedError: a report is not signed by the member that it names.
        """
        for report in reports:
            tries = decode(m.Tries, report.tries, "tries")
            what = f"wrong passwords counted by {tries.hsm}"
            if tries.hsm == self._hsm:
                continue
            try:
                author = state.member(tries.hsm)
                user = state.user(tries.role, tries.name)
            except NotFoundError:
                continue  # who is ahead or behind knows other users and members
            check_ecdsa(author.identity, digest_of("tries", report.tries), report.signature, what)
            if user.tries_version != tries.version:
                continue
            with self._writing:
                held = next((t for _, t in self._reports(user) if t.hsm == tries.hsm), None)
                if held is None or (held.resets, held.count) < (tries.resets, tries.count):
                    self._keep(user, report, tries)

    def _wait_until_told(self, row: str) -> None:
        deadline = self._clock.monotonic_s() + TELL_S
        while row in self._untold and self._clock.monotonic_s() < deadline:
            self._clock.sleep(0.02)

    # --- locking ---

    def tried_users(self, state: State) -> list[User]:
        """Return the users for whom wrong passwords were counted."""
        rows = (name.removeprefix(_PLACE) for name in self._vault.local_names(_PLACE))
        found = (state.tables[Table.USERS].get(row) for row in rows)
        return [user for user in found if isinstance(user, User)]

    def wants_lock(self, state: State, user: User) -> bool:
        """Tell whether the sixth wrong password of an unlocked user has been counted."""
        return (
            not user.locked and self._known(user).count > TRIES and not _is_last_admin(state, user)
        )

    def _check_lock(self, state: State, user: User) -> int:
        """Return how many wrong passwords count; raise where the user may not try another."""
        known = self._known(user)
        if user.disabled:
            raise UserDisabledError(user.role, user.name)
        if user.locked or (known.count > TRIES and not _is_last_admin(state, user)):
            raise UserLockedError(
                f"{user.role} {user.name} is locked after too many wrong passwords; an admin "
                f"unlocks with `cloister user unlock --username {user.name} --role {user.role}`"
            )
        if known.count > TRIES:
            wait_s = min(2 ** (known.count - TRIES), SLOWEST_S)
            now_s = self._clock.monotonic_s()
            row = user_row(user.role, user.name)
            left_s = self._heard_at.setdefault(row, now_s) + wait_s - now_s
            if left_s > 0:
                raise UserLockedError(
                    f"too many wrong passwords for the last admin; try again in {left_s:.0f} s"
                )
        return known.count

    def _matches(self, phc: str, password: bytes) -> bool:
        with self._room:
            try:
                return _hasher.verify(phc, password)
            except (VerificationError, InvalidHashError):
                return False


def _is_last_admin(state: State, user: User) -> bool:
    return user.role is Role.ADMIN and not has_other_able_admin(state, user)


def open_password(
    core: Core, purpose: str, sealed: bytes, caller: Caller, role: Role, name: str
) -> bytes:
    """Open a password that was sealed to this HSM, on this connection, for this user."""
    store = core.store
    info = m.password_info(purpose, core.config.hsm, caller.peer.nonce, role, name)
    return open_box(store.box_public(), store.box_agree, sealed, info)


def new_password(core: Core, sealed: bytes, caller: Caller, role: Role, name: str) -> str:
    """Open a new password, check it by the rule and return its hash."""
    plain = open_password(core, "new-password", sealed, caller, role, name)
    return hash_password(check_password(plain))
