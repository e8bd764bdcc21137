"""The cluster as one application sees it: a login, and requests that outlive HSMs.

Invariants: a request is self-contained, so that any HSM can answer it; a login that has run out
is made anew by itself; a creation carries a request id and is never made twice.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from orchestrator.client.balancer import Node
from orchestrator.client.channel import Channel, OnReply
from orchestrator.client.connection import expect
from orchestrator.client.session import Session
from orchestrator.control.application import Application
from orchestrator.control.changes import Changes
from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.worker.complaints import Complaints
from orchestrator.gateway.worker.failures import cryptoki_error
from orchestrator.gateway.worker.links import Links
from orchestrator.gateway.worker.operation import Use
from orchestrator.gateway.worker.pins import Credential, LentLogin, Password, parse_pin
from orchestrator.model.errors import OrchestratorError, UnavailableError
from orchestrator.model.objects import ObjectFilter, StoredObject
from orchestrator.model.roles import Role, check_password
from orchestrator.wire.messages import (
    Data,
    Hello,
    ObjectPage,
    Refusal,
    Reply,
    Welcome,
    raise_refusal,
)
from orchestrator.wire.system_clock import SystemClock

T = TypeVar("T")
Later = Callable[[Callable[[], None]], None]
"""Has something done by a thread that may wait."""
RANDOM_FIRST_BYTES: Final = 4 * 1024
RANDOM_REQUEST_BYTES: Final = 64 * 1024
"""The pool is filled with twice as much each time, from the first size up to this one."""
LOOK_S: Final = 0.2
_AGAIN_S: Final = 0.2
_NOT_FINAL: Final = frozenset({"ticket-refused", "behind"})
_log = logging.getLogger("cloister.gateway")


class Backend:
    """One connection's way to the cluster. Thread-safe."""

    def __init__(self, links: Links, peer_uid: int, later: Later) -> None:
        """Take the links to HSMs, the Unix user that connected, and who does what may wait."""
        self.token, self._peer_uid = links.token, peer_uid
        self._links, self._later = links, later
        self._clock = SystemClock()
        self._session: Session | None = None
        self._credential: Credential | None = None
        self._application: Application | None = None
        self._changing, self._logging_in = threading.Lock(), threading.Lock()
        self._drawing = threading.Lock()
        self._random, self._random_at, self._random_next = b"", 0, b""
        self._is_filling = False
        self.place, self._looked_at_s = 0, 0.0
        self.operations = self.errors = 0
        self.complaints = Complaints(self._clock)

    @property
    def user(self) -> str:
        """The logged-in user's name; empty when nobody is."""
        session = self._session
        return session.name if session else ""

    @property
    def nodes(self) -> Sequence[Node]:
        """The HSMs as this connection sees them."""
        session = self._session
        return session.balancer.nodes if session else ()

    def login(self, pin: bytes) -> None:
        """Log in.

        Raises:
            CryptokiError: PIN_INCORRECT, PIN_EXPIRED, PIN_LOCKED, USER_ALREADY_LOGGED_IN,
                DEVICE_ERROR.
        """
        with self._logging_in:
            if self._session is not None:
                raise CryptokiError(CKR.USER_ALREADY_LOGGED_IN)
            try:
                credential = parse_pin(pin, self._peer_uid, self.token.cluster, self._clock)
            except CryptokiError as exc:
                self.complaints.login(self._peer, exc)
                raise
            self._session = self._new_session(credential)
            self._credential = credential

    @property
    def _peer(self) -> str:
        """Who logs in, until it is known: a PIN's part that names no user may be of a password."""
        return f"uid {self._peer_uid}"

    def _new_session(self, credential: Credential) -> Session:
        balancer = self._links.balancer()
        session = Session(balancer, self._clock, Role.CRYPTO_USER, credential.user)
        try:
            self._enter(session, credential)
        except CryptokiError as exc:
            balancer.close()
            self.complaints.login(session.name, exc)
            raise
        except OrchestratorError as exc:
            balancer.close()
            self._note(exc, session.name if isinstance(credential, LentLogin) else self._peer)
            raise cryptoki_error(exc, ticket_refused=CKR.PIN_INCORRECT) from exc
        return session

    def _enter(self, session: Session, credential: Credential) -> None:
        """Log in, waiting for an HSM to come back as every other request does."""
        deadline = self._clock.monotonic_s() + self.token.patience_s
        while True:
            try:
                credential.enter(session)
            except UnavailableError:
                if self._clock.monotonic_s() >= deadline:
                    raise
                self._clock.sleep(_AGAIN_S)
            else:
                return

    def logout(self) -> None:
        """Forget the login; its session keys end with its connections."""
        with self._logging_in:
            session, self._session, self._credential = self._session, None, None
            self._random, self._random_at, self._random_next = b"", 0, b""
        if session is not None:
            session.close()

    def call(self, action: Callable[[Session], T], **special: CKR) -> T:
        """Have an HSM do something; `special` as in `cryptoki_error`."""
        session = self._session
        if session is None:
            raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
        self.operations += 1
        try:
            return action(session)
        except OrchestratorError as exc:
            if exc.code != "ticket-refused":
                self._note(exc)
                raise cryptoki_error(exc, **special) from exc
        self._login_again(session)
        try:
            return action(session)
        except OrchestratorError as exc:
            self._note(exc)
            raise cryptoki_error(exc, **special) from exc

    def use(self, use: Use) -> bytes:
        """Wait for a use of a key; return the data that an HSM gave."""
        return self.call(lambda s: s.use(use.ref, use.build), **use.special)

    def begin(self, use: Use, on_reply: OnReply) -> Channel | None:
        """Begin a use of a key; None where that may have to wait, which `use` then does."""
        session = self._session
        return None if session is None else session.begin_use(use.ref, use.build, on_reply)

    def judge(self, use: Use, reply: Reply | None) -> bytes | None:
        """Return the data that an HSM gave; None where another may do better, which `use` tries.

        Raises:
            CryptokiError: a refusal that holds.
        """
        if isinstance(reply, Data):
            self.operations += 1
            return reply.data
        if not isinstance(reply, Refusal) or reply.retryable or reply.code in _NOT_FINAL:
            return None
        self.operations += 1
        try:
            raise_refusal(reply)
        except OrchestratorError as exc:
            self._note(exc)
            raise cryptoki_error(exc, **use.special) from exc

    def give_up_late(self) -> None:
        """Have what was begun, and is not answered for too long, done by another HSM."""
        if (session := self._session) is not None:
            session.balancer.give_up_late()

    def has_to_look(self) -> bool:
        """Tell whether `look` has to ask an HSM."""
        return self._session is not None and self._clock.monotonic_s() >= self._looked_at_s + LOOK_S

    def look(self) -> int:
        """Return how far the ledger is, as an HSM has told it at most `LOOK_S` ago.

        0 when nobody is logged in. No key's use asks for this: reading attributes does.
        """
        if (session := self._session) is None:
            return 0
        now = self._clock.monotonic_s()
        if now >= self._looked_at_s + LOOK_S:
            self._looked_at_s = now  # first: one thread asks
            welcome = self.call(lambda s: expect(s.balancer.call(lambda _: Hello()), Welcome))
            self.place = max(self.place, welcome.seq)
            session.heard(welcome.seq)
        return self.place

    def _note(self, error: OrchestratorError, user: str = "") -> None:
        self.errors += 1
        self.complaints.note(user or self.user, error)

    def _login_again(self, session: Session) -> None:
        """A login lasts 24 hours, an application for ever."""
        with self._logging_in:
            if self._session is not session or self._credential is None:
                raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
            try:
                self._enter(session, self._credential)
            except (OrchestratorError, CryptokiError) as exc:
                _log.warning("the login of %s has ended: %s", session.name, exc)
                self._session, self._credential = None, None
                raise CryptokiError(CKR.USER_NOT_LOGGED_IN, str(exc)) from exc

    def change(self, action: Callable[[Changes, str], T], **special: CKR) -> T:
        """Change something through the controller; `action` is given the request's id."""
        request = uuid.uuid4().hex
        deadline = self._clock.monotonic_s() + self.token.patience_s
        while True:
            try:
                return self.call(lambda session: self._change(session, action, request), **special)
            except CryptokiError as exc:
                cause = exc.__cause__
                retryable = isinstance(cause, OrchestratorError) and cause.retryable
                if not retryable or self._clock.monotonic_s() >= deadline:
                    raise
            self._clock.sleep(_AGAIN_S)

    def _change(self, session: Session, action: Callable[[Changes, str], T], request: str) -> T:
        application = self._opened()
        with self._changing:  # SQLite and the roster are used by one at a time
            return action(application.changes(session), request)

    def _opened(self) -> Application:
        with self._changing:
            if self._application is None:
                self._application = self.token.open_application()
            return self._application

    def objects(self, wanted: ObjectFilter) -> list[StoredObject]:
        """Return the certificates and data objects that match; the public ones need no login."""
        found: list[StoredObject] = []
        while True:
            offset = len(found)
            if self._session is None:
                page = self._public_page(wanted, offset)
            else:
                page = self.call(lambda s, n=offset: s.list_objects(wanted, n))  # type: ignore[misc]
            found += page.objects
            if not page.objects or len(found) >= page.total:
                return found

    def _public_page(self, wanted: ObjectFilter, offset: int) -> ObjectPage:
        try:
            return self._opened().public_objects(wanted, offset)
        except OrchestratorError as exc:
            self._note(exc)
            raise cryptoki_error(exc) from exc

    def set_pin(self, old: bytes, new: bytes) -> None:
        """Change the user's own password; what it ends is logged in again."""
        session = self._session
        if session is None:
            raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
        old, new = (_password_of(session.name, pin) for pin in (old, new))
        try:
            check_password(new)
        except OrchestratorError as exc:
            raise CryptokiError(CKR.PIN_LEN_RANGE, str(exc)) from exc
        self._new_session(Password(session.name, old)).close()  # the old one must be right
        self.change(
            lambda changes, request: changes.change_password(
                session.name, Role.CRYPTO_USER, new, request=request
            )
        )
        self._credential = Password(session.name, new)
        self._login_again(session)

    def random(self, count: int) -> bytes:
        """Return random bytes of an HSM; each is given out once."""
        if count > RANDOM_FIRST_BYTES:
            pieces = []
            while count:
                size = min(count, RANDOM_REQUEST_BYTES)
                pieces.append(self.call(lambda session, n=size: session.random(n)))  # type: ignore[misc]
                count -= size
            return b"".join(pieces)
        session = self._session
        with self._drawing:
            if session is None:
                raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
            if self._random_at + count > len(self._random) and self._random_next:
                self._random, self._random_at, self._random_next = self._random_next, 0, b""
            start, end = self._random_at, self._random_at + count
            if end <= len(self._random):
                self._random_at = end
                if 2 * end > len(self._random) and not (self._random_next or self._is_filling):
                    self._is_filling = True
                    self._later(self._fill)
                return self._random[start:end]
        # Not under the lock: who takes what is at hand must not wait for an HSM.
        drawn = self._draw()
        self._keep(session, drawn[count:])
        return drawn[:count]

    def has_random(self, count: int) -> bool:
        """Tell whether `random` asks no HSM."""
        left = len(self._random) - self._random_at
        return self._session is None or count <= max(left, len(self._random_next))

    def _draw(self) -> bytes:
        size = min(2 * len(self._random) or RANDOM_FIRST_BYTES, RANDOM_REQUEST_BYTES)
        return self.call(lambda session: session.random(size))

    def _fill(self) -> None:
        """Draw before the pool is empty; who comes too early draws for itself."""
        session = self._session
        try:
            drawn = self._draw()
        except CryptokiError:
            drawn = b""
        self._is_filling = False
        self._keep(session, drawn)

    def _keep(self, session: Session | None, drawn: bytes) -> None:
        with self._drawing:
            if self._session is session and drawn:
                self._random_next = drawn

    def close(self) -> None:
        """End everything."""
        self.logout()
        if self._application is not None:
            self._application.close()
            self._application = None


def _password_of(user: str, pin: bytes) -> bytes:
    """C_SetPIN takes `user:password` as C_Login does, or the password alone."""
    prefix = user.encode() + b":"
    return pin[len(prefix) :] if pin.lower().startswith(prefix) else pin
