"""Passwords: Argon2id, and the count of wrong ones that locks.

Invariants: a wrong password is counted durably before it is answered; one user's log-ins are
checked one after the other, so that no crowd of guesses passes the count; an unknown user costs
a guesser the same time as a known one.
"""

from __future__ import annotations

import threading
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from orchestrator.agent.vault import Vault
from orchestrator.model.clock import Clock
from orchestrator.model.entries import Record
from orchestrator.model.errors import LoginFailedError, NotFoundError, UserLockedError
from orchestrator.model.roles import LOGIN_ROLES, Role
from orchestrator.model.state import State, User, user_row

TRIES: Final = 5
SLOWEST_S: Final = 60
# OWASP's second recommendation for Argon2id: 19 MiB, 2 passes, 1 lane.
_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY_HASH: Final = (
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA"
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)


class Failures(Record):
    """Wrong passwords since the last right one, for one version of the user."""

    version: int
    count: int
    last_at: int


def hash_password(password: bytes) -> str:
    """Return an Argon2id PHC string."""
    return _hasher.hash(password)


class PasswordCheck:
    """Checks passwords at one HSM and counts the wrong ones."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault, self._clock = vault, clock
        self._guard = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        # Each check takes 19 MiB: bound what a crowd of log-ins can claim.
        self._room = threading.BoundedSemaphore(4)

    def check(self, state: State, role: Role, name: str, password: bytes) -> User:
        """Return the user whose password this is.

        Raises:
            LoginFailedError: user, role or password is wrong.
            UserLockedError: locked, or the last admin who must wait a little.
        """
        row = user_row(role, name)
        with self._guard:
            if len(self._turns) > 4096:
                self._turns.clear()
            turn = self._turns.setdefault(row, threading.Lock())
        with turn:
            try:
                user = state.user(role, name) if role in LOGIN_ROLES else None
            except NotFoundError:
                user = None
            if user is None:
                self._matches(_NOBODY_HASH, password)
                raise LoginFailedError("user, role or password is wrong")
            failures = self._failures(user)
            self._check_lock(state, user, failures)
            if not self._matches(user.password_hash, password):
                count = failures.count + 1
                now = self._clock.now_ms()
                self._vault.set_local(f"failures/{row}", Failures(user.version, count, now))
                raise LoginFailedError("user, role or password is wrong")
            if failures.count:
                self._vault.set_local(f"failures/{row}", None)
            return user

    def wants_lock(self, state: State, user: User) -> bool:
        """Tell whether this HSM has counted the sixth wrong password of an unlocked user."""
        return (
            not user.locked
            and self._failures(user).count > TRIES
            and not _is_last_admin(state, user)
        )

    def _check_lock(self, state: State, user: User, failures: Failures) -> None:
        if user.locked or (failures.count > TRIES and not _is_last_admin(state, user)):
            raise UserLockedError(
                f"{user.role} {user.name} is locked after too many wrong passwords; an admin "
                f"unlocks with `cloister user change-password --username {user.name} "
                f"--role {user.role}`"
            )
        if failures.count > TRIES:
            wait_s = min(2 ** (failures.count - TRIES), SLOWEST_S)
            left_s = failures.last_at / 1000 + wait_s - self._clock.now_ms() / 1000
            if left_s > 0:
                raise UserLockedError(
                    f"too many wrong passwords for the last admin; try again in {left_s:.0f} s"
                )

    def _failures(self, user: User) -> Failures:
        stored = self._vault.local(Failures, f"failures/{user_row(user.role, user.name)}")
        if stored is None or stored.version != user.version:
            return Failures(user.version, 0, 0)
        return stored

    def _matches(self, phc: str, password: bytes) -> bool:
        with self._room:
            try:
                return _hasher.verify(phc, password)
            except (VerificationError, InvalidHashError):
                return False


def _is_last_admin(state: State, user: User) -> bool:
    if user.role is not Role.ADMIN:
        return False
    return not any(
        u.role is Role.ADMIN and not u.locked and u.name != user.name for u in state.users()
    )
