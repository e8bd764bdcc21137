"""C_WrapKey and C_UnwrapKey: the policy is the HSM's, and so is the work."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway.attributes import KEY_TYPES, Template
from orchestrator.gateway.cryptoki import CKA, CKM, CKO, CKR, CryptokiError
from orchestrator.gateway.rpc.attributes import Attribute
from orchestrator.gateway.rpc.mechanisms import Mechanism, OaepParameter
from orchestrator.gateway.rpc.values import NULL_LENGTH, U64, pack_bytes, pack_needed
from orchestrator.gateway.worker import ciphers
from orchestrator.gateway.worker.application import Application, P11Session
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import unwrapped_attributes
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire.messages import KeyDraft

_TYPES: Final[dict[int, KeyType]] = {number: key_type for key_type, number in KEY_TYPES.items()}
_CLASSES: Final[dict[int, KeyClass]] = {
    CKO.SECRET_KEY: KeyClass.SECRET,
    CKO.PRIVATE_KEY: KeyClass.PRIVATE,
}
_PASSED_OVER: Final = frozenset({CKA.VALUE_LEN, CKA.EC_PARAMS, CKA.MODULUS_BITS})


def wrap(
    app: Application,
    _: P11Session,
    mechanism: Mechanism | None,
    wrapper: int,
    payload: int,
    room: int,
) -> bytes:
    """C_WrapKey."""
    chosen = _mechanism(app, mechanism)
    with_key, wrapped_key = app.key(wrapper), app.key(payload)
    needed = with_key.spec.bits // 8  # RSA gives a modulus' length
    if room == NULL_LENGTH or needed > room:
        return pack_needed(needed)
    made = app.backend.call(
        lambda s: s.wrap_key(wrapped_key.ref, with_key.ref, chosen),
        not_found=CKR.KEY_HANDLE_INVALID,
        key_type=CKR.WRAPPING_KEY_TYPE_INCONSISTENT,
    )
    return pack_bytes(made)


def unwrap(
    app: Application,
    session: P11Session,
    mechanism: Mechanism | None,
    unwrapper: int,
    wrapped: bytes | None,
    attributes: tuple[Attribute, ...],
) -> bytes:
    """C_UnwrapKey."""
    chosen, key, template = _mechanism(app, mechanism), app.key(unwrapper), Template(attributes)
    number, type_number = template.number(CKA.CLASS), template.number(CKA.KEY_TYPE)
    if number is None or type_number is None:
        raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_CLASS and CKA_KEY_TYPE")
    key_class, key_type = _CLASSES.get(number), _TYPES.get(type_number)
    if key_class is None or key_type is None:
        raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_CLASS or CKA_KEY_TYPE")
    token = template.flag(CKA.TOKEN)
    app.check_rw(session, token=token)
    given, _ = unwrapped_attributes(key_type, key_class, {}, token=token)
    wanted = template.requested(key_class, KeySpec(key_type, 0), given, _PASSED_OVER)
    draft, data = KeyDraft(key_class, template.label(), wanted), wrapped or b""
    special = {
        "not_found": CKR.UNWRAPPING_KEY_HANDLE_INVALID,
        "key_type": CKR.UNWRAPPING_KEY_TYPE_INCONSISTENT,
        "blob_refused": CKR.WRAPPED_KEY_INVALID,
        "usage": CKR.TEMPLATE_INCONSISTENT,
    }
    if not token:
        made = app.backend.call(
            lambda s: s.session_keys.unwrap(key.ref, chosen, data, key_type, draft), **special
        )
        return U64.pack(app.keep([made], session)[0])
    _, made = app.backend.change(
        lambda c, request: c.unwrap_key(key.ref, chosen, data, key_type, draft, request=request),
        **special,
    )
    return U64.pack(app.keep([made])[0])


def _mechanism(app: Application, mechanism: Mechanism | None) -> WrapMechanism:
    if not app.backend.user:
        raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
    match mechanism:
        case Mechanism(type=CKM.RSA_PKCS_OAEP, parameter=OaepParameter() as given):
            return WrapMechanism(WrapScheme.RSA_OAEP, ciphers.oaep(given, app.backend))
        case Mechanism(type=CKM.RSA_PKCS, parameter=None):
            return WrapMechanism(WrapScheme.RSA_PKCS)
        case Mechanism(type=CKM.RSA_PKCS_OAEP):
            raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)
        case _:
            raise CryptokiError(CKR.MECHANISM_INVALID)
