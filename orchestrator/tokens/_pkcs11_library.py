"""What every use of a PKCS#11 module needs: loading, locking, sessions, keys, and its errors.

The module is a process-wide thing, so one process serves one token. No `pkcs11` exception passes
`Sessions.borrow`.
"""

from __future__ import annotations

import ctypes
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

import pkcs11
from pkcs11 import _pkcs11, exceptions, types

from orchestrator.model.errors import OrchestratorError
from orchestrator.tokens.store import BlobRefusedError, TokenError, TokenFullError

_CKF_OS_LOCKING_OK: Final = 2
_CKR_OK: Final = 0
_CKR_CRYPTOKI_NOT_INITIALIZED: Final = 0x190
_CLOSE_TIMEOUT_S: Final = 10.0

_BAD_BYTES: Final = (  # what SoftHSM answers to bytes that are not what their place demands
    exceptions.GeneralError,
    exceptions.FunctionFailed,
    exceptions.ArgumentsBad,
    exceptions.AttributeValueInvalid,
    exceptions.DataInvalid,
    exceptions.DataLenRange,
    exceptions.EncryptedDataInvalid,
    exceptions.EncryptedDataLenRange,
    exceptions.WrappedKeyInvalid,
    exceptions.WrappedKeyLenRange,
)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Pin:
    """A token's PIN, shown as a bare object, compared only inside the token."""

    value: str


class _InitArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS, PKCS#11 2.40 §3.7."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


_in_use: set[str] = set()
_in_use_lock = threading.Lock()


class Library:
    """A loaded PKCS#11 module. The second one on the same file is refused until `close`."""

    def __init__(self, module: str) -> None:
        with _in_use_lock:
            if module in _in_use:
                raise TokenError(f"{module} serves another token of this process; close that first")
            _in_use.add(module)
        self._module, self._is_open = module, True
        try:
            with translating():
                self._lib: Any = pkcs11.lib(module)
            self._functions: Any = ctypes.CDLL(module)
            self._reinitialize()
        except BaseException:
            self.close()
            raise

    def _reinitialize(self) -> None:
        # python-pkcs11 calls C_Initialize(NULL): several threads would then corrupt SoftHSM
        rv = self._functions.C_Finalize(None)
        if rv not in {_CKR_OK, _CKR_CRYPTOKI_NOT_INITIALIZED}:
            raise TokenError(f"{self._module}: C_Finalize answered {rv:#x}")
        arguments = _InitArgs(None, None, None, None, _CKF_OS_LOCKING_OK, None)
        if rv := self._functions.C_Initialize(ctypes.byref(arguments)):
            raise TokenError(f"{self._module}: C_Initialize answered {rv:#x}")

    def init_token(self, label: str, pin: Pin) -> None:
        """Initialise the free slot's token: C_InitToken, C_InitPIN; nobody keeps the SO PIN."""
        so_pin = secrets.token_urlsafe(32)
        with translating():
            slot = self._lib.get_slots(token_present=True)[0].slot_id
        padded = label.encode().ljust(32)
        rv = self._functions.C_InitToken(
            ctypes.c_ulong(slot), so_pin.encode(), ctypes.c_ulong(len(so_pin)), padded
        )
        if rv:
            raise TokenError(f"{self._module}: C_InitToken answered {rv:#x}")
        self._reinitialize()  # only now the module sees the new token's slot
        with translating():
            session = self.token(label).open(rw=True, so_pin=so_pin)
            session.init_pin(pin.value)
            session.close()

    def token(self, label: str) -> Any:  # noqa: ANN401  # the untyped library's object
        """Return the `pkcs11.Token` with this label."""
        with translating():
            return self._lib.get_token(token_label=label)

    def close(self) -> None:
        """Finalise the module. No session may be in use. Idempotent."""
        if self._is_open:
            self._is_open = False
            functions = getattr(self, "_functions", None)
            if functions is not None:
                functions.C_Finalize(None)
            with _in_use_lock:
                _in_use.discard(self._module)


class Sessions:
    """As many sessions as there were ever operations at one time; all stay open until `close`.

    A session that made a session object must live as long as that object, and closing the one
    that logged in would log out them all.
    """

    def __init__(self, token: Any, pin: Pin) -> None:  # noqa: ANN401  # pkcs11.Token
        self._token = token
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        with translating():
            self._idle.put(token.open(rw=True, user_pin=pin.value))
        self._count = 1

    def borrow(self, *, refused: str = "") -> _Loan:
        """Lend a session to one thread, and translate what the token raises meanwhile.

        Args:
            refused: the message of BlobRefusedError, where the operation's failure means bad bytes.
        """
        return _Loan(self, refused)

    def take(self) -> Any:  # noqa: ANN401  # pkcs11.Session
        """Return a session that nobody else uses until it is given back."""
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._open()

    def give_back(self, session: Any) -> None:  # noqa: ANN401  # pkcs11.Session
        """End a use of a session."""
        self._idle.put(session)

    def _open(self) -> Any:  # noqa: ANN401  # pkcs11.Session
        with self._lock, translating():
            if self._is_closed:
                raise TokenError("this token is closed; another HSM will do")
            session = self._token.open(rw=True)
            self._count += 1
            return session

    def close(self) -> bool:
        """Take back every session; tell whether all came within 10 s. Later borrowing fails."""
        with self._lock:
            self._is_closed = True
        try:
            while self._count:
                self._idle.get(timeout=_CLOSE_TIMEOUT_S)
                self._count -= 1
        except Empty:
            return False
        return True


class _Loan:
    """A session that is lent. A generator's context manager would cost every signature more."""

    __slots__ = ("_refused", "_session", "_sessions")

    def __init__(self, sessions: Sessions, refused: str) -> None:
        self._sessions, self._refused = sessions, refused

    def __enter__(self) -> Any:  # noqa: ANN401  # pkcs11.Session
        self._session = self._sessions.take()
        return self._session

    def __exit__(self, kind: object, exc: BaseException | None, _: object) -> None:
        self._sessions.give_back(self._session)
        if isinstance(exc, pkcs11.PKCS11Error):
            raise _translated(exc, self._refused) from exc


@contextmanager
def translating() -> Iterator[None]:
    """Raise our errors for the library's."""
    try:
        yield
    except pkcs11.PKCS11Error as exc:
        raise _translated(exc, "") from exc


def _translated(exc: pkcs11.PKCS11Error, refused: str) -> OrchestratorError:
    if refused and isinstance(exc, _BAD_BYTES):
        return BlobRefusedError(refused)
    if isinstance(exc, exceptions.DeviceMemory):
        return TokenFullError("the token holds as much as it can; delete or unload keys")
    detail = f" ({exc})" if str(exc) else ""  # unmapped codes have their number here
    return TokenError(f"the token answered {type(exc).__name__}{detail}")


def _key_type() -> Any:  # noqa: ANN401  # a class made of the library's mixins
    names = ("SignMixin", "EncryptMixin", "DecryptMixin", "WrapMixin", "UnwrapMixin", "DeriveMixin")
    bases = (*(getattr(_pkcs11, name) for name in names), types.SecretKey)
    return type("KeyOnSession", bases, {"session": None, "handle": 0, "key_type": None})


_KeyOnSession: Final = _key_type()


def key_on(session: Any, handle: int) -> Any:  # noqa: ANN401  # python-pkcs11 objects
    """Return a python-pkcs11 key for an object handle on any session, without asking the token.

    python-pkcs11 ties a key to the session that made it and locks that session during an
    operation; PKCS#11 lets every session of the process use the handle. Whether the key can do
    it is for the token to say.
    """
    key = _KeyOnSession()
    key.session, key.handle = session, handle
    return key


def octet_string(point: bytes) -> bytes:
    """Return `point` (under 256 bytes: P-521 has 133) as DER OCTET STRING.

    SoftHSM takes a raw point too, but misreads the 1 in 256 whose x starts with its length.
    """
    length = bytes((len(point),)) if len(point) < 0x80 else bytes((0x81, len(point)))
    return b"\x04" + length + point
