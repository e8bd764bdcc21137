"""Signing in an HSM, verifying here: what each mechanism needs hashed, padded and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from orchestrator.client.verify import verify_signature
from orchestrator.gateway.cryptoki import CKM, CKR, CryptokiError
from orchestrator.gateway.rpc.mechanisms import Mechanism, PssParameter
from orchestrator.gateway.worker.backend import Backend
from orchestrator.gateway.worker.failures import cryptoki_error
from orchestrator.gateway.worker.hashes import (
    BY_MECHANISM,
    BY_MGF,
)
from orchestrator.gateway.worker.operation import Journal, Operation, Use
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import (
    HashFunction,
    KeyClass,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
    coordinate_bytes,
)
from orchestrator.model.keys import Key
from orchestrator.wire import messages as m

_H: Final = HashFunction
SIGNATURES: Final[Mapping[int, tuple[SignScheme, HashFunction | None]]] = {
    CKM.RSA_PKCS: (SignScheme.RSA_PKCS, None),
    CKM.SHA1_RSA_PKCS: (SignScheme.RSA_PKCS, _H.SHA1),
    CKM.SHA224_RSA_PKCS: (SignScheme.RSA_PKCS, _H.SHA224),
    CKM.SHA256_RSA_PKCS: (SignScheme.RSA_PKCS, _H.SHA256),
    CKM.SHA384_RSA_PKCS: (SignScheme.RSA_PKCS, _H.SHA384),
    CKM.SHA512_RSA_PKCS: (SignScheme.RSA_PKCS, _H.SHA512),
    CKM.RSA_PKCS_PSS: (SignScheme.RSA_PSS, None),
    CKM.SHA1_RSA_PKCS_PSS: (SignScheme.RSA_PSS, _H.SHA1),
    CKM.SHA224_RSA_PKCS_PSS: (SignScheme.RSA_PSS, _H.SHA224),
    CKM.SHA256_RSA_PKCS_PSS: (SignScheme.RSA_PSS, _H.SHA256),
    CKM.SHA384_RSA_PKCS_PSS: (SignScheme.RSA_PSS, _H.SHA384),
    CKM.SHA512_RSA_PKCS_PSS: (SignScheme.RSA_PSS, _H.SHA512),
    CKM.ECDSA: (SignScheme.ECDSA, None),
    CKM.ECDSA_SHA1: (SignScheme.ECDSA, _H.SHA1),
    CKM.ECDSA_SHA224: (SignScheme.ECDSA, _H.SHA224),
    CKM.ECDSA_SHA256: (SignScheme.ECDSA, _H.SHA256),
    CKM.ECDSA_SHA384: (SignScheme.ECDSA, _H.SHA384),
    CKM.ECDSA_SHA512: (SignScheme.ECDSA, _H.SHA512),
}
MACS: Final[Mapping[int, MacMechanism]] = {
    CKM.AES_CMAC: MacMechanism.AES_CMAC,
    CKM.SHA_1_HMAC: MacMechanism.HMAC_SHA1,
    CKM.SHA224_HMAC: MacMechanism.HMAC_SHA224,
    CKM.SHA256_HMAC: MacMechanism.HMAC_SHA256,
    CKM.SHA384_HMAC: MacMechanism.HMAC_SHA384,
    CKM.SHA512_HMAC: MacMechanism.HMAC_SHA512,
}
CUT_MACS: Final[Mapping[int, MacMechanism]] = {  # their parameter is the length
    CKM.AES_CMAC_GENERAL: MacMechanism.AES_CMAC,
    CKM.SHA_1_HMAC_GENERAL: MacMechanism.HMAC_SHA1,
    CKM.SHA224_HMAC_GENERAL: MacMechanism.HMAC_SHA224,
    CKM.SHA256_HMAC_GENERAL: MacMechanism.HMAC_SHA256,
    CKM.SHA384_HMAC_GENERAL: MacMechanism.HMAC_SHA384,
    CKM.SHA512_HMAC_GENERAL: MacMechanism.HMAC_SHA512,
}
_TYPES: Final = {
    SignScheme.RSA_PKCS: KeyType.RSA,
    SignScheme.RSA_PSS: KeyType.RSA,
    SignScheme.ECDSA: KeyType.EC,
}


def operation(backend: Backend, mechanism: Mechanism, key: Key, *, verify: bool) -> Operation:
    """Return a signing or verifying operation, everything checked that needs no data."""
    mac, size = MACS.get(mechanism.type), 0
    if mac is None and (mac := CUT_MACS.get(mechanism.type)) is not None:
        size = _cut(mac, mechanism)
    if mac is not None:
        _check_key(key, mac.key_type, KeyClass.SECRET, verify=verify)
        return MacOperation(backend, key, mac, size or mac.mac_bytes)
    if (signature := SIGNATURES.get(mechanism.type)) is None:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    scheme, hash_function = signature
    key_class = KeyClass.PUBLIC if verify else KeyClass.PRIVATE
    _check_key(key, _TYPES[scheme], key_class, verify=verify)
    salt = 0
    if scheme is SignScheme.RSA_PSS:
        hash_function, salt = _pss(mechanism, hash_function)
    asked = SignMechanism(scheme, hash_function, salt)
    if signature[1] is None:
        return SignatureOfDigest(key, asked)
    return SignatureOfData(key, asked)


def _cut(mac: MacMechanism, mechanism: Mechanism) -> int:
    size = mechanism.parameter
    try:
        if not isinstance(size, int) or not size:
            raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)
        return mac.check_length(size)
    except OrchestratorError as exc:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID, str(exc)) from exc


def _check_key(key: Key, key_type: KeyType, key_class: KeyClass, *, verify: bool) -> None:
    if key.spec.type is not key_type or key.key_class is not key_class:
        raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
    if not (key.attributes.verify if verify else key.attributes.sign):
        raise CryptokiError(CKR.KEY_FUNCTION_NOT_PERMITTED)


def _pss(mechanism: Mechanism, fixed: HashFunction | None) -> tuple[HashFunction, int]:
    given = mechanism.parameter
    if not isinstance(given, PssParameter):
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)
    hash_function = BY_MECHANISM.get(given.hash)
    if hash_function is None or BY_MGF.get(given.mgf) is not hash_function:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID, "one hash function for message and mask")
    if fixed not in {None, hash_function} or given.salt_bytes > 512:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)
    return hash_function, given.salt_bytes


def signature_bytes(key: Key) -> int:
    """Return how long a key's signatures are."""
    if key.spec.curve is not None:
        return 2 * coordinate_bytes(key.spec.curve)
    return key.spec.bits // 8


class SignatureOfData(Operation):
    """Hashed here as it comes: only the digest is sent."""

    waits = False

    def __init__(self, key: Key, mechanism: SignMechanism) -> None:
        self._key, self._mechanism = key, mechanism
        self._state = hashlib.new(mechanism.hash or "")

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the signature's length."""
        return signature_bytes(self._key)

    def update(self, data: bytes) -> bytes:
        """Take input."""
        self._state.update(data)
        return b""

    def finish(self, data: bytes) -> Use:
        """Sign."""
        self._state.update(data)
        return _sign(self._key, self._mechanism, self._state.digest())

    def check(self, data: bytes, shown: bytes) -> None:
        """Verify."""
        self._state.update(data)
        _verify(self._key, self._mechanism, self._state.digest(), shown)


class SignatureOfDigest(Operation):
    """The application has hashed: PSS and ECDSA take a digest, RSA what shall be padded."""

    waits = False

    def __init__(self, key: Key, mechanism: SignMechanism) -> None:
        self._key, self._mechanism = key, mechanism
        self._journal = Journal()

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the signature's length."""
        return signature_bytes(self._key)

    def update(self, data: bytes) -> bytes:
        """Take input."""
        self._journal.add(data)
        return b""

    def finish(self, data: bytes) -> Use:
        """Sign."""
        data = self._journal.whole(data)
        return _sign(self._key, self._checked(data), data)

    def check(self, data: bytes, shown: bytes) -> None:
        """Verify."""
        data = self._journal.whole(data)
        _verify(self._key, self._checked(data), data, shown)

    def _checked(self, data: bytes) -> SignMechanism:
        try:
            self._mechanism.check(self._key.spec, data)
        except OrchestratorError as exc:
            raise CryptokiError(CKR.DATA_LEN_RANGE, str(exc)) from exc
        return self._mechanism


class MacOperation(Operation):
    """HMAC and CMAC: the whole message goes to an HSM at once."""

    waits = False

    def __init__(self, backend: Backend, key: Key, mechanism: MacMechanism, size: int) -> None:
        self._backend, self._key, self._mechanism, self._size = backend, key, mechanism, size
        self._journal = Journal()

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the MAC's length."""
        return self._size

    def update(self, data: bytes) -> bytes:
        """Take input."""
        self._journal.add(data)
        return b""

    def finish(self, data: bytes) -> Use:
        """Make the MAC."""
        whole, ref, mechanism = self._journal.whole(data), self._key.ref, self._mechanism
        return Use(
            ref,
            lambda ticket, seen: m.Mac(ticket, seen, ref, mechanism, whole),
            {"not_found": CKR.KEY_HANDLE_INVALID},
            self._size,
        )

    def check(self, data: bytes, shown: bytes) -> None:
        """Have an HSM compare, so that the right MAC never leaves it."""
        if len(shown) != self._size:
            raise CryptokiError(CKR.SIGNATURE_LEN_RANGE)
        whole, ref = self._journal.whole(data), self._key.ref
        self._backend.call(
            lambda s: s.verify_mac(ref, self._mechanism, whole, shown, self._size),
            not_found=CKR.KEY_HANDLE_INVALID,
        )


_SIGN_ERRORS: Final = {
    "not_found": CKR.KEY_HANDLE_INVALID,
    "usage": CKR.MECHANISM_PARAM_INVALID,
}


def _sign(key: Key, mechanism: SignMechanism, digest: bytes) -> Use:
    ref = key.ref
    return Use(ref, lambda ticket, seen: m.Sign(ticket, seen, ref, mechanism, digest), _SIGN_ERRORS)


def _verify(key: Key, mechanism: SignMechanism, digest: bytes, shown: bytes) -> None:
    if len(shown) != signature_bytes(key):
        raise CryptokiError(CKR.SIGNATURE_LEN_RANGE)
    try:
        verify_signature(key.public, mechanism, digest, shown)
    except OrchestratorError as exc:
        raise cryptoki_error(exc) from exc
