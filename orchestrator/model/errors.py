"""Errors that cross rooms: a stable code, an exit status, and whether trying again can help.

Exit statuses: 1 refused, 2 usage, 3 not found, 4 login, 5 retryable, 6 pending.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of every error that Cloister raises on purpose.

    A subclass exists where a caller would act differently. `code` is stable and part of the
    JSON contract; the message names the object and the remedy, never a secret.
    """

    code: str = "refused"
    exit_status: int = 1
    retryable: bool = False


class RefusedError(OrchestratorError):
    """A rule says no; nothing changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UsageError(OrchestratorError):
    """The caller's input is malformed: nothing was asked of an HSM."""

    code, exit_status = "usage", 2


class NotFoundError(OrchestratorError):
    """The named object does not exist, or the caller may not see it."""

    code, exit_status = "not-found", 3

    def __init__(self, kind: str, name: str, remedy: str = "") -> None:
        super().__init__(f"{kind} {name} does not exist" + (f"; {remedy}" if remedy else ""))
        self.kind, self.name = kind, name


class PermissionDeniedError(OrchestratorError):
    """The role may not do this."""

    code = "permission-denied"

    def __init__(self, role: str, operation: str) -> None:
        super().__init__(f"role {role} may not do {operation}")
        self.role, self.operation = role, operation


class LoginFailedError(OrchestratorError):
    """User, role or password is wrong; which one is not said."""

    code, exit_status = "login-failed", 4


class MfaRequiredError(OrchestratorError):
    """The user has a second factor, and the login came without; the password was not looked at."""

    code, exit_status = "mfa-required", 4

    def __init__(self, role: str, name: str) -> None:
        super().__init__(f"{role} {name} logs in with a second factor: sign the token file")
        self.role, self.name = role, name


class UserLockedError(OrchestratorError):
    """Too many wrong passwords: an admin must set a new one."""

    code, exit_status = "user-locked", 4


class UserDisabledError(OrchestratorError):
    """An admin has disabled the user."""

    code, exit_status = "user-disabled", 4

    def __init__(self, role: str, name: str) -> None:
        super().__init__(
            f"{role} {name} is disabled; an admin enables with `cloister user enable --username "
            f"{name} --role {role}`"
        )
        self.role, self.name = role, name


class TicketRefusedError(OrchestratorError):
    """The login has ended, or the ticket is not for this caller: log in again."""

    code, exit_status = "ticket-refused", 4


class MovedOnError(OrchestratorError):
    """The ledger has a newer head: prepare again, the token work stays done."""

    code, exit_status, retryable = "moved-on", 5, True


class BehindError(OrchestratorError):
    """This HSM has not yet applied what the caller has already seen."""

    code, exit_status, retryable = "behind", 5, True

    def __init__(self, seq: int, seen: int) -> None:
        super().__init__(f"this HSM is at {seq}, the caller has seen {seen}; another HSM will do")
        self.seq, self.seen = seq, seen


class UnavailableError(OrchestratorError):
    """Nothing that could do it answers now."""

    code, exit_status, retryable = "unavailable", 5, True


class NoAnswerError(UnavailableError):
    """It was asked and has not answered in time: to ask again at once would only wait again."""


class StorageError(OrchestratorError):
    """What must be kept cannot be: a full or read-only disk. Nothing changed; elsewhere it may."""

    code, exit_status, retryable = "storage", 5, True


class PendingError(OrchestratorError):
    """Committed, but fewer HSMs than the availability minimum hold it yet."""

    code, exit_status, retryable = "pending", 6, True

    def __init__(self, request: str, held: int, minimum: int) -> None:
        super().__init__(
            f"request {request} is committed, {held} of at least {minimum} HSMs hold it; "
            "run the same command with this request id to fetch the answer"
        )
        self.request, self.held, self.minimum = request, held, minimum


class MalformedError(OrchestratorError):
    """Bytes from outside that are not what their place demands."""

    code = "malformed"


class TamperedError(OrchestratorError):
    """Stored or received state fails its seal, signature, chain or digest."""

    code = "tampered"


class ForkedError(OrchestratorError):
    """Two histories claim the same place: changes freeze, use of keys goes on."""

    code = "forked"


class RemoteError(OrchestratorError):
    """A refusal that an HSM sent: its code, exit status and retryability are the sender's."""

    def __init__(self, code: str, message: str, *, exit_status: int, retryable: bool) -> None:
        super().__init__(message)
        self.code, self.exit_status, self.retryable = code, exit_status, retryable


class MechanismUnavailableError(OrchestratorError):
    """The token behind this profile cannot do it, and it is not emulated with a key in clear."""

    code = "mechanism-unavailable"

    def __init__(self, profile: str, mechanism: str) -> None:
        super().__init__(f"profile {profile} has no mechanism {mechanism}")
        self.profile, self.mechanism = profile, mechanism
