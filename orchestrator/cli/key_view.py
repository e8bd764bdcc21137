"""Keys as the CloudHSM CLI shows them, names in snake_case; and as files."""

from __future__ import annotations

import base64
import textwrap
from typing import Final

from orchestrator.model.errors import RefusedError
from orchestrator.model.key_details import public_details
from orchestrator.model.key_spec import KeyClass, KeyType
from orchestrator.model.keys import Attributes, Key

_ASCII_END: Final = 128
_LONG_FORM: Final = 128  # X.690 8.1.3.5


def reference(key: Key) -> str:
    """Return a key reference: 0x and 16 hex digits."""
    return f"0x{key.ref:016x}"


def brief(key: Key) -> dict[str, object]:
    """Return what tables show of a key."""
    size = key.spec.curve or f"{key.spec.bits} bits"
    return {
        "key_reference": reference(key),
        "label": key.label,
        "class": key.key_class,
        "key_type": key.spec.type,
        "size": size,
        "owner": key.owner,
        "session": not key.attributes.token,
    }


def full(key: Key) -> dict[str, object]:
    """Return a key object: reference, owners, attributes."""
    attributes: dict[str, object] = {
        "key_type": key.spec.type,
        "label": key.label,
        "id": "0x" + key.id.hex(),
        "check_value": "0x" + key.check_value.hex(),
        "class": key.key_class,
    }
    attributes |= {name: getattr(key.attributes, name) for name in Attributes.__struct_fields__}
    if key.spec.type in {KeyType.AES, KeyType.GENERIC_SECRET}:
        attributes["key_length_bytes"] = key.spec.bits // 8
    details = public_details(key.spec, key.public)
    attributes |= {name.replace("-", "_"): value for name, value in details.items()}
    return {
        "key_reference": reference(key),
        "key_info": {
            "key_owners": [{"username": key.owner}],
            "shared_users": [{"username": name} for name in key.shared],
        },
        "attributes": attributes,
    }


def public_pem(key: Key) -> bytes:
    """Return the public half as PEM (RFC 7468, SubjectPublicKeyInfo)."""
    if not key.public:
        raise RefusedError("no-public-half", f"key {reference(key)} has no public half")
    return _pem("PUBLIC KEY", key.public)


def reference_pem(key: Key, cluster: str) -> bytes:
    """Return a stand-in for a private key: it names the key and holds no part of it.

    The form is the one that OpenSSL's pkcs11-provider loads: DER SEQUENCE of the description
    (VisibleString) and a PKCS#11 URI (UTF8String, RFC 7512).
    """
    if key.key_class is not KeyClass.PRIVATE:
        raise RefusedError("no-private-half", f"key {reference(key)} is no private key")
    found = f"object={_escape(key.label.encode())};" if key.label else ""
    found += f"id={_escape(key.id)};" if key.id else ""
    uri = f"pkcs11:token={cluster};{found}type=private"
    content = _der(0x1A, b"PKCS#11 Provider URI v1.0") + _der(0x0C, uri.encode())
    return _pem("PKCS#11 PROVIDER URI", _der(0x30, content))


def _escape(value: bytes) -> str:
    return "".join(chr(b) if chr(b).isalnum() and b < _ASCII_END else f"%{b:02X}" for b in value)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < _LONG_FORM:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def _pem(label: str, der: bytes) -> bytes:
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()
