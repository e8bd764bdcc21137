"""Second factors at one HSM: challenges to sign, and their answers.

Invariants: a challenge is good at the HSM and for the user that it names, for ten minutes, and
once; without a right answer no password is looked at, so that nobody who lacks the second factor
can guess one or lock its user; nothing is kept for challenges that nobody answers.
"""

from __future__ import annotations

import hashlib
import hmac
import threading

from orchestrator.agent.core import Core
from orchestrator.model.errors import (
    LoginFailedError,
    MalformedError,
    MfaRequiredError,
    TamperedError,
)
from orchestrator.model.factor_decisions import MFA_LOGIN, NAMESPACES, PROOF_LIFE_S
from orchestrator.model.quorum import ApprovalData, possession_words, token_of
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.model.services import Service
from orchestrator.model.ssh_signature import check_signature
from orchestrator.model.state import Table, User, user_row
from orchestrator.wire import messages as m


class Factors:
    """Checks second factors. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._secret = core.store.random(32)  # challenges do not outlive the process
        self._lock = threading.Lock()
        self._used: dict[bytes, int] = {}

    def challenge(self, asked: m.MfaChallenge) -> m.Data:
        """Return what to sign; a user who has no second factor, or is none, gets one as well."""
        name = parse_user_name(asked.name)
        issued = self._core.clock.now_ms() // 1000
        return m.Data(self._data(asked.role, name, issued, self._core.store.random(16)).pack())

    def _data(self, role: Role, name: str, issued_at_s: int, nonce: bytes) -> ApprovalData:
        core = self._core
        cluster = core.state.meta.cluster
        words = possession_words(MFA_LOGIN, cluster, role, name, core.config.hsm)
        sealed = f"{words} {issued_at_s} ".encode() + nonce
        seal = hmac.new(self._secret, sealed, hashlib.sha256).hexdigest()[:32]
        return ApprovalData(Service.MFA, 0, name, issued_at_s, f"{words} seal={seal}", (nonce,))

    def check(self, role: Role, name: str, factor: m.Factor | None) -> bool:
        """Tell whether a login has a second factor: False for a user who needs none.

        Raises:
            MfaRequiredError: the user has one, and the login lacks it.
            LoginFailedError: it does not hold; the same as for a wrong password.
        """
        user = self._core.state.tables[Table.USERS].get(user_row(role, name))
        if not isinstance(user, User) or not user.mfa_key:
            return False
        if factor is None:
            raise MfaRequiredError(role, name)
        now_s = self._core.clock.now_ms() // 1000
        try:
            data = ApprovalData.parse(factor.approval_data)
            token, what = token_of(factor.approval_data), "second factor"
            namespace = NAMESPACES[Service.MFA]
            check_signature(user.mfa_key, token, factor.signature, namespace, what)
        except (MalformedError, TamperedError) as exc:
            raise LoginFailedError("user, role, password or second factor is wrong") from exc
        made = self._data(role, name, data.issued_at_s, data.nonces[0]).pack()
        fresh = 0 <= now_s - data.issued_at_s <= PROOF_LIFE_S
        if not hmac.compare_digest(made, factor.approval_data) or not fresh:
            raise LoginFailedError(
                "the second factor was signed for another HSM or user, or longer than "
                f"{PROOF_LIFE_S} s ago; ask for a new one"
            )
        self._use_once(token, now_s)
        return True

    def _use_once(self, token: bytes, now_s: int) -> None:
        with self._lock:
            for old in [k for k, until in self._used.items() if until < now_s]:
                del self._used[old]
            if token in self._used:
                raise LoginFailedError("the second factor was used already; ask for a new one")
            self._used[token] = now_s + PROOF_LIFE_S
