"""The numbers that the legacy tools use for attributes, mechanisms, users and failures. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, TypeVar

from orchestrator.cli.cloudhsm.views import key_object
from orchestrator.cli.render import printable
from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.key_details import public_details
from orchestrator.model.key_spec import HashFunction, SignScheme
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.wire.messages import UserView

T = TypeVar("T")

ALL_ATTRIBUTES: Final = 512
ATTRIBUTES: Final = {
    0: "class", 1: "token", 2: "private", 3: "label", 134: "trusted", 256: "key-type", 258: "id",
    259: "sensitive", 260: "encrypt", 261: "decrypt", 262: "wrap", 263: "unwrap", 264: "sign",
    266: "verify", 268: "derive", 288: "modulus", 289: "modulus-size-bits", 290: "public-exponent",
    353: "key-length-bytes", 354: "extractable", 355: "local", 356: "never-extractable",
    357: "always-sensitive", 370: "destroyable", 371: "check-value", 528: "wrap-with-trusted",
    0x40000211: "wrap-template", 0x40000212: "unwrap-template",
}  # fmt: skip
_PRINTED: Final = {
    "modulus-size-bits": "MODULUS_BITS", "key-length-bytes": "VALUE_LEN", "check-value": "KCV",
}  # fmt: skip
CLASSES: Final = {2: "public-key", 3: "private-key", 4: "secret-key"}
KEY_TYPES: Final = {0: "rsa", 3: "ec", 16: "generic-secret", 31: "aes"}
LOST_KEY_TYPES: Final = {1: "DSA", 18: "RC4", 21: "3DES"}
CURVES: Final = {2: "secp256r1", 14: "secp384r1", 15: "secp521r1", 16: "secp256k1"}
WRAPS: Final = {
    4: "aes-pkcs5-pad", 5: "aes-no-pad", 6: "aes-zero-pad", 7: "rsa-aes", 8: "rsa-oaep",
    10: "aes-gcm", 11: "cloudhsm-aes-gcm", 12: "rsa-pkcs",
}  # fmt: skip
HASHES: Final = {
    2: HashFunction.SHA1, 3: HashFunction.SHA256, 4: HashFunction.SHA384, 5: HashFunction.SHA512,
    6: HashFunction.SHA224,
}  # fmt: skip
_ORDER: Final = (
    HashFunction.SHA1, HashFunction.SHA256, HashFunction.SHA384, HashFunction.SHA512,
    HashFunction.SHA224,
)  # fmt: skip
SIGNS: Final = {
    **{0 + place: (SignScheme.RSA_PKCS, name) for place, name in enumerate(_ORDER)},
    **{5 + place: (SignScheme.RSA_PSS, name) for place, name in enumerate(_ORDER)},
    **{15 + place: (SignScheme.ECDSA, name) for place, name in enumerate(HashFunction)},
}
SERVICES: Final = {3: Service.USER, 4: Service.QUORUM}
USER_TYPES: Final = {"CO": Role.ADMIN, "CU": Role.CRYPTO_USER}
CUSTOMER_ROOT: Final = 4
CLUSTER_CERTIFICATE: Final = 8
_TYPE_NAMES: Final = {
    Role.ADMIN: "CO", Role.CRYPTO_USER: "CU", Role.UNACTIVATED_ADMIN: "PRECO",
    Role.APPLIANCE_USER: "AU",
}  # fmt: skip

SUCCESS: Final = 0x00
DENIED: Final = 0xC6
INVALID_HANDLE: Final = 0xA8
FAILED: Final = 0xF0
# The first three are the vendor's; from 0xF0 on they are this program's own.
CODES: Final = {
    SUCCESS: ("HSM Return: SUCCESS", ()),
    DENIED: ("HSM Error: Key Access is denied", ("permission-denied", "not-owner")),
    INVALID_HANDLE: (
        "HSM Error: Invalid object handle is passed to this operation",
        ("not-found", "ambiguous-filter"),
    ),
    FAILED: ("HSM Error: The operation was refused", ()),
    0xF1: ("HSM Error: The login failed, or one is needed", ("login-failed", "login-needed")),
    0xF2: ("HSM Error: The mechanism is not available", ("mechanism-unavailable",)),
    0xF3: ("HSM Error: The command is not offered", ("not-offered",)),
    0xF4: ("HSM Error: An argument is wrong", ("usage", "malformed")),
    0xF5: ("HSM Error: No HSM answers", ("unavailable", "pending")),
}


def return_code(error_code: str) -> int:
    """Return the number that stands for an error's code."""
    return next((n for n, (_, codes) in CODES.items() if error_code in codes), FAILED)


def chosen(table: Mapping[int, T], text: str, what: str) -> T:
    """Return what a number stands for, or raise UsageError naming all numbers."""
    number = parse_number(text, what)
    if number not in table:
        known = ", ".join(f"{n} {_shown(table[n])}" for n in sorted(table))
        raise UsageError(f"{number} is not {what}; known are {known}")
    return table[number]


def _shown(meaning: object) -> str:
    return " ".join(map(str, meaning)) if isinstance(meaning, tuple) else str(meaning)


def parse_number(text: str, what: str) -> int:
    """Parse a number, decimal or with 0x."""
    try:
        number = int(text, 0)
    except ValueError:
        raise UsageError(f"{what} is a number, not {printable(text)!r}") from None
    if not 0 <= number < 1 << 64:
        raise UsageError(f"{what} is out of range")
    return number


def check_lost(number: int) -> None:
    """Raise RefusedError for the number of a key type that no HSM here has."""
    if number in LOST_KEY_TYPES:
        raise RefusedError(
            "mechanism-unavailable",
            f"{LOST_KEY_TYPES[number]} keys: no HSM type here has them; AES is 31, generic "
            "secrets are 16",
        )


def key_id(text: str) -> str:
    """Return a key id in hexadecimal: the text's bytes, or what stands after 0x."""
    return text.removeprefix("0x") if text.startswith("0x") else text.encode().hex()


def modulus(key: Key) -> int | None:
    """Return the modulus of an RSA key."""
    shown = public_details(key.spec, key.public).get("modulus")
    return int(str(shown), 16) if shown is not None else None


# --- users ---


def type_name(role: Role) -> str:
    """Return CO, CU, ..."""
    return _TYPE_NAMES.get(role, str(role))


def parse_type(text: str) -> Role:
    """Return the role that a user type stands for."""
    if (role := USER_TYPES.get(text.upper())) is None:
        raise UsageError(
            f"user type {printable(text)} is not offered: CO (crypto officer) is the role admin, "
            "CU (crypto user) the role crypto-user; there is no other to log in as or to create"
        )
    return role


def user_id(role: Role, name: str) -> int:
    """Return a user's number, of role and name alone: the same on all HSMs and for ever."""
    role = Role.ADMIN if role is Role.UNACTIVATED_ADMIN else role
    digest = hashlib.sha256(f"{role}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def named_by(users: tuple[UserView, ...], text: str) -> UserView:
    """Return the user with a number.

    Raises:
        NotFoundError: nobody has it.
        RefusedError: two users have it (one chance in 4,000 with 1,024 users).
    """
    number = parse_number(text, "a user id")
    found = [user for user in users if user_id(user.role, user.name) == number]
    if not found:
        raise NotFoundError("user with id", str(number), "see listUsers")
    if len(found) > 1:
        raise RefusedError(
            "ambiguous-user",
            f"user id {number} is that of {' and '.join(u.name for u in found)}; name the user to "
            "cloudhsm-cli",
        )
    return found[0]


# --- attributes ---


def attribute_name(name: str) -> str:
    """Return OBJ_ATTR_..., as the tools print it."""
    return "OBJ_ATTR_" + _PRINTED.get(name, name.upper().replace("-", "_"))


def attribute_lines(key: Key, number: int) -> list[str]:
    """Return an attribute, or with 512 all that the key has, as the tools print them."""
    if number != ALL_ATTRIBUTES and number not in ATTRIBUTES:
        raise UsageError(f"attribute {number} is not known; listAttributes lists the numbers")
    shown = key_object(key)["attributes"]
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    shown["wrap-template"] = _template(key.guards.wrap_template)
    shown["unwrap-template"] = _template(key.guards.unwrap_template)
    wanted = ATTRIBUTES.values() if number == ALL_ATTRIBUTES else [ATTRIBUTES[number]]
    lines = []
    for name in wanted:
        if name in shown:
            lines += [attribute_name(name), _value(name, shown[name])]
    if not lines:
        raise RefusedError(
            "no-such-attribute", f"a key of this type has no {attribute_name(ATTRIBUTES[number])}"
        )
    return lines


def _template(pairs: tuple[tuple[str, str], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs)


def _value(name: str, value: object) -> str:
    if isinstance(value, bool | int):
        return f"0x{int(value):02x}"
    numbered = {"class": CLASSES, "key-type": KEY_TYPES}.get(name, {})
    number = next((n for n, text in numbered.items() if text == value), None)
    return f"0x{number:02x}" if number is not None else printable(str(value))
