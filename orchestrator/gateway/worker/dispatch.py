"""Which function answers which call, and whether it may have to wait for an HSM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.rpc.calls import CALLS, Call, decode
from orchestrator.gateway.worker import crypto_calls as crypto
from orchestrator.gateway.worker import general_calls as general
from orchestrator.gateway.worker import key_calls as keys
from orchestrator.gateway.worker import object_calls as objects
from orchestrator.gateway.worker import wrap_calls as wrapping
from orchestrator.gateway.worker.application import Application, Kind, P11Session
from orchestrator.gateway.worker.operation import Use

Handler = Callable[..., bytes | Use]
Waits = Callable[..., bool]

# These answer from memory, or tell the one use of a key that gives the answer.
_QUICK: Final[Mapping[str, Handler]] = {
    "C_Initialize": general.initialize,
    "C_GetInfo": general.info,
    "C_GetSlotList": general.slot_list,
    "C_GetSlotInfo": general.slot_info,
    "C_GetTokenInfo": general.token_info,
    "C_GetMechanismList": general.mechanism_list,
    "C_GetMechanismInfo": general.mechanism_info,
    "C_OpenSession": general.open_session,
    "C_GetSessionInfo": general.session_info,
    "C_SeedRandom": general.seed_random,
    "C_WaitForSlotEvent": general.wait_for_slot_event,
    "C_SessionCancel": general.session_cancel,
    "C_FindObjects": objects.find,
    "C_FindObjectsFinal": objects.find_final,
    "C_GetObjectSize": objects.object_size,
    "C_EncryptInit": crypto.encrypt_init,
    "C_DecryptInit": crypto.decrypt_init,
    "C_DigestInit": crypto.digest_init,
    "C_Digest": crypto.OneStep(Kind.DIGEST),
    "C_DigestUpdate": crypto.Absorb(Kind.DIGEST),
    "C_DigestFinal": crypto.Final(Kind.DIGEST),
    "C_SignInit": crypto.sign_init,
    "C_SignUpdate": crypto.Absorb(Kind.SIGN),
    "C_Sign": crypto.OneStep(Kind.SIGN),
    "C_SignFinal": crypto.Final(Kind.SIGN),
    "C_VerifyInit": crypto.verify_init,
    "C_VerifyUpdate": crypto.Absorb(Kind.VERIFY),
}
_SLOW: Final[Mapping[str, Handler]] = {
    "C_Finalize": general.finalize,
    "C_CloseSession": general.close_session,
    "C_CloseAllSessions": general.close_all_sessions,
    "C_Login": general.login,
    "C_Logout": general.logout,
    "C_SetPIN": general.set_pin,
    "C_CreateObject": objects.create,
    "C_CopyObject": objects.copy,
    "C_SetAttributeValue": objects.set_attributes,
    "C_DestroyObject": objects.destroy,
    "C_FindObjectsInit": objects.find_init,
    "C_Verify": crypto.verify,
    "C_VerifyFinal": crypto.verify_final,
    "C_GenerateKey": keys.generate_key,
    "C_GenerateKeyPair": keys.generate_pair,
    "C_WrapKey": wrapping.wrap,
    "C_UnwrapKey": wrapping.unwrap,
    "C_DeriveKey": keys.derive_key,
}
# With these it depends on what is at hand.
_AT_TIMES: Final[Mapping[str, tuple[Handler, Waits]]] = {
    "C_GetAttributeValue": (objects.attribute_values, objects.waits),
    "C_GenerateRandom": (crypto.random, lambda app, _, room: not app.backend.has_random(room)),
    "C_Encrypt": (crypto.OneStep(Kind.ENCRYPT), crypto.waits(Kind.ENCRYPT)),
    "C_EncryptUpdate": (crypto.Update(Kind.ENCRYPT), crypto.waits(Kind.ENCRYPT)),
    "C_EncryptFinal": (crypto.Final(Kind.ENCRYPT), crypto.waits(Kind.ENCRYPT)),
    "C_Decrypt": (crypto.OneStep(Kind.DECRYPT), crypto.waits(Kind.DECRYPT)),
    "C_DecryptUpdate": (crypto.Update(Kind.DECRYPT), crypto.waits(Kind.DECRYPT)),
    "C_DecryptFinal": (crypto.Final(Kind.DECRYPT), crypto.waits(Kind.DECRYPT)),
}


def _always(*_: object) -> bool:
    return True


def _how(name: str) -> tuple[Handler | None, Waits | None]:
    if name in _SLOW:
        return _SLOW[name], _always
    return _AT_TIMES.get(name, (_QUICK.get(name), None))


_HANDLERS: Final[Mapping[int, tuple[Handler | None, Waits | None, bool]]] = {
    call.id: (*_how(call.name), call.has_session()) for call in CALLS.values()
}


class Task:
    """A decoded call, ready to be carried out; `session` is None for calls about no session."""

    __slots__ = ("_arguments", "_handler", "_waits", "call", "session")

    def __init__(self, app: Application, body: bytes) -> None:
        """Decode.

        Raises:
            MalformedError: the body is none of p11-kit's.
            CryptokiError: the session is not open, C_Initialize was not sent, or a value is one
                that no call takes.
        """
        self.call: Call
        self.call, values = decode(body, app.offered)
        self._handler, self._waits, by_session = _HANDLERS[self.call.id]
        if not app.is_initialized and self._handler is not general.initialize:
            raise CryptokiError(CKR.CRYPTOKI_NOT_INITIALIZED)
        self.session: P11Session | None = None
        if by_session:
            self.session = values[0] = app.session(values[0])
        self._arguments: list[Any] = values

    def waits(self, app: Application) -> bool:
        """Tell whether `run` may have to wait for an HSM."""
        return self._waits is not None and self._waits(app, *self._arguments)

    def run(self, app: Application) -> bytes | Use:
        """Carry the call out and return the answer's body, or the use of a key that gives it."""
        if self._handler is None:
            raise CryptokiError(CKR.FUNCTION_NOT_SUPPORTED)
        try:
            made = self._handler(app, *self._arguments)
        except CryptokiError as exc:
            app.backend.complaints.explain(app.backend.user, self.call.name, exc)
            raise
        return made if isinstance(made, Use) else self.call.answer_head + made

    def end(self, use: Use, data: bytes) -> bytes:
        """Return the answer's body, of the data that an HSM gave for the use."""
        return self.call.answer_head + use.answer(data)
