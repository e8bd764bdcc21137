"""Keys that leave wrapped, come in wrapped, or come in as the public keys of others.

Invariants: no key is in this process's memory in clear; a wrapping is in the audit log before it
is answered.
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.making import Making, check_approved, requested_of, with_material
from orchestrator.agent.session_keys import SessionKeys
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import CURVE_BITS, Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Key, new_attributes
from orchestrator.model.wrapping_rules import (
    check_unwrap,
    check_unwrapped,
    check_wrap,
    unwrapped,
    unwrapped_label,
)
from orchestrator.tokens.store import GeneratedKey, WrappingKey
from orchestrator.wire import messages as m

PUBLIC_BYTES_MAX = 8 * 1024
_CURVES = {"secp256r1": Curve.P256, "secp384r1": Curve.P384, "secp521r1": Curve.P521,
           "secp256k1": Curve.SECP256K1}  # fmt: skip


class Wrapping:
    """Wraps and unwraps for crypto users."""

    def __init__(self, core: Core, making: Making, session_keys: SessionKeys) -> None:
        self._core, self._making, self._session_keys = core, making, session_keys

    def wrap(self, asked: m.WrapKey, caller: Caller) -> m.Data:
        """Wrap a key under another; both may be session keys of this login."""
        core, find = self._core, self._session_keys.any_key
        payload, wrapper = find(asked.payload, caller), find(asked.wrapper, caller)
        check_wrap(payload, wrapper, caller.name, asked.mechanism, core.state.meta.mode)
        for key, other in ((payload, wrapper), (wrapper, payload)):
            check_approved(core, "wrap", key, caller, asked.mechanism, other.ref.to_bytes(8, "big"))
        wrapped = core.store.wrap(
            _wrapping_key(wrapper), asked.mechanism, payload.blob, payload.spec
        )
        subject = f"0x{payload.ref:016x} under 0x{wrapper.ref:016x} by {asked.mechanism.scheme}"
        who = f"{caller.role}/{caller.name}"
        core.vault.audit(core.line("key-wrapped", who, subject, "done"))
        return m.Data(wrapped)

    def unwrap(self, asked: m.UnwrapKey | m.UnwrapSessionKey, caller: Caller) -> Key:
        """Return a key with the attributes asked for and those that its unwrapping key demands."""
        core, draft = self._core, asked.draft
        token = isinstance(asked, m.UnwrapKey)
        unwrapper = self._session_keys.any_key(asked.unwrapper, caller)
        check_unwrap(unwrapper, caller.name, asked.mechanism, core.state.meta.mode)
        draft = msgspec.structs.replace(draft, label=unwrapped_label(unwrapper, draft.label))
        attributes, key_id = unwrapped(
            unwrapper, asked.key_type, draft.key_class, requested_of(draft), token=token
        )
        unknown = KeySpec(asked.key_type, 0)
        shaped = self._making.key(unknown, draft, attributes, key_id, caller)
        check_unwrapped(unwrapper, shaped)
        check_approved(core, "unwrap", unwrapper, caller, asked.mechanism, asked.wrapped)
        opened = core.store.unwrap(
            _wrapping_key(unwrapper), asked.mechanism, asked.wrapped, asked.key_type
        )
        return with_material(msgspec.structs.replace(shaped, spec=opened.spec), opened.key)

    def unwrap_session(self, asked: m.UnwrapSessionKey, caller: Caller) -> Key:
        """Return a session key that agrees with its other halves, here and in the ledger."""
        return self._session_keys.joined(self.unwrap(asked, caller), caller)[0]

    def import_public(self, asked: m.ImportPublicKey, caller: Caller) -> Key:
        """Return an object for somebody's public key; the cluster may have it already."""
        if asked.draft.key_class is not KeyClass.PUBLIC:
            raise UsageError(f"this imports a {KeyClass.PUBLIC}")
        spec, public = _parse_public(asked.public)
        self._core.profile.require_spec(spec)
        attributes, key_id = new_attributes(
            KeyClass.PUBLIC, spec, requested_of(asked.draft), token=True
        )
        digest = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
        outside = msgspec.structs.replace(attributes, local=False)
        shaped = self._making.key(spec, asked.draft, outside, key_id, caller)
        return with_material(shaped, GeneratedKey(b"", public, digest))


def _wrapping_key(key: Key) -> WrappingKey:
    """A public key wraps with its public half, any other with its blob."""
    if key.key_class is KeyClass.PUBLIC:
        return WrappingKey(key.spec, public=key.public)
    return WrappingKey(key.spec, key.blob)


def _parse_public(data: bytes) -> tuple[KeySpec, bytes]:
    if len(data) > PUBLIC_BYTES_MAX:
        raise UsageError(f"a public key has at most {PUBLIC_BYTES_MAX} bytes")
    try:
        load = load_pem_public_key if data.lstrip().startswith(b"-----") else load_der_public_key
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise UsageError("this is no public key (PEM or DER SubjectPublicKeyInfo)") from exc
    if isinstance(key, rsa.RSAPublicKey):
        spec = KeySpec(KeyType.RSA, key.key_size, None, key.public_numbers().e).check()
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        curve = _CURVES[key.curve.name]
        spec = KeySpec(KeyType.EC, CURVE_BITS[curve], curve)
    else:
        raise RefusedError(
            "key-spec", f"no HSM here has such a key: RSA from 2048 bits on, or {', '.join(Curve)}"
        )
    return spec, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
