"""Keys as PKCS#11 objects: the table between `model.keys` and CKA_*, in both directions.

The gateway decides no authority: what a template asks for goes to an HSM, whose policy answers.
Here only the names change, and values that an HSM gives a key anyway are not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, KeysView, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.gateway.cryptoki import CKA, CKK, CKM, CKO, CKR, UNAVAILABLE, CryptokiError
from orchestrator.gateway.rpc.attributes import Attribute, Value
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key, new_attributes

CLASSES: Final = {
    KeyClass.PUBLIC: CKO.PUBLIC_KEY,
    KeyClass.PRIVATE: CKO.PRIVATE_KEY,
    KeyClass.SECRET: CKO.SECRET_KEY,
}
KEY_TYPES: Final = {
    KeyType.RSA: CKK.RSA,
    KeyType.EC: CKK.EC,
    KeyType.AES: CKK.AES,
    KeyType.GENERIC_SECRET: CKK.GENERIC_SECRET,
}
CURVE_OIDS: Final = {  # RFC 5480 §2.1.1.1, SEC 2: DER of the named curve
    Curve.P256: bytes.fromhex("06082a8648ce3d030107"),
    Curve.P384: bytes.fromhex("06052b81040022"),
    Curve.P521: bytes.fromhex("06052b81040023"),
    Curve.SECP256K1: bytes.fromhex("06052b8104000a"),
}
CURVES_BY_OID: Final = {oid: curve for curve, oid in CURVE_OIDS.items()}
_GENERATED_BY: Final = {
    KeyType.RSA: CKM.RSA_PKCS_KEY_PAIR_GEN,
    KeyType.EC: CKM.EC_KEY_PAIR_GEN,
    KeyType.AES: CKM.AES_KEY_GEN,
    KeyType.GENERIC_SECRET: CKM.GENERIC_SECRET_KEY_GEN,
}
BOOLEANS: Final[Mapping[int, str]] = {
    CKA.ENCRYPT: "encrypt",
    CKA.DECRYPT: "decrypt",
    CKA.SIGN: "sign",
    CKA.VERIFY: "verify",
    CKA.WRAP: "wrap",
    CKA.UNWRAP: "unwrap",
    CKA.DERIVE: "derive",
    CKA.PRIVATE: "private",
    CKA.SENSITIVE: "sensitive",
    CKA.ALWAYS_SENSITIVE: "always-sensitive",
    CKA.EXTRACTABLE: "extractable",
    CKA.NEVER_EXTRACTABLE: "never-extractable",
    CKA.LOCAL: "local",
    CKA.MODIFIABLE: "modifiable",
    CKA.DESTROYABLE: "destroyable",
    CKA.TRUSTED: "trusted",
    CKA.WRAP_WITH_TRUSTED: "wrap-with-trusted",
}
"""CKA_TOKEN is not here: it says which request is made, and is no attribute of it."""
_USAGES: Final = frozenset({
    CKA.ENCRYPT, CKA.DECRYPT, CKA.SIGN, CKA.VERIFY, CKA.WRAP, CKA.UNWRAP, CKA.DERIVE,
})  # fmt: skip
_USAGES_BY_DEFAULT: Final[Mapping[tuple[KeyClass, KeyType], tuple[str, ...]]] = {
    (KeyClass.PUBLIC, KeyType.RSA): ("verify", "encrypt"),
    (KeyClass.PRIVATE, KeyType.RSA): ("sign", "decrypt"),
    (KeyClass.PUBLIC, KeyType.EC): ("verify",),
    (KeyClass.PRIVATE, KeyType.EC): ("sign", "derive"),
    (KeyClass.SECRET, KeyType.AES): ("encrypt", "decrypt"),
}
"""For templates that name no usage at all, as Java's: tokens then allow what the type is for."""
_NOT_SHOWN: Final[Mapping[tuple[KeyClass, KeyType], frozenset[int]]] = {
    (KeyClass.PRIVATE, KeyType.RSA): frozenset(range(CKA.PRIVATE_EXPONENT, CKA.COEFFICIENT + 1)),
    (KeyClass.PRIVATE, KeyType.EC): frozenset({CKA.VALUE}),
    (KeyClass.SECRET, KeyType.AES): frozenset({CKA.VALUE}),
    (KeyClass.SECRET, KeyType.GENERIC_SECRET): frozenset({CKA.VALUE}),
}
# Asked for with these values they change nothing, with others they cannot be had.
_FIXED: Final[Mapping[int, Value]] = {
    CKA.ALWAYS_AUTHENTICATE: 0,
    CKA.SIGN_RECOVER: 0,
    CKA.COPYABLE: 1,
    CKA.START_DATE: b"",
    CKA.END_DATE: b"",
}
_IN_THE_SPEC: Final = frozenset({
    CKA.CLASS, CKA.KEY_TYPE, CKA.TOKEN, CKA.MODULUS_BITS, CKA.PUBLIC_EXPONENT, CKA.EC_PARAMS,
    CKA.VALUE_LEN,
})  # fmt: skip


# --- reading ---------------------------------------------------------------------------------


def value_of(key: Key, kind: int) -> Value:
    """Return an attribute of a key; a bool where it is a CK_BBOOL on the wire.

    Raises:
        CryptokiError: ATTRIBUTE_SENSITIVE, or ATTRIBUTE_TYPE_INVALID where a key has none such.
    """
    if (name := BOOLEANS.get(kind)) is not None:
        held: bool = getattr(key.attributes, name.replace("-", "_"))
        # Only types that both ends list as CK_BBOOL travel as one byte.
        return held if kind != CKA.DESTROYABLE else bytes([held])
    if (read := _COMMON.get(kind)) is not None:
        return read(key)
    if kind in _NOT_SHOWN.get((key.key_class, key.spec.type), ()):
        raise CryptokiError(CKR.ATTRIBUTE_SENSITIVE)
    read = _SPECIAL.get((kind, key.spec.type))
    if read is not None and (kind != CKA.MODULUS_BITS or key.key_class is KeyClass.PUBLIC):
        return read(key)
    raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)


@lru_cache(maxsize=256)
def load_public(public: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """Return a public half that an HSM has sent."""
    key = load_der_public_key(public)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
    return key


def _rsa(key: Key) -> rsa.RSAPublicNumbers:
    public = load_public(key.public)
    if not isinstance(public, rsa.RSAPublicKey):
        raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)
    return public.public_numbers()


def unsigned(number: int) -> bytes:
    """Return a big integer: big-endian, no leading zeros."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _modulus(key: Key) -> bytes:
    return unsigned(_rsa(key).n)


def _exponent(key: Key) -> bytes:
    return unsigned(_rsa(key).e)


def _ec_params(key: Key) -> bytes:
    if key.spec.curve is None:
        raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)
    return CURVE_OIDS[key.spec.curve]


def _ec_point(key: Key) -> bytes:
    public = load_public(key.public)
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    length = bytes([len(point)]) if len(point) < 128 else bytes([0x81, len(point)])
    return b"\x04" + length + point  # DER OCTET STRING (PKCS#11 2.40 §2.3.3)


def _public_info(key: Key) -> bytes:
    if not key.public:
        raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)
    return key.public


def _check_value(key: Key) -> bytes:
    if key.key_class is not KeyClass.SECRET:
        raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)
    return key.check_value[:3]


def _generated_by(key: Key) -> int:
    return _GENERATED_BY[key.spec.type] if key.attributes.local else UNAVAILABLE


_COMMON: Final[Mapping[int, Callable[[Key], Value]]] = {
    CKA.CLASS: lambda key: int(CLASSES[key.key_class]),
    CKA.TOKEN: lambda key: key.attributes.token,
    CKA.LABEL: lambda key: key.label.encode(),
    CKA.ID: lambda key: key.id,
    CKA.KEY_TYPE: lambda key: int(KEY_TYPES[key.spec.type]),
    CKA.UNIQUE_ID: lambda key: f"{key.ref:016x}".encode(),
    CKA.COPYABLE: lambda _: True,
    CKA.ALWAYS_AUTHENTICATE: lambda _: False,
    CKA.SIGN_RECOVER: lambda _: False,
    CKA.VERIFY_RECOVER: lambda _: False,
    CKA.KEY_GEN_MECHANISM: _generated_by,
    CKA.PUBLIC_KEY_INFO: _public_info,
    CKA.CHECK_VALUE: _check_value,
}
_SPECIAL: Final[Mapping[tuple[int, KeyType], Callable[[Key], Value]]] = {
    (CKA.MODULUS, KeyType.RSA): _modulus,
    (CKA.PUBLIC_EXPONENT, KeyType.RSA): _exponent,
    (CKA.MODULUS_BITS, KeyType.RSA): lambda key: key.spec.bits,
    (CKA.EC_PARAMS, KeyType.EC): _ec_params,
    (CKA.EC_POINT, KeyType.EC): _ec_point,
    (CKA.VALUE_LEN, KeyType.AES): lambda key: key.spec.bits // 8,
    (CKA.VALUE_LEN, KeyType.GENERIC_SECRET): lambda key: key.spec.bits // 8,
}


# --- searching -------------------------------------------------------------------------------


def filter_of(template: Iterable[Attribute]) -> KeyFilter | None:
    """Return what an HSM can look for; None when no key can match. `matches` does the rest."""
    terms = []
    for attribute in template:
        match attribute.type, attribute.value:
            case CKA.CLASS, int(number):
                found = [name for name, cko in CLASSES.items() if cko == number]
                if not found:
                    return None
                terms.append(("class", str(found[0])))
            case CKA.KEY_TYPE, int(number):
                types = [name for name, ckk in KEY_TYPES.items() if ckk == number]
                if not types:
                    return None
                terms.append(("key-type", str(types[0])))
            case CKA.LABEL, bytes(label):
                try:
                    terms.append(("label", label.decode()))
                except UnicodeDecodeError:
                    return None
            case CKA.ID, bytes(key_id) if len(key_id) <= 128:
                terms.append(("id", "0x" + key_id.hex()))
    return KeyFilter(attributes=tuple(terms))


def matches(read: Callable[[int], Value], template: Iterable[Attribute]) -> bool:
    """Tell whether an object, whose attributes `read` returns, has all that a template asks."""
    for attribute in template:
        try:
            held = read(attribute.type)
        except CryptokiError:
            return False
        if held != (b"" if attribute.value is None else attribute.value):
            return False
    return True


# --- templates -------------------------------------------------------------------------------


class Template:
    """What an application wants of a new object: each type at most once, each of its own form."""

    def __init__(self, attributes: Iterable[Attribute]) -> None:
        self._values: dict[int, Value | None] = {}
        for attribute in attributes:
            if self._values.setdefault(attribute.type, attribute.value) != attribute.value:
                raise CryptokiError(CKR.TEMPLATE_INCONSISTENT, f"0x{attribute.type:x} twice")

    def types(self) -> KeysView[int]:
        """Return what is asked for."""
        return self._values.keys()

    def number(self, kind: CKA) -> int | None:
        """Return a CK_ULONG; None where it is not given."""
        value = self._values.get(kind)
        if value is None and kind not in self._values:
            return None
        if not isinstance(value, int):
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_{kind.name}")
        return value

    def flag(self, kind: CKA, default: bool = False) -> bool:
        """Return a CK_BBOOL, also one that travels as bytes."""
        value = self._values.get(kind)
        if kind not in self._values:
            return default
        if isinstance(value, bytes) and len(value) == 1:
            value = value[0]
        if value not in {0, 1}:
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_{kind.name}")
        return bool(value)

    def data(self, kind: CKA) -> bytes | None:
        """Return bytes; None where they are not given."""
        value = self._values.get(kind)
        if value is None:
            return b"" if kind in self._values else None
        if not isinstance(value, bytes):
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_{kind.name}")
        return value

    def require(self, kind: CKA, expected: int) -> None:
        """Raise TEMPLATE_INCONSISTENT where an attribute is given and is not `expected`."""
        if self.number(kind) not in {None, expected}:
            raise CryptokiError(CKR.TEMPLATE_INCONSISTENT, f"CKA_{kind.name}")

    def label(self) -> str:
        """Return CKA_LABEL as text."""
        try:
            return (self.data(CKA.LABEL) or b"").decode()
        except UnicodeDecodeError:
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_LABEL is no UTF-8") from None

    def requested(
        self,
        key_class: KeyClass,
        spec: KeySpec,
        given: Attributes | None = None,
        passed_over: AbstractSet[int] = frozenset(),
    ) -> tuple[tuple[str, str], ...]:
        """Return the attributes to ask an HSM for, beyond what such a key has anyway.

        Args:
            key_class: of the object to be made.
            spec: its type.
            given: what such a key has when nothing is asked for; default: a generated one.
            passed_over: attributes that are no matter of this: a value, say.
        """
        token = self.flag(CKA.TOKEN)
        if given is None:
            given = new_attributes(key_class, spec, {}, token=token)[0]
        wanted: dict[str, str] = {}
        if not _USAGES & self._values.keys():
            wanted = dict.fromkeys(_USAGES_BY_DEFAULT.get((key_class, spec.type), ()), "true")
        for kind in self._values:
            if (name := BOOLEANS.get(kind)) is not None:
                asked = self.flag(CKA(kind))
                if asked != getattr(given, name.replace("-", "_")) and not _is_moot(
                    key_class, spec, name, asked=asked
                ):
                    wanted[name] = str(asked).lower()
            elif kind in _FIXED:
                if self._values[kind] not in {None, _FIXED[kind]}:
                    raise CryptokiError(CKR.TEMPLATE_INCONSISTENT, f"CKA_{CKA(kind).name}")
            elif kind not in _IN_THE_SPEC | _PASSED_OVER | {CKA.LABEL, CKA.ID} | passed_over:
                raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID, f"attribute 0x{kind:x}")
        if key_id := self.data(CKA.ID):
            wanted["id"] = "0x" + key_id.hex()
        return tuple(wanted.items())


# Not kept on keys: a subject belongs to the certificate.
_PASSED_OVER: Final = frozenset({CKA.SUBJECT, CKA.VERIFY_RECOVER})


def _is_moot(key_class: KeyClass, spec: KeySpec, name: str, *, asked: bool) -> bool:
    """What comes to the same: no object is shown without a login; peers agree without asking."""
    is_peer = (key_class, spec.type, name, asked) == (KeyClass.PUBLIC, KeyType.EC, "derive", True)
    return name == "private" or is_peer
