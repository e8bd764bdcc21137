"""Objects in a SoftHSM token: made, derived, unwrapped, and gone again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import (
    KDF,
    Attribute,
    MechanismFlag,
    ObjectClass,
    PKCS11Error,
)
from pkcs11 import (
    KeyType as CkKeyType,
)
from pkcs11 import (
    Mechanism as Ck,
)
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_named_curve_parameters

from orchestrator.model.errors import MechanismUnavailableError
from orchestrator.model.key_spec import Curve, KeySpec, KeyType
from orchestrator.model.profile import FirmwareProfile
from orchestrator.tokens import _requests as requests
from orchestrator.tokens._pkcs11_library import Library, key_on, octet_string

NOT_FOR_US: Final = "not encrypted to this HSM's transport key: ask it for a new point"
P256: Final = encode_named_curve_parameters("1.2.840.10045.3.1.7")
P384: Final = encode_named_curve_parameters("1.3.132.0.34")
STAYS: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
LEAVES_WRAPPED: Final = STAYS | {Attribute.EXTRACTABLE: True}
NO_USE: Final = MechanismFlag(0)
EC_PARAMETERS: Final = {
    Curve.P256: P256,
    Curve.P384: P384,
    Curve.P521: encode_named_curve_parameters("1.3.132.0.35"),
    Curve.SECP256K1: encode_named_curve_parameters("1.3.132.0.10"),
}
_CK_KEY_TYPES: Final = {
    KeyType.AES: CkKeyType.AES,
    KeyType.GENERIC_SECRET: CkKeyType.GENERIC_SECRET,
    KeyType.RSA: CkKeyType.RSA,
    KeyType.EC: CkKeyType.EC,
}
_KEK: Final = KeySpec(KeyType.AES, 256)
_SECRETS: Final = frozenset({KeyType.AES, KeyType.GENERIC_SECRET})
_SECRET_GENERATION: Final = {
    KeyType.AES: Ck.AES_KEY_GEN,
    KeyType.GENERIC_SECRET: Ck.GENERIC_SECRET_KEY_GEN,
}
_CHECKED_BY: Final = {
    KeyType.AES: MechanismFlag.ENCRYPT,
    KeyType.GENERIC_SECRET: MechanismFlag.SIGN,
}


@contextmanager
def undone(close: Callable[[], object]) -> Iterator[None]:
    """Call `close` if what follows fails."""
    try:
        yield
    except BaseException:
        close()
        raise


def load_library(conf: Path, profile: FirmwareProfile) -> Library:
    """Load the first of the profile's modules that exists, on the token of this configuration."""
    os.environ["SOFTHSM2_CONF"] = str(conf)  # SoftHSM reads it once, at C_Initialize
    for module in profile.modules:
        if Path(module).exists():
            return Library(module)
    raise MechanismUnavailableError(
        profile.name, f"module ({', '.join(profile.modules)}); install the package softhsm2"
    )


@contextmanager
def destroyed(key: Any) -> Iterator[Any]:  # noqa: ANN401  # a python-pkcs11 object
    """Destroy a session object at the end."""
    try:
        yield key
    finally:
        with suppress(PKCS11Error):
            key.destroy()


def raw(value: Any) -> bytes:  # noqa: ANN401  # what the untyped library returns
    """Return the library's answer as bytes."""
    return bytes(value)


def ec_pair(
    session: Any,  # noqa: ANN401  # pkcs11.Session
    curve: bytes,
    use: MechanismFlag,
    private: Mapping[Attribute, object],
    label: str = "",
) -> tuple[bytes, Any]:
    """Make a pair, stored when it has a label; return the public point and the private key."""
    domain = session.create_domain_parameters(
        CkKeyType.EC, {Attribute.EC_PARAMS: curve}, local=True
    )
    public, key = domain.generate_keypair(
        store=bool(label),
        label=f"{label} public" if label else None,
        capabilities=use,
        public_template={Attribute.PRIVATE: False},
        private_template=dict(private) | ({Attribute.LABEL: label} if label else {}),
    )
    found = point_of(public)
    if not label:
        public.destroy()
    return found, key


def point_of(public: Any) -> bytes:  # noqa: ANN401  # pkcs11.PublicKey
    """Return a public key's point: EC_POINT is a DER OCTET STRING."""
    encoded = raw(public[Attribute.EC_POINT])
    return encoded[2:] if encoded[1] < 0x80 else encoded[3:]  # DER long form


def spki(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """Return DER SubjectPublicKeyInfo."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def derive(  # C_DeriveKey's own parameters
    session: Any,  # noqa: ANN401  # pkcs11.Session
    key: int,
    point: bytes,
    spec: KeySpec,
    use: MechanismFlag,
    template: Mapping[Attribute, object],
) -> Any:  # noqa: ANN401  # pkcs11.SecretKey
    """Derive a session key by ECDH: the last `spec.bits` of the x coordinate.

    Measured on SoftHSM 2.6.1, on every curve here and for every length: it truncates from the
    leading end, as PKCS#11 2.40 §2.3.7 has it, and refuses more than there is.
    """
    return key_on(session, key).derive_key(
        _CK_KEY_TYPES[spec.type],
        spec.bits,
        capabilities=use,
        mechanism=Ck.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, octet_string(point)),
        template=dict(template),
    )


@contextmanager
def kek(session: Any, private: int, point: bytes, use: MechanismFlag) -> Iterator[Any]:  # noqa: ANN401
    """Derive the AES key that both sides of a transport share; it can do `use` alone."""
    with destroyed(derive(session, private, point, _KEK, use, STAYS)) as key:
        yield key


def unwrap(  # C_UnwrapKey's own parameters
    wrapper: Any,  # noqa: ANN401  # a python-pkcs11 key
    blob: bytes,
    spec: KeySpec,
    use: MechanismFlag,
    guards: Mapping[Attribute, object] = STAYS,
    mechanism: tuple[Ck, Any] = (Ck.AES_KEY_WRAP_PAD, None),
) -> Any:  # noqa: ANN401
    """Unwrap to a session key, non-extractable where `guards` do not say otherwise."""
    template: dict[Attribute, object] = dict(guards)
    is_secret = spec.type in _SECRETS
    if not is_secret:
        # The library sends every capability; a private key must not have these at all.
        template |= {Attribute.ENCRYPT: DEFAULT, Attribute.VERIFY: DEFAULT, Attribute.WRAP: DEFAULT}
        if spec.type is not KeyType.RSA:
            template |= {Attribute.UNWRAP: DEFAULT, Attribute.DECRYPT: DEFAULT}
    return wrapper.unwrap_key(
        ObjectClass.SECRET_KEY if is_secret else ObjectClass.PRIVATE_KEY,
        _CK_KEY_TYPES[spec.type],
        blob,
        mechanism=mechanism[0],
        mechanism_param=mechanism[1],
        store=False,
        capabilities=use,
        template=template,
    )


def derive_secret(session: Any, key: int, point: bytes, spec: KeySpec) -> tuple[Any, bytes]:  # noqa: ANN401
    """Derive a session key that may leave wrapped; return it and its check value."""
    made = derive(session, key, point, spec, _CHECKED_BY[spec.type], LEAVES_WRAPPED)
    with undone(made.destroy):
        return made, check_value(made, spec)


def check_value(key: Any, spec: KeySpec) -> bytes:  # noqa: ANN401  # pkcs11.SecretKey
    """Return the first 3 bytes of an encrypted zero block; a generic secret has none."""
    if spec.type is not KeyType.AES:
        return b""
    return raw(key.encrypt(bytes(16), mechanism=Ck.AES_ECB))[:3]


def generate(session: Any, spec: KeySpec) -> tuple[Any, bytes, bytes]:  # noqa: ANN401
    """Make a session key that may leave wrapped; return it, its public half and check value."""
    if spec.type in _SECRETS:
        key = session.generate_key(
            _CK_KEY_TYPES[spec.type],
            spec.bits,
            mechanism=_SECRET_GENERATION[spec.type],
            store=False,
            capabilities=_CHECKED_BY[spec.type],
            template=LEAVES_WRAPPED,
        )
        return key, b"", check_value(key, spec)
    if spec.curve is not None:
        curve = requests.curve_of(spec)
        point, key = ec_pair(session, EC_PARAMETERS[spec.curve], MechanismFlag.SIGN, LEAVES_WRAPPED)
        public = spki(requests.check_point(point, curve))
    else:
        made, key = session.generate_keypair(
            CkKeyType.RSA,
            spec.bits,
            store=False,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            public_template={Attribute.PUBLIC_EXPONENT: _unsigned(spec.public_exponent)},
            private_template=LEAVES_WRAPPED,
        )
        modulus = int.from_bytes(raw(made[Attribute.MODULUS]), "big")
        made.destroy()
        public = spki(rsa.RSAPublicNumbers(spec.public_exponent, modulus).public_key())
    return key, public, hashlib.sha1(public, usedforsecurity=False).digest()[:3]


def put_clear_key(
    session: Any,  # noqa: ANN401  # pkcs11.Session
    spec: KeySpec,
    given: bytes | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
) -> tuple[Any, bytes, bytes]:
    """Make a session key of a value; return what `generate` returns. It may leave wrapped."""
    template: dict[Attribute, object] = LEAVES_WRAPPED | {
        Attribute.TOKEN: False,
        Attribute.KEY_TYPE: _CK_KEY_TYPES[spec.type],
    }
    if isinstance(given, bytes):
        template |= {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.VALUE: given}
        if spec.type is KeyType.AES:
            template[Attribute.ENCRYPT] = True  # for its check value
        key = session.create_object(template)
        with undone(key.destroy):
            return key, b"", check_value(key, spec)
    template[Attribute.CLASS] = ObjectClass.PRIVATE_KEY
    if isinstance(given, rsa.RSAPrivateKey):
        numbers = given.private_numbers()
        template |= {
            Attribute.MODULUS: _unsigned(numbers.public_numbers.n),
            Attribute.PUBLIC_EXPONENT: _unsigned(numbers.public_numbers.e),
            Attribute.PRIVATE_EXPONENT: _unsigned(numbers.d),
            Attribute.PRIME_1: _unsigned(numbers.p),
            Attribute.PRIME_2: _unsigned(numbers.q),
            Attribute.EXPONENT_1: _unsigned(numbers.dmp1),
            Attribute.EXPONENT_2: _unsigned(numbers.dmq1),
            Attribute.COEFFICIENT: _unsigned(numbers.iqmp),
        }
    elif spec.curve is not None:
        template |= {
            Attribute.EC_PARAMS: EC_PARAMETERS[spec.curve],
            Attribute.VALUE: _unsigned(given.private_numbers().private_value),
        }
    public = spki(given.public_key())
    check = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
    return session.create_object(template), public, check


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
