"""Keys as the cluster knows them: attributes with their rules.

Invariants: no key both wraps and decrypts; private and secret keys are sensitive and private;
what is computed (`local`, `always-sensitive`, `never-extractable`, `trusted`) cannot be given.
Attribute names, defaults and set rules follow the CloudHSM CLI's key attribute table.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from typing import Final

import msgspec

from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.key_details import DETAILS
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role

SESSION_KEY_BIT: Final = 1 << 63
LABEL_CHARACTERS: Final = 127
KEY_ID_BYTES_MAX: Final = 128


class Attributes(msgspec.Struct, frozen=True, array_like=True):
    """The boolean attributes of a key; field names are the CLI's with `_` for `-`."""

    encrypt: bool = False
    decrypt: bool = False
    sign: bool = False
    verify: bool = False
    wrap: bool = False
    unwrap: bool = False
    derive: bool = False
    token: bool = True
    private: bool = True
    sensitive: bool = True
    always_sensitive: bool = True
    extractable: bool = True
    never_extractable: bool = False
    local: bool = True
    modifiable: bool = True
    destroyable: bool = True
    trusted: bool = False
    wrap_with_trusted: bool = False


class Guards(msgspec.Struct, frozen=True, array_like=True):
    """What a key's past and its templates forbid; nothing here is ever taken back.

    `has_wrapped`: it, or its pair's public half, was once allowed to wrap. `unwraps_guarded`: it,
    or its public half, was once trusted. `half_stays`: the private half of this public key was
    made here and never leaves. `origin` is the clone and reference that it was replicated from.
    Templates are CLI names and values. `is_copy`: it has the value of another key.
    """

    has_wrapped: bool = False
    unwraps_guarded: bool = False
    half_stays: bool = False
    origin: str = ""
    wrap_template: tuple[tuple[str, str], ...] = ()
    unwrap_template: tuple[tuple[str, str], ...] = ()
    is_copy: bool = False


class Key(msgspec.Struct, frozen=True, array_like=True):
    """A key object. `blob` is wrapped under the masking key, empty for public keys.

    `public` is DER SubjectPublicKeyInfo, empty for secret keys. `ref` is 0 until an entry
    gives the key its place. The quorum values are fixed when it is made; 0 is none.
    """

    ref: int
    key_class: KeyClass
    spec: KeySpec
    label: str
    id: bytes
    owner: str
    shared: tuple[str, ...]
    attributes: Attributes
    blob: bytes
    public: bytes
    check_value: bytes
    guards: Guards = Guards()
    manage_quorum: int = 0
    use_quorum: int = 0

    def quorum_of(self, operation: str) -> int:
        """Return how many must approve a use.

        A wrapped key comes back without quorum values, and a clone's users are its admins' to
        make: to take a key out is use and management.
        """
        match operation:
            case "wrap" | "replicate":
                return max(self.use_quorum, self.manage_quorum)
            case "unwrap":
                return self.manage_quorum
            case _:
                return self.use_quorum

    def usable_by(self, user: str) -> bool:
        """Owners and those it is shared with may use a key; every crypto user a public one."""
        return self.owner == user or user in self.shared or self.key_class is KeyClass.PUBLIC


_SETTABLE: Final = {
    KeyClass.PUBLIC: frozenset({
        "encrypt", "verify", "wrap", "extractable", "modifiable", "destroyable", "id",
    }),
    KeyClass.PRIVATE: frozenset({
        "decrypt", "sign", "unwrap", "derive", "extractable", "modifiable", "destroyable",
        "wrap-with-trusted", "id",
    }),
    KeyClass.SECRET: frozenset({
        "encrypt", "decrypt", "sign", "verify", "wrap", "unwrap", "derive", "extractable",
        "modifiable", "destroyable", "wrap-with-trusted", "id",
    }),
}  # fmt: skip
_SIGN_BY_DEFAULT: Final = frozenset({KeyType.AES, KeyType.GENERIC_SECRET})
BOOLEAN_ATTRIBUTES: Final = frozenset(
    field.replace("_", "-") for field in Attributes.__struct_fields__
)
_TIGHTENED: Final = {
    "encrypt": False, "decrypt": False, "sign": False, "verify": False, "wrap": False,
    "unwrap": False, "derive": False, "extractable": False, "modifiable": False,
    "destroyable": False, "wrap-with-trusted": True,
}  # fmt: skip
KNOWN_ATTRIBUTES: Final = BOOLEAN_ATTRIBUTES | {"id", "label", "class", "key-type", "check-value"}
FILTERABLE: Final = KNOWN_ATTRIBUTES | DETAILS


def new_attributes(
    key_class: KeyClass,
    spec: KeySpec,
    requested: Mapping[str, str],
    *,
    token: bool,
    stays: bool = False,
) -> tuple[Attributes, bytes]:
    """Return the attributes and `id` of a key to be made, or raise RefusedError.

    Args:
        key_class: which object the attributes are for.
        spec: type and size.
        requested: CLI names and values (`true`/`false`; `id` in hex).
        token: False for a session key.
        stays: True for the private half of a pair whose public half wraps.
    """
    public = key_class is KeyClass.PUBLIC
    fields: dict[str, bool] = {
        "token": token,
        "private": not public,
        "sensitive": not public,
        "always_sensitive": not public,
        "sign": spec.type in _SIGN_BY_DEFAULT,
        "verify": spec.type in _SIGN_BY_DEFAULT,
        "extractable": not stays,
    }
    key_id = _take_requested(fields, key_class, requested)
    fields["never_extractable"] = not public and not fields["extractable"]
    return _checked(fields, key_class), key_id


def derived_attributes(
    base: Attributes, requested: Mapping[str, str], *, token: bool
) -> tuple[Attributes, bytes]:
    """Return the attributes and `id` of a secret key derived from a key with attributes `base`.

    What guards the base key guards what comes of it: a key that may not leave gives none that
    may. It signs nothing unless asked to (CloudHSM's default for C_DeriveKey).

    Raises:
        RefusedError: `attribute-conflict`, it would be less guarded than its base key.
    """
    fields = {
        "token": token,
        "local": False,
        "always_sensitive": base.always_sensitive,
        "extractable": base.extractable,
        "wrap_with_trusted": base.wrap_with_trusted,
    }
    key_id = _take_requested(fields, KeyClass.SECRET, requested)
    for name, guarded in (("extractable", False), ("wrap_with_trusted", True)):
        if getattr(base, name) is guarded and fields[name] is not guarded:
            raise RefusedError(
                "attribute-conflict",
                f"the base key has {name.replace('_', '-')}={str(guarded).lower()}, and so has "
                "every key derived from it; leave the attribute out",
            )
    fields["never_extractable"] = base.never_extractable and not fields["extractable"]
    return _checked(fields, KeyClass.SECRET), key_id


def imported_attributes(
    key_class: KeyClass, spec: KeySpec, requested: Mapping[str, str], *, token: bool
) -> tuple[Attributes, bytes]:
    """Return the attributes and `id` of a key whose value its user gives in clear.

    Like one that was unwrapped, it was never made here and never surely secret.
    """
    attributes, key_id = new_attributes(key_class, spec, requested, token=token)
    return (
        msgspec.structs.replace(
            attributes, local=False, always_sensitive=False, never_extractable=False
        ),
        key_id,
    )


def copied_attributes(
    source: Attributes, requested: Mapping[str, str], *, token: bool
) -> Attributes:
    """Return the attributes of a copy: those of its source, or tighter.

    Copies are one value, so together they must do no more than their source may alone.

    Raises:
        RefusedError: `attribute-conflict`, it would be less guarded than its source, or
            `attribute-read-only`.
    """
    copy = msgspec.structs.replace(source, token=token, trusted=False)
    tighter = {}
    for name, value in requested.items():
        if name not in KNOWN_ATTRIBUTES:
            raise unknown_attribute(name)
        if name not in BOOLEAN_ATTRIBUTES:
            raise RefusedError("attribute-read-only", f"a copy has the {name} of its source")
        field, wanted = name.replace("-", "_"), parse_bool(name, value)
        if wanted is getattr(copy, field):
            continue
        if name not in _TIGHTENED:
            raise RefusedError("attribute-read-only", f"a copy has the {name} of its source")
        if wanted is not _TIGHTENED[name]:
            raise RefusedError(
                "attribute-conflict",
                f"a copy may have {name}={str(_TIGHTENED[name]).lower()}, and not the other way "
                "round: it may do no more than its source",
            )
        tighter[field] = wanted
    return msgspec.structs.replace(copy, **tighter)


# What a template may demand of every unwrapped key, because it is so anyway.
_GIVEN: Final = {"private": "true", "sensitive": "true", "local": "false", "trusted": "false"}


def unwrapped_attributes(
    key_type: KeyType, key_class: KeyClass, requested: Mapping[str, str], *, token: bool
) -> tuple[Attributes, bytes]:
    """Return the attributes and `id` of a secret or private key that comes from outside.

    Nobody knows where it was before: it was never made here, and never surely secret.
    """
    signs = key_type in _SIGN_BY_DEFAULT
    fields = {
        "token": token,
        "local": False,
        "always_sensitive": False,
        "sign": signs,
        "verify": signs,
    }
    rest = {n: v for n, v in requested.items() if _GIVEN.get(n) != v.lower()}
    key_id = _take_requested(fields, key_class, rest)
    return _checked(fields, key_class), key_id


def _take_requested(
    fields: dict[str, bool], key_class: KeyClass, requested: Mapping[str, str]
) -> bytes:
    """Put what was requested into `fields`, and return the key id."""
    key_id = b""
    for name, value in requested.items():
        if name not in KNOWN_ATTRIBUTES:
            raise unknown_attribute(name)
        if name not in _SETTABLE[key_class]:
            raise RefusedError(
                "attribute-read-only", f"attribute {name} cannot be set when a {key_class} is made"
            )
        if name == "id":
            key_id = parse_hex(value)
        else:
            fields[name.replace("-", "_")] = parse_bool(name, value)
    wraps = key_class is KeyClass.SECRET and fields.get("wrap", False)
    if wraps and "extractable" not in requested:
        fields["extractable"] = False  # a key that wraps stays: see `check_attributes`
    return key_id


def _checked(fields: Mapping[str, bool], key_class: KeyClass) -> Attributes:
    attributes = Attributes(**fields)
    check_attributes(attributes, key_class)
    return attributes


def check_attributes(attributes: Attributes, key_class: KeyClass) -> None:
    """Raise RefusedError naming the two attributes that no key may have together."""
    if attributes.wrap and attributes.decrypt:
        # Clulow 2003: whoever may wrap and decrypt with one key reads every extractable key.
        raise RefusedError(
            "attribute-conflict",
            "wrap and decrypt together would let the key's user read any key it can wrap; "
            "make one key to wrap and another to decrypt",
        )
    if key_class is KeyClass.SECRET and attributes.wrap and attributes.extractable:
        raise RefusedError(
            "attribute-conflict",
            "wrap and extractable together would let a copy of the key leave, and come back as one "
            "that decrypts what it has wrapped; make the wrapping key with extractable=false",
        )


def check_label(label: str) -> str:
    """Return `label`: at most 127 characters, none that controls or hides how others are shown."""
    hidden = any(unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in label)
    if len(label) > LABEL_CHARACTERS or hidden:
        raise RefusedError(
            "label-rule", f"a label has at most {LABEL_CHARACTERS} printable characters"
        )
    return label


def parse_bool(name: str, text: str) -> bool:
    """Parse a CLI boolean."""
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise UsageError(f"attribute {name}: {text!r} is neither true nor false")


def parse_hex(text: str) -> bytes:
    """Parse the CLI's `0x…` byte strings, at most 128 bytes."""
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as exc:
        raise UsageError(f"{text!r} is not hexadecimal") from exc
    return check_key_id(value)


def check_key_id(value: bytes) -> bytes:
    """Return `value`, a key's id of at most 128 bytes."""
    if len(value) > KEY_ID_BYTES_MAX:
        raise UsageError(f"a key id has at most {KEY_ID_BYTES_MAX} bytes")
    return value


def parse_bytes(text: str, what: str) -> bytes:
    """Parse a byte string of a flag in hexadecimal, with or without `0x`, of any length."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as exc:
        raise UsageError(f"{what} is not hexadecimal") from exc


def near_attributes(name: str) -> str:
    """Return what is meant perhaps by a name that no attribute has, as the end of a message."""
    close = difflib.get_close_matches(name, sorted(FILTERABLE), 3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def unknown_attribute(name: str) -> RefusedError:
    """Return the refusal of a name that no attribute has."""
    return RefusedError("attribute-unknown", f"there is no attribute {name}{near_attributes(name)}")


def check_usable(key: Key, user: str) -> None:
    """Raise NotFoundError unless `user` may use this key: another's is as if it were not there."""
    if not key.usable_by(user):
        raise NotFoundError("key", f"0x{key.ref:016x}", "see `cloister key list`")


def visible_to(key: Key, user: str, role: Role) -> bool:
    """Admins see that a key exists; crypto users what they may use."""
    return role is Role.ADMIN or key.usable_by(user)
