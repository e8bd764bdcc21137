"""Calls that use keys: Init, and then in one step or in parts.

Room is compared with the result's length before an operation is finished: a result that does
not fit leaves the operation as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.rpc.mechanisms import Mechanism
from orchestrator.gateway.rpc.values import NULL_LENGTH, pack_bytes, pack_needed
from orchestrator.gateway.worker import ciphers, signing
from orchestrator.gateway.worker.application import Application, Kind, P11Session
from orchestrator.gateway.worker.hashes import Digest
from orchestrator.gateway.worker.operation import Operation, Use
from orchestrator.model.key_spec import AES_BLOCK_BYTES
from orchestrator.model.keys import Key

_EMPTY = pack_bytes(b"")
RANDOM_BYTES_MAX = 1 << 20


def _begin(
    app: Application, session: P11Session, kind: Kind, mechanism: Mechanism | None, key: int
) -> Key | None:
    """Return the key to begin with; None where a null mechanism has ended what was active."""
    if mechanism is None:
        session.operations.pop(kind, None)
        return None
    if not app.backend.user:
        raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
    if kind in session.operations:
        raise CryptokiError(CKR.OPERATION_ACTIVE)
    if mechanism.type not in app.token.mechanisms:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    return app.key(key)


def sign_init(
    app: Application, session: P11Session, mechanism: Mechanism | None, handle: int
) -> bytes:
    """C_SignInit."""
    key = _begin(app, session, Kind.SIGN, mechanism, handle)
    if key is not None and mechanism is not None:
        session.begin(Kind.SIGN, signing.operation(app.backend, mechanism, key, verify=False))
    return b""


def verify_init(
    app: Application, session: P11Session, mechanism: Mechanism | None, handle: int
) -> bytes:
    """C_VerifyInit."""
    key = _begin(app, session, Kind.VERIFY, mechanism, handle)
    if key is not None and mechanism is not None:
        session.begin(Kind.VERIFY, signing.operation(app.backend, mechanism, key, verify=True))
    return b""


def encrypt_init(
    app: Application, session: P11Session, mechanism: Mechanism | None, handle: int
) -> bytes:
    """C_EncryptInit."""
    key = _begin(app, session, Kind.ENCRYPT, mechanism, handle)
    if key is not None and mechanism is not None:
        session.begin(Kind.ENCRYPT, ciphers.operation(app.backend, mechanism, key, decrypt=False))
    return b""


def decrypt_init(
    app: Application, session: P11Session, mechanism: Mechanism | None, handle: int
) -> bytes:
    """C_DecryptInit."""
    key = _begin(app, session, Kind.DECRYPT, mechanism, handle)
    if key is not None and mechanism is not None:
        session.begin(Kind.DECRYPT, ciphers.operation(app.backend, mechanism, key, decrypt=True))
    return b""


def digest_init(_: Application, session: P11Session, mechanism: Mechanism | None) -> bytes:
    """C_DigestInit; needs no login, as it needs no key."""
    if mechanism is None:
        session.operations.pop(Kind.DIGEST, None)
    else:
        session.begin(Kind.DIGEST, Digest(mechanism.type))
    return b""


def _needed(operation: Operation, more: int, room: int) -> bytes | None:
    """Return the answer that asks for more room; None where it is enough."""
    needed = operation.needed(more)
    if room == NULL_LENGTH:
        room = 0
    return pack_needed(needed) if needed > room else None


def _finish(session: P11Session, kind: Kind, data: bytes, room: int) -> bytes | Use:
    """Carry out an operation in one step, or end one that was fed in parts."""
    operation = session.active(kind)
    if (answer := _needed(operation, len(data), room)) is not None:
        return answer
    del session.operations[kind]  # whatever comes of it, it is over
    result = operation.finish(data)
    if isinstance(result, Use):
        result.then = partial(_result, session, kind, room)
        return result
    return _result(session, kind, room, result)


def _result(session: P11Session, kind: Kind, room: int, result: bytes) -> bytes:
    if not result and room in {0, NULL_LENGTH}:
        session.finished = kind
    return pack_bytes(result)


def waits(kind: Kind) -> Callable[..., bool]:
    """Return what tells whether a call about this operation may have to wait for an HSM."""

    def may_wait(_: Application, session: P11Session, *_args: object) -> bool:
        operation = session.operations.get(kind)
        return operation is not None and operation.waits

    return may_wait


class OneStep:
    """C_Encrypt, C_Decrypt, C_Digest and C_Sign."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __call__(
        self, _: Application, session: P11Session, data: bytes | None, room: int
    ) -> bytes | Use:
        """Answer."""
        return _finish(session, self._kind, data or b"", room)


class Final:
    """C_EncryptFinal, C_DecryptFinal, C_DigestFinal and C_SignFinal."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __call__(self, _: Application, session: P11Session, room: int) -> bytes | Use:
        """Answer."""
        if session.finished is self._kind and self._kind not in session.operations:
            session.finished = None  # who was only asking for a length asks once more
            return _EMPTY
        return _finish(session, self._kind, b"", room)


class Update:
    """C_EncryptUpdate and C_DecryptUpdate."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __call__(self, _: Application, session: P11Session, data: bytes | None, room: int) -> bytes:
        """Answer."""
        operation = session.active(self._kind)
        given = data or b""
        ready = operation.ready(len(given))
        # Room 0 asks for the length and gives nothing to do. Told 0, some would come back with
        # room 0, and ask again for ever.
        if room == 0 or ready > (0 if room == NULL_LENGTH else room):
            return pack_needed(max(ready, AES_BLOCK_BYTES))
        try:
            return pack_bytes(operation.update(given))
        except CryptokiError:
            session.operations.pop(self._kind, None)
            raise


class Absorb:
    """C_SignUpdate, C_VerifyUpdate and C_DigestUpdate."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __call__(self, _: Application, session: P11Session, data: bytes | None) -> bytes:
        """Answer."""
        try:
            session.active(self._kind).update(data or b"")
        except CryptokiError:
            session.operations.pop(self._kind, None)
            raise
        return b""


def verify(
    _: Application, session: P11Session, data: bytes | None, signature: bytes | None
) -> bytes:
    """C_Verify."""
    operation = session.active(Kind.VERIFY)
    del session.operations[Kind.VERIFY]
    operation.check(data or b"", signature or b"")
    return b""


def verify_final(_: Application, session: P11Session, signature: bytes | None) -> bytes:
    """C_VerifyFinal."""
    return verify(_, session, b"", signature)


def random(app: Application, _: P11Session, room: int) -> bytes:
    """C_GenerateRandom: exactly as many bytes as asked for."""
    if room > RANDOM_BYTES_MAX:
        raise CryptokiError(CKR.ARGUMENTS_BAD, f"at most {RANDOM_BYTES_MAX} bytes at a time")
    return pack_bytes(app.backend.random(room))
