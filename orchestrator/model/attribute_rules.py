"""Which attributes of a key can change, and what keys of one value may never do between them.

Invariants, as far as no admin vouches for a key from outside (ADR 0013): what a key has wrapped,
neither it nor another key of the same value ever decrypts; a key that wraps never leaves; a key
with `wrap-with-trusted` leaves under trusted keys alone, and what those unwrap has it again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_details import DETAILS
from orchestrator.model.key_spec import KeyClass, KeyType
from orchestrator.model.keys import (
    KEY_ID_BYTES_MAX,
    KNOWN_ATTRIBUTES,
    Guards,
    Key,
    check_attributes,
    check_label,
    parse_bool,
    parse_hex,
    unknown_attribute,
)
from orchestrator.model.roles import Operation

TRUSTED: Final = "trusted"
_ALWAYS: Final = frozenset({"label", "id", "token", "modifiable", "destroyable"})
CHANGEABLE: Final = {
    KeyClass.PUBLIC: _ALWAYS | {"encrypt", "verify", "wrap", TRUSTED},
    KeyClass.PRIVATE: _ALWAYS
    | {"decrypt", "sign", "unwrap", "derive", "sensitive", "wrap-with-trusted"},
    KeyClass.SECRET: _ALWAYS
    | {"encrypt", "decrypt", "sign", "verify", "wrap", "unwrap", "derive", "wrap-with-trusted"}
    | {TRUSTED},
}
"""CloudHSM CLI, key attribute table, column "modify"; `trusted` is the admin's."""
ONE_WAY: Final = {
    "token": True,
    "modifiable": False,
    "sensitive": True,
    "wrap-with-trusted": True,
}
"""Attributes that can be given this value alone: from then on they keep it."""
DESCRIPTIVE: Final = DETAILS | {"wrap-template", "unwrap-template"}
TEMPLATE_CHARACTERS: Final = 2 + 2 * KEY_ID_BYTES_MAX
"""The longest value that a key can have: an id in hexadecimal."""
_OLD_TYPE: Final = "hsm1.medium"
_TRUSTED_TYPES: Final = {KeyClass.PUBLIC: KeyType.RSA, KeyClass.SECRET: KeyType.AES}


def operation_to_change(name: str) -> Operation:
    """Return the operation that changing attribute `name` is: only an admin vouches for keys."""
    return Operation.TRUST_KEY if name == TRUSTED else Operation.CHANGE_KEY


def change_attribute(key: Key, name: str, value: str, hsm_type: str) -> Key:
    """Return `key` with one attribute changed.

    Raises:
        RefusedError: `attribute-unknown`, `attribute-read-only`, `not-modifiable`, or
            `attribute-conflict` naming the two that exclude each other.
        UsageError: `value` is none for this attribute.
    """
    if name not in KNOWN_ATTRIBUTES | DESCRIPTIVE:
        raise unknown_attribute(name)
    if name not in CHANGEABLE[key.key_class] or _is_fixed_on(hsm_type, key, name):
        raise RefusedError(
            "attribute-read-only", f"attribute {name} of a {key.key_class} never changes"
        )
    if not key.attributes.modifiable:
        raise RefusedError(
            "not-modifiable", f"key 0x{key.ref:016x} has modifiable=false: no attribute changes"
        )
    match name:
        case "label":
            return msgspec.structs.replace(key, label=check_label(value))
        case "id":
            return msgspec.structs.replace(key, id=parse_hex(value))
        case _:
            return _change_boolean(key, name, parse_bool(name, value))


def _is_fixed_on(hsm_type: str, key: Key, name: str) -> bool:
    """The former type keeps `id` for ever, and `derive` of RSA keys."""
    if hsm_type != _OLD_TYPE:
        return False
    return name == "id" or (name == "derive" and key.spec.type is KeyType.RSA)


def _change_boolean(key: Key, name: str, value: bool) -> Key:
    if name in ONE_WAY and value is not ONE_WAY[name]:
        only = str(ONE_WAY[name]).lower()
        raise RefusedError(
            "attribute-read-only", f"attribute {name} can only become {only}, and then stays so"
        )
    field = name.replace("-", "_")
    changed = msgspec.structs.replace(
        key, attributes=msgspec.structs.replace(key.attributes, **{field: value})
    )
    check_policy(changed)
    return _marked(
        changed,
        has_wrapped=key.attributes.wrap or changed.attributes.wrap,
        unwraps_guarded=key.attributes.trusted or changed.attributes.trusted,
    )


def check_policy(key: Key) -> None:
    """Raise RefusedError for what no key may be, whoever made it and whatever its other half."""
    attributes = key.attributes
    check_attributes(attributes, key.key_class)
    if attributes.decrypt and key.guards.has_wrapped:
        raise RefusedError(
            "attribute-conflict",
            "wrap and decrypt, one after the other, would let the key's user read any key it has "
            "wrapped; make another key to decrypt",
        )
    is_secret_copy = key.guards.is_copy and key.key_class is KeyClass.SECRET
    if is_secret_copy and attributes.wrap and not attributes.never_extractable:
        raise RefusedError(
            "attribute-conflict",
            "wrap on a copy of a key that could leave would let its value leave, and come back as "
            "one that decrypts what the copy has wrapped; make another key to wrap",
        )
    if not attributes.trusted:
        return
    if key.spec.type is not _TRUSTED_TYPES.get(key.key_class):
        raise RefusedError(
            "attribute-read-only", "trusted is for keys that wrap: AES, and public RSA keys"
        )
    if attributes.decrypt:
        raise RefusedError(
            "attribute-conflict",
            "trusted and decrypt together would let the key's user read what trusted keys alone "
            "may wrap; set decrypt=false first",
        )
    if key.key_class is KeyClass.SECRET and attributes.extractable:
        raise RefusedError(
            "attribute-conflict",
            "trusted and extractable together would let the key leave, and with it what trusted "
            "keys alone may wrap; make one with extractable=false",
        )


def joined(keys: tuple[Key, ...], new: Collection[int]) -> tuple[Key, ...]:
    """Return the keys that change when those with references `new` are made or changed.

    Args:
        keys: new or changed ones, and all others of the same value: the same public half or, of
            secret keys, the same blob.
        new: the references of the former; of the latter, only those that get a mark are returned.

    Raises:
        RefusedError: `attribute-conflict` between the two halves of a pair, or between copies.
    """
    if len(keys) > 1 and all(key.key_class is KeyClass.SECRET for key in keys):
        return _joined_copies(keys, new)
    publics = [key for key in keys if key.key_class is KeyClass.PUBLIC]
    privates = [key for key in keys if key.key_class is KeyClass.PRIVATE]
    wraps = any(key.attributes.wrap or key.guards.has_wrapped for key in publics)
    guarded = any(key.attributes.trusted or key.guards.unwraps_guarded for key in publics)
    if wraps and any(key.attributes.decrypt for key in privates):
        raise RefusedError(
            "attribute-conflict",
            "wrap on the public and decrypt on the private half would let the pair's user read any "
            "key it can wrap; make one pair to wrap and another to decrypt",
        )
    if guarded and any(key.attributes.decrypt for key in privates):
        raise RefusedError(
            "attribute-conflict",
            "trusted on the public and decrypt on the private half would let the pair's user read "
            "what trusted keys alone may wrap; set decrypt=false on the private half first",
        )
    results = []
    for key in keys:
        marked = _marked(key, has_wrapped=key.attributes.wrap)
        if key.key_class is KeyClass.PRIVATE:
            marked = _marked(marked, has_wrapped=wraps, unwraps_guarded=guarded)
        if key.ref in new or marked != key:
            results.append(marked)
    return tuple(results)


def _joined_copies(keys: tuple[Key, ...], new: Collection[int]) -> tuple[Key, ...]:
    """As `joined`, of secret keys of one value: what one has wrapped, none decrypts."""
    wraps = any(key.attributes.wrap or key.guards.has_wrapped for key in keys)
    guarded = any(key.attributes.trusted or key.guards.unwraps_guarded for key in keys)
    if (wraps or guarded) and any(key.attributes.decrypt for key in keys):
        raise RefusedError(
            "attribute-conflict",
            "wrap or trusted on one and decrypt on another copy of a key would let their user read "
            "what the former wraps; set decrypt=false on every copy first, or make another key",
        )
    marked = (_marked(key, has_wrapped=wraps, unwraps_guarded=guarded) for key in keys)
    return tuple(m for m, key in zip(marked, keys, strict=True) if key.ref in new or m != key)


def _marked(key: Key, *, has_wrapped: bool = False, unwraps_guarded: bool = False) -> Key:
    guards = key.guards
    if has_wrapped > guards.has_wrapped or unwraps_guarded > guards.unwraps_guarded:
        guards = msgspec.structs.replace(
            guards,
            has_wrapped=guards.has_wrapped or has_wrapped,
            unwraps_guarded=guards.unwraps_guarded or unwraps_guarded,
        )
        return msgspec.structs.replace(key, guards=guards)
    return key


def paired(public: Key, private: Key) -> tuple[Key, Key]:
    """Return the halves of a new pair, the public one noting whether the private one stays.

    Raises:
        RefusedError: `attribute-conflict`, the public half is to wrap and the private one to leave.
    """
    if public.attributes.wrap and private.attributes.extractable:
        raise RefusedError(
            "attribute-conflict",
            "wrap on the public and extractable on the private half together would let the private "
            "half leave, and with it all that the public one has wrapped; make it with "
            "extractable=false",
        )
    guards = msgspec.structs.replace(public.guards, half_stays=not private.attributes.extractable)
    return msgspec.structs.replace(public, guards=guards), private


def guards_of(
    key_class: KeyClass,
    wrap_template: tuple[tuple[str, str], ...],
    unwrap_template: tuple[tuple[str, str], ...],
) -> Guards:
    """Return a new key's guards; its templates are checked for their place and names.

    Raises:
        RefusedError: `attribute-read-only` for a template that this class of key has not, or
            `attribute-unknown` within one.
        UsageError: one names an attribute twice, or gives it a value that no key can have.
    """
    for template, barred in (
        (wrap_template, KeyClass.PRIVATE),
        (unwrap_template, KeyClass.PUBLIC),
    ):
        if template and key_class is barred:
            raise RefusedError("attribute-read-only", f"a {key_class} has no such template")
        if unknown := sorted({name for name, _ in template} - KNOWN_ATTRIBUTES):
            raise unknown_attribute(unknown[0])
        if len(dict(template)) != len(template):
            raise UsageError("a template gives an attribute twice")
        if any(len(value) > TEMPLATE_CHARACTERS for _, value in template):
            raise UsageError(f"a template's values have at most {TEMPLATE_CHARACTERS} characters")
    return Guards(wrap_template=wrap_template, unwrap_template=unwrap_template)
