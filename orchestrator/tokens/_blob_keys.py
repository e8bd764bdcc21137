"""Application keys on SoftHSM: blobs under the masking key, used as session objects."""

from __future__ import annotations

import hmac
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, MechanismFlag
from pkcs11 import Mechanism as Ck

from orchestrator.model.errors import MechanismUnavailableError, RefusedError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    Usage,
)
from orchestrator.model.profile import (
    CIPHER_MECHANISMS,
    COMPOSED,
    MAC_MECHANISMS,
    SIGN_MECHANISMS,
    WRAP_MECHANISMS,
    FirmwareProfile,
    Mechanism,
    generation_mechanism,
)
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.tokens import _operations as operations
from orchestrator.tokens import _requests as requests
from orchestrator.tokens import _wrapping as wrapping
from orchestrator.tokens._objects import (
    NO_USE,
    derive,
    derive_secret,
    destroyed,
    generate,
    put_clear_key,
    raw,
    unwrap,
)
from orchestrator.tokens._pkcs11_library import Sessions, key_on
from orchestrator.tokens.store import (
    GeneratedKey,
    Handle,
    NoMaskingKeyError,
    TokenError,
    UnwrappedKey,
    WrappingKey,
)

MASKING: Final = "masking"
_FLAGS: Final = {
    Usage.SIGN: MechanismFlag.SIGN,
    Usage.VERIFY: MechanismFlag.SIGN,  # the token makes the MAC, `verify_mac` compares
    Usage.ENCRYPT: MechanismFlag.ENCRYPT,
    Usage.DECRYPT: MechanismFlag.DECRYPT,
    Usage.DERIVE: MechanismFlag.DERIVE,
    Usage.AGREE: MechanismFlag.DERIVE,
}
_X_COORDINATE: Final = KeySpec(KeyType.GENERIC_SECRET, 256)


@dataclass(frozen=True, slots=True)
class _Loaded:
    key: Any
    spec: KeySpec
    usages: frozenset[Usage]


class BlobKeys:
    """The part of a TokenStore that makes, loads and uses blobs."""

    def __init__(
        self, sessions: Sessions, profile: FirmwareProfile, offered: AbstractSet[Ck]
    ) -> None:
        """`offered` is what the module has: of the profile's mechanisms, only these are used."""
        self._sessions, self._profile = sessions, profile
        self._mechanisms = frozenset(
            m for m in profile.mechanisms if m in COMPOSED or Ck[m.removeprefix("CKM_")] in offered
        )
        self._objects: dict[str, int] = {}  # the token's own keys, by label
        self._loaded: dict[Handle, _Loaded] = {}

    def _masking_key(self) -> int:
        try:
            return self._objects[MASKING]
        except KeyError:
            raise NoMaskingKeyError(
                "this HSM has no masking key: it must join a cluster or be recovered first"
            ) from None

    def generate(self, spec: KeySpec) -> GeneratedKey:
        self._require_spec(spec)
        masking = self._masking_key()
        with self._sessions.borrow() as session:
            key, public, check_value = generate(session, spec)
            with destroyed(key):
                wrapper = key_on(session, masking)
                blob = wrapper.wrap_key(key, mechanism=Ck.AES_KEY_WRAP_PAD)
        return GeneratedKey(blob, public, check_value)

    def import_key(self, spec: KeySpec, value: bytes) -> GeneratedKey:
        self._require_spec(spec)
        given = requests.check_clear_key(spec, value)
        operations.check_offered_import(self._profile.name, spec)
        masking = self._masking_key()
        with self._sessions.borrow() as session:
            key, public, check_value = put_clear_key(session, spec, given)
            with destroyed(key):
                wrapper = key_on(session, masking)
                blob = wrapper.wrap_key(key, mechanism=Ck.AES_KEY_WRAP_PAD)
        return GeneratedKey(blob, public, check_value)

    def load(self, blob: bytes, spec: KeySpec, usages: AbstractSet[Usage]) -> Handle:
        self._require_spec(spec)
        requests.check_blob_length(blob, spec)
        flags = NO_USE
        for usage in usages:
            flags |= _FLAGS[usage]
        masking = self._masking_key()
        refused = f"this blob holds no {spec.type} key wrapped under this cluster's masking key"
        with self._sessions.borrow(refused=refused) as session:
            key = unwrap(key_on(session, masking), blob, spec, flags)
        handle = Handle(key.handle)
        self._loaded[handle] = _Loaded(key, spec, frozenset(usages))
        return handle

    def unload(self, handle: Handle) -> None:
        loaded = self._loaded.pop(handle, None)
        if loaded is not None:
            with self._sessions.borrow():  # its `close` must not overtake this
                loaded.key.destroy()

    def sign(self, handle: Handle, mechanism: SignMechanism, digest: bytes) -> bytes:
        loaded = self._use(handle, SIGN_MECHANISMS[mechanism.scheme])
        requests.check_sign(loaded.spec, loaded.usages, mechanism, digest)
        return operations.sign(self._sessions, handle, mechanism, digest)

    def encrypt(self, handle: Handle, mechanism: CipherMechanism, plaintext: bytes) -> bytes:
        loaded = self._use(handle, CIPHER_MECHANISMS[mechanism.scheme])
        requests.check_encrypt(loaded.spec, loaded.usages, mechanism, plaintext)
        return operations.encrypt(self._sessions, handle, mechanism, plaintext)

    def decrypt(self, handle: Handle, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
        loaded = self._use(handle, CIPHER_MECHANISMS[mechanism.scheme])
        requests.check_decrypt(loaded.spec, loaded.usages, mechanism, ciphertext)
        operations.check_offered_cipher(self._profile.name, mechanism)
        return operations.decrypt(self._sessions, handle, mechanism, ciphertext)

    def mac(self, handle: Handle, mechanism: MacMechanism, data: bytes) -> bytes:
        return self._mac(handle, Usage.SIGN, mechanism, data)

    def verify_mac(
        self, handle: Handle, mechanism: MacMechanism, data: bytes, mac: bytes, length: int = 0
    ) -> None:
        count = mechanism.check_length(length)
        # Not C_Verify: SoftHSM compares with memcmp, whose time tells how many bytes were right.
        right = self._mac(handle, Usage.VERIFY, mechanism, data)
        if not hmac.compare_digest(right[:count], mac):
            raise RefusedError("signature-invalid", "Signature verification failed")

    def _mac(self, handle: Handle, usage: Usage, mechanism: MacMechanism, data: bytes) -> bytes:
        loaded = self._use(handle, MAC_MECHANISMS[mechanism])
        requests.check_mac(loaded.spec, loaded.usages, usage, mechanism, data)
        operations.check_offered_mac(self._profile.name, mechanism, loaded.spec)
        return operations.mac(self._sessions, handle, mechanism, data)

    def derive(self, handle: Handle, agreement: Agreement, spec: KeySpec) -> GeneratedKey:
        loaded = self._use(handle, Mechanism.ECDH1_DERIVE)
        requests.check_usage(loaded.spec, loaded.usages, Usage.DERIVE, KeyType.EC)
        self._require_spec(spec.check_derived(loaded.spec))
        operations.check_offered_derivation(self._profile.name, agreement, spec)
        requests.check_point(agreement.point, requests.curve_of(loaded.spec))
        masking = self._masking_key()
        with self._sessions.borrow() as session:
            key, check_value = derive_secret(session, handle, agreement.point, spec)
            with destroyed(key):
                wrapper = key_on(session, masking)
                blob = wrapper.wrap_key(key, mechanism=Ck.AES_KEY_WRAP_PAD)
        return GeneratedKey(blob, b"", check_value)

    def wrap(
        self, wrapper: WrappingKey, mechanism: WrapMechanism, blob: bytes, spec: KeySpec
    ) -> bytes:
        self._require_wrapping(mechanism)
        requests.check_wrapper(mechanism, wrapper)
        mechanism.check_payload(spec, wrapper.spec)
        wrapping.check_offered_payload(self._profile.name, mechanism, spec)
        requests.check_blob_length(blob, spec)
        masking = self._masking_key()
        refused = "a blob is not wrapped under this cluster's masking key"
        with self._sessions.borrow(refused=refused) as session:
            return wrapping.wrap(session, masking, wrapper, mechanism, (blob, spec))

    def unwrap(
        self, unwrapper: WrappingKey, mechanism: WrapMechanism, wrapped: bytes, key_type: KeyType
    ) -> UnwrappedKey:
        self._require_wrapping(mechanism)
        requests.check_wrapper(mechanism, unwrapper)
        requests.check_wrapped(mechanism, unwrapper, wrapped, key_type)
        masking = self._masking_key()
        with self._sessions.borrow(refused=wrapping.REFUSED) as session:
            opened = wrapping.unwrap_foreign(
                session, masking, unwrapper, mechanism, (wrapped, key_type), self._profile.name
            )
        self._require_spec(opened.spec)
        return opened

    def _require_wrapping(self, mechanism: WrapMechanism) -> None:
        mechanism.check()
        try:
            needed = WRAP_MECHANISMS[mechanism.scheme]
        except KeyError:
            raise MechanismUnavailableError(
                self._profile.name, f"to wrap by {mechanism.scheme} inside the token"
            ) from None
        for each in needed:
            self._require(each)
        wrapping.check_offered(self._profile.name, mechanism)

    def agree(self, handle: Handle, point: bytes) -> bytes:
        loaded = self._use(handle, Mechanism.ECDH1_DERIVE)
        requests.check_usage(loaded.spec, loaded.usages, Usage.AGREE, KeyType.EC)
        return self._agree(handle, point)

    def _agree(self, key: int, point: bytes) -> bytes:
        requests.check_point(point, ec.SECP256R1())
        readable = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        with self._sessions.borrow() as session:
            shared = derive(session, key, point, _X_COORDINATE, NO_USE, readable)
            with destroyed(shared):
                return raw(shared[Attribute.VALUE])

    def _use(self, handle: Handle, mechanism: Mechanism) -> _Loaded:
        loaded = self._loaded.get(handle)
        if loaded is None:
            raise TokenError(f"key handle {handle} is not loaded (any more)")
        self._require(mechanism)
        return loaded

    def _require(self, mechanism: Mechanism) -> None:
        if mechanism not in self._mechanisms:
            raise MechanismUnavailableError(self._profile.name, mechanism)

    def _require_spec(self, spec: KeySpec) -> None:
        self._profile.require_spec(spec)
        self._require(generation_mechanism(spec))
