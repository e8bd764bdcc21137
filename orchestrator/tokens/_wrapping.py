"""Wrapping and unwrapping on SoftHSM: every key stays a session object of the token.

Measured on SoftHSM 2.6.1: CKM_AES_KEY_WRAP and CKM_AES_KEY_WRAP_PAD fill a payload up with zeros
to 8 bytes, and count those as its own; OAEP has SHA-1 alone; CKA_VALUE_LEN of an unwrapped key
is 0, and any length is taken for an AES key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import MGF, Attribute, MechanismFlag, ObjectClass
from pkcs11 import KeyType as CkKeyType
from pkcs11 import Mechanism as Ck

from orchestrator.model.errors import MechanismUnavailableError, RefusedError
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
    coordinate_bytes,
)
from orchestrator.model.profile import Mechanism
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.tokens import _requests as requests
from orchestrator.tokens._objects import (
    EC_PARAMETERS,
    LEAVES_WRAPPED,
    NO_USE,
    STAYS,
    check_value,
    derive,
    destroyed,
    raw,
    spki,
    unwrap,
)
from orchestrator.tokens._pkcs11_library import key_on
from orchestrator.tokens.store import BlobRefusedError, GeneratedKey, UnwrappedKey, WrappingKey

REFUSED: Final = "another key, another mechanism, or changed bytes: this does not unwrap"
_SECRETS: Final = frozenset({KeyType.AES, KeyType.GENERIC_SECRET})
_EPHEMERAL: Final = KeySpec(KeyType.AES, 256)
_OAEP: Final = (Ck.SHA_1, MGF.SHA1, None)
_MECHANISMS: Final[dict[WrapScheme, tuple[Ck, Any]]] = {
    WrapScheme.AES_NO_PAD: (Ck.AES_KEY_WRAP, None),
    WrapScheme.AES_ZERO_PAD: (Ck.AES_KEY_WRAP_PAD, None),
    WrapScheme.RSA_OAEP: (Ck.RSA_PKCS_OAEP, _OAEP),
    WrapScheme.RSA_PKCS: (Ck.RSA_PKCS, None),
}
_TESTED_BY: Final = {  # what the token shall show of a key that came in
    KeyType.AES: MechanismFlag.ENCRYPT,
    KeyType.GENERIC_SECRET: NO_USE,
    KeyType.RSA: MechanismFlag.SIGN,
    KeyType.EC: MechanismFlag.SIGN | MechanismFlag.DERIVE,
}


def check_offered(profile: str, mechanism: WrapMechanism) -> None:
    """Raise MechanismUnavailableError for what SoftHSM's OAEP leaves out: all but SHA-1."""
    if mechanism.hash not in {None, HashFunction.SHA1}:
        raise MechanismUnavailableError(profile, f"{Mechanism.RSA_PKCS_OAEP} with {mechanism.hash}")


def check_offered_payload(profile: str, mechanism: WrapMechanism, spec: KeySpec) -> None:
    """Raise MechanismUnavailableError for a secret that would come out with zeros behind it.

    Behind the PKCS#8 form of a private key they say nothing: it tells its own length.
    """
    by_kwp = mechanism.scheme in {WrapScheme.AES_ZERO_PAD, WrapScheme.RSA_AES}
    if by_kwp and spec.type in _SECRETS and spec.bits % 64:
        raise MechanismUnavailableError(
            profile,
            f"{Mechanism.AES_KEY_WRAP_PAD} of {spec.bits // 8} bytes; it takes multiples of 8",
        )


def wrap(
    session: Any,  # noqa: ANN401  # pkcs11.Session
    masking: int,
    wrapper: WrappingKey,
    mechanism: WrapMechanism,
    payload: tuple[bytes, KeySpec],
) -> bytes:
    """Wrap the key in a blob under another."""
    blob, spec = payload
    with (
        destroyed(unwrap(key_on(session, masking), blob, spec, NO_USE, LEAVES_WRAPPED)) as key,
        _wrapping(session, masking, wrapper) as outer,
    ):
        if mechanism.scheme is not WrapScheme.RSA_AES:
            ck, parameter = _MECHANISMS[mechanism.scheme]
            return raw(outer.wrap_key(key, mechanism=ck, mechanism_param=parameter))
        made = session.generate_key(
            CkKeyType.AES,
            _EPHEMERAL.bits,
            mechanism=Ck.AES_KEY_GEN,
            store=False,
            capabilities=MechanismFlag.WRAP,
            template=LEAVES_WRAPPED,
        )
        with destroyed(made) as ephemeral:
            first = outer.wrap_key(ephemeral, mechanism=Ck.RSA_PKCS_OAEP, mechanism_param=_OAEP)
            return raw(first) + raw(ephemeral.wrap_key(key, mechanism=Ck.AES_KEY_WRAP_PAD))


@contextmanager
def _wrapping(session: Any, masking: int, wrapper: WrappingKey) -> Iterator[Any]:  # noqa: ANN401
    if wrapper.blob:
        inner = unwrap(key_on(session, masking), wrapper.blob, wrapper.spec, MechanismFlag.WRAP)
        with destroyed(inner):
            yield inner
        return
    public = load_der_public_key(wrapper.public)
    if not isinstance(public, rsa.RSAPublicKey):
        raise RefusedError("key-type", "of public keys, only RSA ones wrap")
    numbers = public.public_numbers()
    made = session.create_object(
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: CkKeyType.RSA,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: False,
            Attribute.MODULUS: _unsigned(numbers.n),
            Attribute.PUBLIC_EXPONENT: _unsigned(numbers.e),
            Attribute.WRAP: True,
            Attribute.ENCRYPT: False,
            Attribute.VERIFY: False,
        }
    )
    with destroyed(made):
        yield key_on(session, made.handle)


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def unwrap_foreign(
    session: Any,  # noqa: ANN401  # pkcs11.Session
    masking: int,
    unwrapper: WrappingKey,
    mechanism: WrapMechanism,
    wrapped: tuple[bytes, KeyType],
    profile: str,
) -> UnwrappedKey:
    """Unwrap what came from outside and tell what it is; it leaves as a blob alone."""
    data, key_type = wrapped
    own = key_on(session, masking)
    flags = MechanismFlag.UNWRAP
    with destroyed(unwrap(own, unwrapper.blob, unwrapper.spec, flags)) as outer:
        if mechanism.scheme is not WrapScheme.RSA_AES:
            ck, parameter = _MECHANISMS[mechanism.scheme]
            key = _open(outer, data, key_type, ck, parameter)
        else:
            size = unwrapper.spec.bits // 8
            ephemeral = outer.unwrap_key(
                ObjectClass.SECRET_KEY,
                CkKeyType.AES,
                data[:size],
                mechanism=Ck.RSA_PKCS_OAEP,
                mechanism_param=_OAEP,
                store=False,
                capabilities=flags,
                template=STAYS,
            )
            with destroyed(ephemeral):
                key = _open(ephemeral, data[size:], key_type, Ck.AES_KEY_WRAP_PAD, None)
    with destroyed(key):
        blob = raw(own.wrap_key(key, mechanism=Ck.AES_KEY_WRAP_PAD))
        if key_type in _SECRETS:
            spec = _secret_spec(session, own, key, blob, key_type, profile)
            return UnwrappedKey(spec, GeneratedKey(blob, b"", check_value(key, spec)))
        spec, public = (_rsa if key_type is KeyType.RSA else _ec)(session, key)
        digest = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
        return UnwrappedKey(spec, GeneratedKey(blob, public, digest))


def _open(outer: Any, data: bytes, key_type: KeyType, ck: Ck, parameter: Any) -> Any:  # noqa: ANN401
    shape = KeySpec(key_type, 0)
    flags = _TESTED_BY[key_type]
    return unwrap(outer, data, shape, flags, LEAVES_WRAPPED, (ck, parameter))


def _secret_spec(  # what tells the length of a key that nobody may look at
    session: Any,  # noqa: ANN401
    own: Any,  # noqa: ANN401
    key: Any,  # noqa: ANN401
    blob: bytes,
    key_type: KeyType,
    profile: str,
) -> KeySpec:
    """Return type and length, which are those of the blob, if that holds the key and no zeros."""
    spec = KeySpec(key_type, (len(blob) - 8) * 8)
    with destroyed(unwrap(own, blob, spec, NO_USE)) as again:
        whole = session.digest(key, mechanism=Ck.SHA256) == session.digest(
            again, mechanism=Ck.SHA256
        )
    if not whole and key_type is KeyType.AES:
        raise BlobRefusedError(REFUSED)
    if not whole:
        raise MechanismUnavailableError(
            profile, f"{Mechanism.AES_KEY_WRAP_PAD} for keys that are no multiple of 8 bytes"
        )
    return spec.check()


def _rsa(session: Any, key: Any) -> tuple[KeySpec, bytes]:  # noqa: ANN401
    """Return what the key says it is, if a signature agrees: the bytes may lie (Clulow 2003)."""
    modulus = int.from_bytes(raw(key[Attribute.MODULUS]), "big")
    exponent = int.from_bytes(raw(key[Attribute.PUBLIC_EXPONENT]), "big")
    spec = KeySpec(KeyType.RSA, modulus.bit_length(), None, exponent).check()
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    digest = _challenge(session)
    mechanism = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)
    info = mechanism.raw(digest)[1]
    signature = raw(key_on(session, key.handle).sign(info, mechanism=Ck.RSA_PKCS))
    try:
        public.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    except InvalidSignature:
        raise BlobRefusedError(REFUSED) from None
    return spec, spki(public)


def _ec(session: Any, key: Any) -> tuple[KeySpec, bytes]:  # noqa: ANN401
    """Return what the key says it is, and its public half.

    SoftHSM keeps none beside it. ECDH with the generator gives its x, which is no secret, and a
    signature tells which of the two y belongs to it.
    """
    parameters = raw(key[Attribute.EC_PARAMS])
    curve = next((c for c in Curve if EC_PARAMETERS[c] == parameters), None)
    if curve is None:
        raise RefusedError("key-spec", f"no HSM here has this curve; choose {', '.join(Curve)}")
    spec = KeySpec(KeyType.EC, CURVE_BITS[curve], curve)
    on_curve, size = requests.EC_CURVES[curve], coordinate_bytes(curve)
    generator = ec.derive_private_key(1, on_curve).public_key().public_numbers()
    point = b"\x04" + generator.x.to_bytes(size, "big") + generator.y.to_bytes(size, "big")
    readable = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    shape = KeySpec(KeyType.GENERIC_SECRET, size * 8)
    with destroyed(derive(session, key.handle, point, shape, NO_USE, readable)) as shared:
        x = raw(shared[Attribute.VALUE])
    digest = _challenge(session)
    signed = raw(key_on(session, key.handle).sign(digest, mechanism=Ck.ECDSA))
    half = len(signed) // 2
    signature = encode_dss_signature(
        int.from_bytes(signed[:half], "big"), int.from_bytes(signed[half:], "big")
    )
    for sign in (b"\x02", b"\x03"):
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(on_curve, sign + x)
            public.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        except (InvalidSignature, ValueError):
            continue
        return spec, spki(public)
    raise BlobRefusedError(REFUSED)


def _challenge(session: Any) -> bytes:  # noqa: ANN401
    """Return a digest that whoever made a key cannot have foreseen."""
    return raw(session.generate_random(256))
