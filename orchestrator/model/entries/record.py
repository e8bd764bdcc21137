"""What all stored records have in common, and their bytes."""

from __future__ import annotations

from typing import TypeVar, dataclass_transform

import msgspec

from orchestrator.model.errors import MalformedError


@dataclass_transform(frozen_default=True)
class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all stored records: arrays in field order, nothing unknown let through."""


T = TypeVar("T", bound=msgspec.Struct)
_encoder = msgspec.msgpack.Encoder()


def encode(record: msgspec.Struct) -> bytes:
    """Encode a record; equal records have equal bytes."""
    return _encoder.encode(record)


def encode_value(value: object) -> bytes:
    """Encode a record or a value of an enumeration."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes, what: str) -> T:
    """Decode one record, or raise MalformedError saying `what` it should have been."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError(f"these bytes are no {what}") from exc
