"""Primitive encodings. A decoder takes (data, position) and returns (value, next position).

Every length is compared with what is left before a byte is copied.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from orchestrator.model.errors import MalformedError

U32: Final = Struct("!I")
U64: Final = Struct("!Q")
NULL_LENGTH: Final = 0xFFFF_FFFF
_LENGTH_LIMIT: Final = 0x7FFF_FFFF
_FORM_U32: Final = Struct("!BI")


def truncated() -> MalformedError:
    """Return the error for a body that ends within a value."""
    return MalformedError("the body ends within a value")


def take_byte(data: bytes, at: int) -> tuple[int, int]:
    """Decode `y`."""
    if at >= len(data):
        raise truncated()
    return data[at], at + 1


def take_u32(data: bytes, at: int) -> tuple[int, int]:
    """Decode a u32, which is also `fy` and `fu`."""
    if at + 4 > len(data):
        raise truncated()
    return U32.unpack_from(data, at)[0], at + 4


def take_ulong(data: bytes, at: int) -> tuple[int, int]:
    """Decode `u`."""
    if at + 8 > len(data):
        raise truncated()
    return U64.unpack_from(data, at)[0], at + 8


def take_counted(data: bytes, at: int) -> tuple[bytes | None, int]:
    """Decode counted bytes; None for a null pointer."""
    length, at = take_u32(data, at)
    if length == NULL_LENGTH:
        return None, at
    end = at + length
    if length >= _LENGTH_LIMIT or end > len(data):
        raise truncated()
    return data[at:end], end


def take_string(data: bytes, at: int) -> tuple[bytes, int]:
    """Decode `s` or `z`, which are no null pointers."""
    value, at = take_counted(data, at)
    if value is None:
        raise MalformedError("a string is a null pointer")
    return value, at


def take_bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    """Decode `ay`; None for a null pointer, whichever way the client's release writes it."""
    form, at = take_byte(data, at)
    if form == 1:
        return take_counted(data, at)
    if form:
        raise MalformedError("a byte array has form 0 or 1")
    return None, take_u32(data, at)[1]


def pack_bytes(value: bytes) -> bytes:
    """Encode an answer's `ay`: form 1."""
    return _FORM_U32.pack(1, len(value)) + value


def pack_needed(count: int) -> bytes:
    """Encode an answer's `ay` or `au` that only says what the result takes: form 0."""
    return _FORM_U32.pack(0, count)


def pack_ulongs(values: list[int]) -> bytes:
    """Encode an answer's `au`: form 1."""
    return _FORM_U32.pack(1, len(values)) + Struct(f"!{len(values)}Q").pack(*values)


def pack_string(text: str, size: int) -> bytes:
    """Encode `s`: UTF-8 cut at a character, padded with spaces to the field's size."""
    value = text.encode()[:size].decode(errors="ignore").encode()
    return U32.pack(size) + value.ljust(size)
