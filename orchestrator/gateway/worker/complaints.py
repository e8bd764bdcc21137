"""What the log hears of refusals: an application is told a number, who runs it needs the reason."""

from __future__ import annotations

import logging
from typing import Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.model.clock import Clock
from orchestrator.model.errors import OrchestratorError

SILENCE_S: Final = 10.0
_REMEDIES: Final = {
    "login-failed": "a PIN is user:password of a crypto user, see docs/gateway.md",
    "user-locked": "",  # these say it themselves
    "user-disabled": "",
    "mfa-required": "an application needs a login ticket, see docs/gateway.md",
    "ticket-refused": "the log-in has ended, was revoked, or is another Unix user's",
    "quorum": "others must approve it, by `cloister quorum request`",
    "quorum-failed": "this use of the key needs approvals, see docs/quorum.md",
}
_EXPLAINED: Final = frozenset({
    CKR.ATTRIBUTE_READ_ONLY, CKR.ATTRIBUTE_TYPE_INVALID, CKR.ATTRIBUTE_VALUE_INVALID,
    CKR.ACTION_PROHIBITED, CKR.DATA_LEN_RANGE, CKR.DEVICE_MEMORY, CKR.KEY_NOT_WRAPPABLE,
    CKR.KEY_SIZE_RANGE, CKR.KEY_UNEXTRACTABLE, CKR.MECHANISM_INVALID, CKR.MECHANISM_PARAM_INVALID,
    CKR.PIN_INVALID, CKR.PIN_LEN_RANGE, CKR.TEMPLATE_INCOMPLETE, CKR.TEMPLATE_INCONSISTENT,
    CKR.USER_TYPE_INVALID,
})  # fmt: skip
"""Faults of whoever wrote or configured an application; what happens in good ones is none."""
_log = logging.getLogger("cloister.gateway")


class Complaints:
    """One connection's; of each kind one in `SILENCE_S`, for an application may try for ever."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quiet_until_s: dict[str, float] = {}  # by kind: codes, of which there are few

    def note(self, user: str, error: OrchestratorError) -> None:
        """An HSM refused something, or none answered."""
        if error.retryable or error.code in _REMEDIES:
            remedy = _REMEDIES.get(error.code)
            self._say(error.code, "; ".join(filter(None, (f"{user}: {error}", remedy))))

    def explain(self, user: str, call: str, error: CryptokiError) -> None:
        """A call was refused, for a reason that its code does not tell."""
        noted = isinstance(cause := error.__cause__, OrchestratorError) and cause.code in _REMEDIES
        if error.rv in _EXPLAINED and error.reason and not noted:
            self._say(error.rv.name, f"{user or 'nobody'}: {call}: {error}")

    def login(self, user: str, error: CryptokiError) -> None:
        """What was given as a PIN is none."""
        self._say("login", f"{user} cannot log in: {error}")

    def _say(self, kind: str, text: str) -> None:
        now = self._clock.monotonic_s()
        if now >= self._quiet_until_s.get(kind, now):
            self._quiet_until_s[kind] = now + SILENCE_S
            _log.warning("%s", text)
