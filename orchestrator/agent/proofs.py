"""Passwords that were right a moment ago: who shows one again need not pay for Argon2 again.

Invariants: what is kept is a MAC under a key that this process drew and nobody else has, in
memory alone; it says that this Unix user showed this crypto user's password as the ledger has it
now, and for how long that counts; it can only tell that a password is right, never that it is
wrong, so who has no proof takes the whole way, and is counted.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from orchestrator.model import entries as e
from orchestrator.model.clock import Clock
from orchestrator.model.roles import Role
from orchestrator.model.state import User

LIFE_S: Final = 600.0
PROOFS_MAX: Final = 1024


@dataclass(frozen=True, slots=True, repr=False)
class _Proof:
    mac: bytes
    until_s: float


class Proofs:
    """Proofs of right passwords, by crypto user and Unix user. Thread-safe."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key, self._clock = key, clock
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], _Proof] = OrderedDict()

    def holds(self, user: User, uid: int, password: bytes) -> bool:
        """Tell whether this Unix user showed this password lately, and it is still the user's."""
        with self._guard:
            proof = self._kept.get((user.name, uid))
        if proof is None or user.role is not Role.CRYPTO_USER:
            return False
        if self._clock.monotonic_s() >= proof.until_s:
            self.drop(user.name)
            return False
        return hmac.compare_digest(proof.mac, self._mac(user, uid, password))

    def keep(self, user: User, uid: int, password: bytes) -> None:
        """Note a password that Argon2 has just found right."""
        if user.role is not Role.CRYPTO_USER:
            return
        proof = _Proof(self._mac(user, uid, password), self._clock.monotonic_s() + LIFE_S)
        with self._guard:
            self._kept[user.name, uid] = proof
            self._kept.move_to_end((user.name, uid))
            while len(self._kept) > PROOFS_MAX:
                self._kept.popitem(last=False)

    def drop(self, name: str) -> None:
        """Forget what is known of a user's password."""
        with self._guard:
            for place in [place for place in self._kept if place[0] == name]:
                del self._kept[place]

    def follow(self, change: e.Change) -> None:
        """Forget what a change ends: a proof would no longer hold, and shall not lie about."""
        match change:
            case (
                e.PasswordChanged()
                | e.UserDeleted()
                | e.UserLocked()
                | e.UserUnlocked()
                | e.UserDisabled()
                | e.UserEnabled()
                | e.MfaChanged()
            ):
                self.drop(change.name)
            case e.Replicated():  # a user may have come with another password
                with self._guard:
                    self._kept.clear()
            case _:
                pass

    def _mac(self, user: User, uid: int, password: bytes) -> bytes:
        """Bind the password to everything whose change ends it; the hash has its own salt."""
        about = (user.name, user.password_hash, user.version, user.unlocks, uid)
        bound = hashlib.sha256(repr(about).encode()).digest()
        return hmac.digest(self._key, bound + password, "sha256")
