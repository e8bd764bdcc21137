"""Calls about library, slot, token, sessions and login."""

from __future__ import annotations

import hmac
from typing import Final

from orchestrator.gateway import cryptoki as ck
from orchestrator.gateway.cryptoki import CKR, CKU, CryptokiError
from orchestrator.gateway.rpc.values import U64, pack_needed, pack_string, pack_ulongs
from orchestrator.gateway.worker.application import SLOT, Application, Kind, P11Session

_HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
_MANUFACTURER: Final = "Cloister"
_CRYPTOKI_VERSION: Final = b"\x02\x28"
_LIBRARY_VERSION: Final = b"\x00\x01"
_PIN_MIN, _PIN_MAX = 10, 160
_INFINITE: Final = 0


def check_slot(slot: int) -> None:
    """Raise unless it is the one slot."""
    if slot != SLOT:
        raise CryptokiError(CKR.SLOT_ID_INVALID)


def initialize(app: Application, handshake: bytes | None, *_: object) -> bytes:
    """C_Initialize."""
    if not hmac.compare_digest(handshake or b"", _HANDSHAKE):
        raise CryptokiError(CKR.GENERAL_ERROR)
    if app.is_initialized:
        raise CryptokiError(CKR.CRYPTOKI_ALREADY_INITIALIZED)
    app.is_initialized = True
    return b""


def finalize(app: Application) -> bytes:
    """C_Finalize: all that this application held ends; it may initialise again, as others do."""
    app.is_initialized = False  # first: a call that overtakes this one opens nothing
    app.close_all()
    return b""


def info(_: Application) -> bytes:
    """C_GetInfo."""
    return (
        _CRYPTOKI_VERSION
        + pack_string(_MANUFACTURER, 32)
        + bytes(8)
        + pack_string("Cloister gateway", 32)
        + _LIBRARY_VERSION
    )


def slot_list(_: Application, _present: int, room: int) -> bytes:
    """C_GetSlotList."""
    return pack_needed(1) if room == 0 else pack_ulongs([SLOT])


def slot_info(app: Application, slot: int) -> bytes:
    """C_GetSlotInfo."""
    check_slot(slot)
    return (
        pack_string(f"Cloister {app.token.cluster}", 64)
        + pack_string(_MANUFACTURER, 32)
        + U64.pack(ck.CKF_TOKEN_PRESENT | ck.CKF_HW_SLOT)
        + _LIBRARY_VERSION
        + _LIBRARY_VERSION
    )


def token_info(app: Application, slot: int) -> bytes:
    """C_GetTokenInfo."""
    check_slot(slot)
    token = app.token
    flags = (
        ck.CKF_RNG | ck.CKF_LOGIN_REQUIRED | ck.CKF_USER_PIN_INITIALIZED | ck.CKF_TOKEN_INITIALIZED
    )
    open_now = len(app.sessions)
    writing = sum(session.is_rw for session in list(app.sessions.values()))
    numbers = (
        flags, _INFINITE, open_now, _INFINITE, writing, _PIN_MAX, _PIN_MIN,
        *(ck.UNAVAILABLE,) * 4,
    )  # fmt: skip
    major, _, minor = token.profile.firmware_version.partition(".")
    version = bytes([int(major) & 0xFF, int(minor.split(".")[0] or 0) & 0xFF])
    return (
        pack_string(token.cluster, 32)
        + pack_string(_MANUFACTURER, 32)
        + pack_string(token.profile.name, 16)
        + pack_string(token.cluster.rpartition("-")[2], 16)
        + b"".join(map(U64.pack, numbers))
        + version
        + version
        + pack_string("", 16)
    )


def mechanism_list(app: Application, slot: int, room: int) -> bytes:
    """C_GetMechanismList: what this client's dialect can carry."""
    check_slot(slot)
    offered = app.token.mechanisms_for(app.offered)
    return pack_ulongs(offered) if room >= len(offered) else pack_needed(len(offered))


def mechanism_info(app: Application, slot: int, mechanism: int) -> bytes:
    """C_GetMechanismInfo."""
    check_slot(slot)
    if (found := app.token.mechanisms.get(mechanism)) is None:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    return b"".join(map(U64.pack, found))


def open_session(app: Application, slot: int, flags: int) -> bytes:
    """C_OpenSession."""
    check_slot(slot)
    if not flags & ck.CKF_SERIAL_SESSION:
        raise CryptokiError(CKR.SESSION_PARALLEL_NOT_SUPPORTED)
    return U64.pack(app.open_session(flags).handle)


def close_session(app: Application, session: P11Session) -> bytes:
    """C_CloseSession."""
    app.close_session(session)
    return b""


def close_all_sessions(app: Application, slot: int) -> bytes:
    """C_CloseAllSessions."""
    check_slot(slot)
    app.close_all()
    return b""


def session_info(app: Application, session: P11Session) -> bytes:
    """C_GetSessionInfo."""
    return b"".join(map(U64.pack, (SLOT, app.state(session), session.flags, 0)))


def login(app: Application, _: P11Session, user_type: int, pin: bytes | None) -> bytes:
    """C_Login: crypto users alone, `user:password`."""
    if user_type not in {CKU.SO, CKU.USER, CKU.CONTEXT_SPECIFIC}:
        raise CryptokiError(CKR.USER_TYPE_INVALID)
    if user_type == CKU.CONTEXT_SPECIFIC:  # no key here asks for it
        raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
    if user_type == CKU.SO:
        if app.backend.user:
            raise CryptokiError(CKR.USER_ANOTHER_ALREADY_LOGGED_IN)
        raise CryptokiError(CKR.USER_TYPE_INVALID, "admins use `cloister`")
    app.backend.login(pin or b"")
    return b""


def logout(app: Application, _: P11Session) -> bytes:
    """C_Logout."""
    if not app.backend.user:
        raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
    app.logout()
    return b""


def set_pin(app: Application, session: P11Session, old: bytes | None, new: bytes | None) -> bytes:
    """C_SetPIN: the user's own password."""
    app.check_rw(session, token=True)
    app.backend.set_pin(old or b"", new or b"")
    return b""


def seed_random(_: Application, _session: P11Session, _seed: bytes | None) -> bytes:
    """C_SeedRandom: the HSMs seed themselves."""
    raise CryptokiError(CKR.RANDOM_SEED_NOT_SUPPORTED)


def wait_for_slot_event(_: Application, flags: int) -> bytes:
    """C_WaitForSlotEvent: nothing ever happens to the slot."""
    if flags & ck.CKF_DONT_BLOCK:
        raise CryptokiError(CKR.NO_EVENT)
    raise CryptokiError(CKR.FUNCTION_NOT_SUPPORTED)


def session_cancel(_: Application, session: P11Session, flags: int) -> bytes:
    """C_SessionCancel (PKCS#11 3.0)."""
    for flag, kind in (
        (ck.CKF_ENCRYPT, Kind.ENCRYPT),
        (ck.CKF_DECRYPT, Kind.DECRYPT),
        (ck.CKF_DIGEST, Kind.DIGEST),
        (ck.CKF_SIGN, Kind.SIGN),
        (ck.CKF_VERIFY, Kind.VERIFY),
    ):
        if flags & flag:
            session.operations.pop(kind, None)
    return b""
