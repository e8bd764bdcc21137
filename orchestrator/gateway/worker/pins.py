"""What a PIN may be: a user's password, or a log-in that the user has lent.

A PIN is `user:password`; `user:@/path`, a login ticket's file; or such a file's content. The first
colon splits. The file must be of the Unix user that connected: whoever reaches the gateway could
otherwise log in with every ticket that the gateway can read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.client.session import Session
from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.model.clock import Clock
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.sealed.token_files import FILE_BYTES_MAX, LoginTicketFile

_PATH_BEGINS: Final = b"@/"
_FILE_BEGINS: Final = b"{"
_FORM: Final = (
    "a PIN is user:password, user:@/path/to/ticket, or a login ticket; see docs/gateway.md"
)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Password:
    """A user's password."""

    user: str
    password: bytes

    def enter(self, session: Session) -> None:
        """Log in."""
        session.login(self.password)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LentLogin:
    """A login ticket: a file's path, or a file's content.

    A file is read at each log-in: the next ticket is put in its place before the old one ends.
    """

    user: str
    path: str
    content: bytes
    owner: int
    cluster: str
    clock: Clock

    def enter(self, session: Session) -> None:
        """Go on with the login that was lent.

        Raises:
            CryptokiError: PIN_INCORRECT or PIN_EXPIRED, with the reason.
        """
        session.login_with_ticket(self._ticket().ticket)

    def _ticket(self) -> LoginTicketFile:
        where = repr(self.path) if self.path else "the PIN"
        try:
            file = LoginTicketFile.parse(self.content or _read(self.path, self.owner))
        except OrchestratorError as exc:
            raise _refused(f"{where}: {exc}") from exc
        if (file.cluster_id, file.role) != (self.cluster, Role.CRYPTO_USER):
            raise _refused(f"{where} is for {file.role} of {file.cluster_id!r}")
        if file.username != self.user:
            raise _refused(f"{where} is of user {file.username!r}, not {self.user}")
        if file.uid != os.getuid():
            raise _refused(
                f"{where} is lent to uid {file.uid}, and this gateway runs as uid {os.getuid()}; "
                f"`cloister user login-ticket issue --uid {os.getuid()}`"
            )
        if file.until <= self.clock.now_ms():
            raise CryptokiError(CKR.PIN_EXPIRED, f"{where} has ended; put a new ticket there")
        return file


Credential = Password | LentLogin


def parse_pin(pin: bytes, owner: int, cluster: str, clock: Clock) -> Credential:
    """Read a PIN; `owner` is the Unix user that connected.

    Raises:
        CryptokiError: PIN_INCORRECT.
    """
    try:
        if pin.startswith(_FILE_BEGINS):
            user = parse_user_name(LoginTicketFile.parse(pin).username)
            return LentLogin(user, "", pin, owner, cluster, clock)
        name, _, rest = pin.partition(b":")
        user = parse_user_name(name.decode("ascii"))
    except (UnicodeDecodeError, OrchestratorError):
        raise _refused(_FORM) from None
    if not rest:
        raise _refused(_FORM)
    if rest.startswith(_PATH_BEGINS):
        return LentLogin(user, os.fsdecode(rest[1:]), b"", owner, cluster, clock)
    return Password(user, rest)


def _read(path: str, owner: int) -> bytes:
    try:
        descriptor = os.open(Path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise _refused(f"cannot read {path!r}: {getattr(exc, 'strerror', exc)}") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(f"{path!r} is not a regular file")
        if status.st_uid != owner or stat.S_IMODE(status.st_mode) & 0o077:
            raise _refused(f"{path!r} must be of the application's user, uid {owner}, mode 0600")
        return os.read(descriptor, FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)


def _refused(reason: str) -> CryptokiError:
    return CryptokiError(CKR.PIN_INCORRECT, reason)
