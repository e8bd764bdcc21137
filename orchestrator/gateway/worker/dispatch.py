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

Handler = Callable[..., bytes]

# These answer from memory; all others may ask an HSM.
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
    "C_GetAttributeValue": objects.attribute_values,
    "C_FindObjectsInit": objects.find_init,
    "C_Encrypt": crypto.OneStep(Kind.ENCRYPT),
    "C_EncryptUpdate": crypto.Update(Kind.ENCRYPT),
    "C_EncryptFinal": crypto.Final(Kind.ENCRYPT),
    "C_Decrypt": crypto.OneStep(Kind.DECRYPT),
    "C_DecryptUpdate": crypto.Update(Kind.DECRYPT),
    "C_DecryptFinal": crypto.Final(Kind.DECRYPT),
    "C_Sign": crypto.OneStep(Kind.SIGN),
    "C_SignFinal": crypto.Final(Kind.SIGN),
    "C_Verify": crypto.verify,
    "C_VerifyFinal": crypto.verify_final,
    "C_GenerateKey": keys.generate_key,
    "C_GenerateKeyPair": keys.generate_pair,
    "C_WrapKey": wrapping.wrap,
    "C_UnwrapKey": wrapping.unwrap,
    "C_DeriveKey": keys.derive_key,
    "C_GenerateRandom": crypto.random,
}
_HANDLERS: Final[Mapping[int, tuple[Handler | None, bool, bool]]] = {
    call.id: (
        _QUICK.get(call.name) or _SLOW.get(call.name),
        call.name in _SLOW,
        call.has_session(),
    )
    for call in CALLS.values()
}


class Task:
    """A decoded call, ready to be carried out; `session` is None for calls about no session."""

    __slots__ = ("_arguments", "_handler", "call", "is_slow", "session")

    def __init__(self, app: Application, body: bytes) -> None:
        """Decode.

        Raises:
            MalformedError: the body is none of p11-kit's.
            CryptokiError: the session is not open, C_Initialize was not sent, or a value is one
                that no call takes.
        """
        self.call: Call
        self.call, values = decode(body, app.offered)
        self._handler, self.is_slow, by_session = _HANDLERS[self.call.id]
        if not app.is_initialized and self._handler is not general.initialize:
            raise CryptokiError(CKR.CRYPTOKI_NOT_INITIALIZED)
        self.session: P11Session | None = None
        if by_session:
            self.session = values[0] = app.session(values[0])
        self._arguments: list[Any] = values

    def run(self, app: Application) -> bytes:
        """Carry the call out and return the answer's body."""
        if self._handler is None:
            raise CryptokiError(CKR.FUNCTION_NOT_SUPPORTED)
        return self.call.answer_head + self._handler(app, *self._arguments)
