"""What a key shows of its type: its size, and modulus and exponent, or curve and point."""

from __future__ import annotations

from typing import Final

from orchestrator.model.key_spec import KeySpec, KeyType, coordinate_bytes

DETAILS: Final = frozenset({
    "key-length-bytes", "modulus", "modulus-size-bits", "public-exponent", "curve", "ec-point",
})  # fmt: skip
_LONG_FORM: Final = 128  # X.690 8.1.3.5
_ALIASES: Final = {"prime256v1": "secp256r1"}


def public_details(spec: KeySpec, public: bytes) -> dict[str, str | int]:
    """Return what only one type of key pair has; `public` is DER, empty for secret keys."""
    if not public:
        return {}
    match spec.type:
        case KeyType.RSA:
            # Not at start: what names attributes, help texts among it, needs no cryptography.
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
            from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
                load_der_public_key,
            )

            key = load_der_public_key(public)
            assert isinstance(key, RSAPublicKey)  # noqa: S101  # the key's type says so
            numbers = key.public_numbers()
            return {
                "public-exponent": _hex(numbers.e),
                "modulus": _hex(numbers.n),
                "modulus-size-bits": spec.bits,
            }
        case KeyType.EC:
            assert spec.curve is not None  # noqa: S101  # the key's type says so
            # The point ends a SubjectPublicKeyInfo; CKA_EC_POINT has it in a DER OCTET STRING.
            point = public[-(1 + 2 * coordinate_bytes(spec.curve)) :]
            size = len(point)
            length = bytes([size]) if size < _LONG_FORM else bytes([0x81, size])
            return {"curve": spec.curve, "ec-point": f"0x04{length.hex()}{point.hex()}"}
        case _:
            return {}


def length_bytes(spec: KeySpec) -> int:
    """Return the length of a secret, of a modulus, or of a curve's field."""
    return (spec.bits + 7) // 8


def detail_text(spec: KeySpec, public: bytes, name: str) -> str:
    """Return one of DETAILS as the CLI prints it, empty where the key has none."""
    if name == "key-length-bytes":
        return str(length_bytes(spec))
    return str(public_details(spec, public).get(name, ""))


def norm_detail(name: str, value: str) -> str:
    """Return a value as `detail_text` would print it: numbers in any base, curves by any name."""
    value = value.lower()
    if name == "curve":
        return _ALIASES.get(value, value)
    try:
        number = int(value, 0)
    except ValueError:
        return value
    if name in {"modulus", "public-exponent"} and number > 0:
        return _hex(number)
    return value if name == "ec-point" else str(number)


def _hex(number: int) -> str:
    """Return whole bytes, as the original shows them."""
    return "0x" + number.to_bytes((number.bit_length() + 7) // 8, "big").hex()
