"""How the CLI names keys: a reference, or attributes that must all match (CloudHSM's grammar)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from orchestrator.model.errors import UsageError
from orchestrator.model.key_details import DETAILS, detail_text, norm_detail
from orchestrator.model.keys import (
    BOOLEAN_ATTRIBUTES,
    FILTERABLE,
    Key,
    near_attributes,
    unknown_attribute,
)


def parse_reference(text: str) -> int:
    """Parse a key reference: `0x` and hex digits, or decimal."""
    try:
        value = int(text, 0)
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a key reference (0x and 16 hex digits)") from exc
    if not 0 < value < 1 << 64:
        raise UsageError(f"key reference {text} is out of range")
    return value


def parse_pairs(items: Iterable[str]) -> dict[str, str]:
    """Parse `name=value` items; a name given twice is an error."""
    pairs: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError(f"{item!r} is not name=value")
        if name in pairs:
            raise UsageError(f"{name} is given twice")
        pairs[name] = value
    return pairs


class KeyFilter(msgspec.Struct, frozen=True, array_like=True):
    """One key reference, or attributes that must all match; empty matches every key."""

    ref: int = 0
    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, items: Iterable[str]) -> KeyFilter:
        """Parse `key-reference=0x…` or `attr.NAME=VALUE` items (CloudHSM CLI grammar)."""
        pairs = parse_pairs(items)
        if (reference := pairs.pop("key-reference", None)) is not None:
            if pairs:
                raise UsageError("key-reference stands alone in a filter")
            return cls(ref=parse_reference(reference))
        attributes = []
        for name, value in pairs.items():
            attribute = name.removeprefix("attr.")
            if attribute == name or attribute not in FILTERABLE:
                known = ", ".join(sorted(FILTERABLE))
                raise UsageError(
                    f"filter {name!r}: give key-reference=0x… or attr.NAME=VALUE; NAME is one of "
                    f"{known}{near_attributes(attribute)}"
                )
            attributes.append((attribute, value))
        return cls(attributes=tuple(attributes))

    def matches(self, key: Key) -> bool:
        """Tell whether `key` satisfies every term."""
        if self.ref and key.ref != self.ref:
            return False
        return all(
            attribute_text(key, name) == norm_attribute(name, v) for name, v in self.attributes
        )


def norm_attribute(name: str, value: str) -> str:
    """Return a value as `attribute_text` would print it."""
    if name in {"label", "class", "key-type"}:
        return value
    return norm_detail(name, value) if name in DETAILS else value.lower()


def attribute_text(key: Key, name: str) -> str:
    """Return an attribute as the CLI prints it."""
    match name:
        case "label":
            return key.label
        case "id":
            return "0x" + key.id.hex()
        case "class":
            return key.key_class
        case "key-type":
            return key.spec.type
        case "check-value":
            return "0x" + key.check_value.hex()
        case _ if name in DETAILS:
            return detail_text(key.spec, key.public, name)
        case _ if name in BOOLEAN_ATTRIBUTES:
            return str(bool(getattr(key.attributes, name.replace("-", "_")))).lower()
        case _:  # a filter that came over the wire
            raise unknown_attribute(name)
