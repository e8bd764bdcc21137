"""Attributes on the wire. How a value travels depends on the class of its type alone.

The classes are tables compiled into both ends; a type that is in none of them travels as bytes
in the application's native form.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.rpc.values import U32, U64, take_byte, take_counted, take_u32, take_ulong
from orchestrator.model.errors import MalformedError

COUNT_MAX: Final = 512
DEPTH_MAX: Final = 4
_ENTRY_BYTES_MIN: Final = 5
_ROOM_ENTRY_BYTES: Final = 8
_C_ATTRIBUTE_BYTES: Final = 24
_HEAD: Final = Struct("!IBI")

BYTE_TYPES: Final = frozenset({
    0x1, 0x2, 0x86, *range(0x103, 0x10D), 0x162, 0x163, 0x164, 0x165, 0x170, 0x171, 0x200, 0x202,
    0x210, 0x301, 0x302, 0x405, *range(0x8001_0001, 0x8001_0005), 0x8001_0008, 0x8001_000C,
    0x8001_000D,
})  # fmt: skip
ULONG_TYPES: Final = frozenset({
    0x0, 0x80, 0x87, 0x88, 0x100, 0x121, 0x133, 0x134, 0x160, 0x161, 0x166, 0x201, 0x300, 0x400,
    0x401, 0x402, 0x403, 0x404, 0x406, 0x500, 0x8001_0005, 0x8001_000A, 0x800D_0001, 0x800D_0009,
    0x800D_0101,
})  # fmt: skip
MECHANISMS_TYPE: Final = 0x4000_0600
LIST_TYPES: Final = frozenset({0x4000_0211, 0x4000_0212, 0x4000_0213})

Value = int | bytes | tuple[int, ...] | tuple["Attribute", ...]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A type and its value: an int (also for CK_BBOOL), bytes, mechanisms or a template.

    None: the application gave a null pointer, or "unavailable".
    """

    type: int
    value: Value | None


def take_attributes(data: bytes, at: int, depth: int = 0) -> tuple[tuple[Attribute, ...], int]:
    """Decode `aA`."""
    if depth > DEPTH_MAX:
        raise MalformedError(f"templates are nested more than {DEPTH_MAX} deep")
    count, at = take_u32(data, at)
    if count > COUNT_MAX or count * _ENTRY_BYTES_MIN > len(data) - at:
        raise MalformedError(f"{count} attributes are more than the body can hold")
    found = []
    for _ in range(count):
        kind, at = take_u32(data, at)
        is_valid, at = take_byte(data, at)
        value: Value | None = None
        if is_valid:
            length, at = take_u32(data, at)
            value, at = _take_value(data, at, kind, length, depth)
        found.append(Attribute(kind, value))
    return tuple(found), at


def _take_value(
    data: bytes, at: int, kind: int, length: int, depth: int
) -> tuple[Value | None, int]:
    if kind in BYTE_TYPES:
        value, at = take_byte(data, at)
        if length != 1:
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, f"attribute 0x{kind:x}")
        return value, at
    if kind in ULONG_TYPES:
        value, at = take_ulong(data, at)
        if length != 8:  # an application of 32 bits, or one that passed an int
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, f"attribute 0x{kind:x}")
        return value, at
    if kind == MECHANISMS_TYPE:
        return _take_mechanisms(data, at)
    if kind in LIST_TYPES:
        return take_attributes(data, at, depth + 1)
    return take_counted(data, at)


def _take_mechanisms(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    count, at = take_u32(data, at)
    if count * 8 > len(data) - at:
        raise MalformedError(f"{count} mechanisms are more than the body can hold")
    return Struct(f"!{count}Q").unpack_from(data, at), at + 8 * count


def take_rooms(data: bytes, at: int, depth: int = 0) -> tuple[tuple[tuple[int, int], ...], int]:
    """Decode `fA`: pairs of type and room; room 0 asks for the length."""
    if depth > DEPTH_MAX:
        raise MalformedError(f"templates are nested more than {DEPTH_MAX} deep")
    count, at = take_u32(data, at)
    if count > COUNT_MAX or count * _ROOM_ENTRY_BYTES > len(data) - at:
        raise MalformedError(f"{count} attributes are more than the body can hold")
    found = []
    for _ in range(count):
        kind, at = take_u32(data, at)
        room, at = take_u32(data, at)
        found.append((kind, room))
        # From 0.25.4 on a template's own rooms follow; earlier clients never get this far, for
        # they refuse such types themselves.
        if kind in LIST_TYPES and room:
            _, at = take_rooms(data, at, depth + 1)
    return tuple(found), at


def length_of(value: Value) -> int:
    """Return `ulValueLen`: in native bytes."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, bool):
        return 1
    if isinstance(value, int):
        return 8
    if value and isinstance(value[0], Attribute):
        return _C_ATTRIBUTE_BYTES * len(value)
    return 8 * len(value)


def pack_value(kind: int, value: Value) -> bytes:
    """Encode one attribute that fits its room."""
    head = _HEAD.pack(kind, 1, length_of(value))
    if isinstance(value, bytes):
        return head + U32.pack(len(value)) + value
    if isinstance(value, bool):
        return head + (b"\x01" if value else b"\x00")
    if isinstance(value, int):
        return head + U64.pack(value)
    return head + U32.pack(len(value)) + b"".join(
        U64.pack(item) if isinstance(item, int) else _pack_item(item) for item in value
    )  # fmt: skip


def _pack_item(item: Attribute) -> bytes:
    if item.value is None:
        return U32.pack(item.type) + b"\0"
    return pack_value(item.type, item.value)


def pack_length(kind: int, length: int) -> bytes:
    """Encode one attribute whose room is 0 or too small: its length, and a stand-in."""
    if kind in BYTE_TYPES:
        stand_in = b"\0"
    elif kind in ULONG_TYPES:
        stand_in = bytes(8)
    elif kind == MECHANISMS_TYPE or kind in LIST_TYPES:
        stand_in = bytes(4)
    else:
        stand_in = b"\xff\xff\xff\xff"
    return _HEAD.pack(kind, 1, length) + stand_in


def pack_unavailable(kind: int) -> bytes:
    """Encode one attribute that the object does not have or does not show."""
    return U32.pack(kind) + b"\0"
