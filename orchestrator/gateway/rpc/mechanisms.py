"""Mechanisms on the wire: encoding A (clients that offered 0 or 1) and B (2).

A client refuses what it has no encoding for, so the tables also say what a client may be shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.gateway.rpc.values import take_byte, take_counted, take_u32, take_ulong

NULL_MECHANISM: Final = 0xFFFF_FFFF

# Without parameter in all releases, and from 0.25 on only.
_PLAIN: Final = frozenset({
    0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0xA, 0xB, 0xC, 0x10, 0x11, 0x12, 0x20, 0x30, 0x40,
    0x41, 0x42, 0x100, 0x101, 0x103, 0x110, 0x111, 0x120, 0x121, 0x123, 0x130, 0x131, 0x132, 0x134,
    0x140, 0x141, 0x143, 0x200, 0x201, 0x210, 0x211, 0x220, 0x221, 0x230, 0x231, 0x240, 0x241,
    0x250, 0x251, 0x260, 0x261, 0x270, 0x271, 0x300, 0x301, 0x303, 0x310, 0x311, 0x313, 0x320,
    0x321, 0x330, 0x331, 0x333, 0x340, 0x341, 0x343, 0x350, 0x370, 0x374, 0x380, 0x381, 0x400,
    0x1000, 0x1008, 0x1010, 0x1020, 0x1030, 0x1036, 0x1040, 0x1041, 0x1042, 0x1060, 0x1065, 0x1070,
    0x1080, 0x1081, 0x1083, 0x2000, 0x2001, 0x2002,
})  # fmt: skip
_PLAIN_FROM_1: Final = frozenset({
    0x46, 0x48, 0x49, 0x4B, 0x4C, 0x4D, 0x4F, 0x50, 0x51, 0x53, 0x138, 0x255, 0x256, 0x392, 0x393,
    0x394, 0x395, 0x396, 0x1043, 0x1044, 0x1045, 0x1046, 0x108A, *range(0x8001_0001, 0x8001_0005),
    0x8001_0007, 0x8001_001C, 0x8001_001F, 0x8001_0023, *range(0x8001_0025, 0x8001_0029),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class PssParameter:
    """CK_RSA_PKCS_PSS_PARAMS."""

    hash: int
    mgf: int
    salt_bytes: int


@dataclass(frozen=True, slots=True)
class OaepParameter:
    """CK_RSA_PKCS_OAEP_PARAMS."""

    hash: int
    mgf: int
    source: int
    label: bytes


@dataclass(frozen=True, slots=True)
class EcdhParameter:
    """CK_ECDH1_DERIVE_PARAMS."""

    kdf: int
    shared_data: bytes
    public_data: bytes


@dataclass(frozen=True, slots=True)
class GcmParameter:
    """CK_GCM_PARAMS."""

    iv: bytes
    iv_bits: int
    aad: bytes
    tag_bits: int


@dataclass(frozen=True, slots=True)
class CtrParameter:
    """CK_AES_CTR_PARAMS."""

    counter_bits: int
    block: bytes


Parameter = (
    None | int | bytes | PssParameter | OaepParameter | EcdhParameter | GcmParameter | CtrParameter
)


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism's number and parameter; `bytes` is an IV or a public value."""

    type: int
    parameter: Parameter = None


def _take_pss(data: bytes, at: int) -> tuple[Parameter, int]:
    hash_, at = take_ulong(data, at)
    mgf, at = take_ulong(data, at)
    salt, at = take_ulong(data, at)
    return PssParameter(hash_, mgf, salt), at


def _take_oaep(data: bytes, at: int) -> tuple[Parameter, int]:
    hash_, at = take_ulong(data, at)
    mgf, at = take_ulong(data, at)
    source, at = take_ulong(data, at)
    label, at = take_counted(data, at)
    return OaepParameter(hash_, mgf, source, label or b""), at


def _take_ecdh(data: bytes, at: int) -> tuple[Parameter, int]:
    kdf, at = take_ulong(data, at)
    shared, at = take_counted(data, at)
    public, at = take_counted(data, at)
    return EcdhParameter(kdf, shared or b"", public or b""), at


def _take_gcm(data: bytes, at: int) -> tuple[Parameter, int]:
    iv, at = take_counted(data, at)
    iv_bits, at = take_ulong(data, at)
    aad, at = take_counted(data, at)
    tag_bits, at = take_ulong(data, at)
    return GcmParameter(iv or b"", iv_bits, aad or b"", tag_bits), at


def _take_ctr(data: bytes, at: int) -> tuple[Parameter, int]:
    bits, at = take_ulong(data, at)
    block, at = take_counted(data, at)
    return CtrParameter(bits, block or b""), at


_PARAMETERS: Final[dict[int, Callable[[bytes, int], tuple[Parameter, int]]]] = {
    0xD: _take_pss,
    **dict.fromkeys((0xE, 0x43, 0x44, 0x45, 0x47), _take_pss),
    0x9: _take_oaep,
    0x1050: _take_ecdh,
    **dict.fromkeys((0x1082, 0x1085, 0x1089, 0x2104, 0x2105, 0x2106, 0x2107, 0x2108), take_counted),
    0x1086: _take_ctr,
    0x1087: _take_gcm,
    **dict.fromkeys((0x122, 0x125, 0x133, 0x136, 0x150, 0x152, 0x153, 0x21), take_counted),
    **dict.fromkeys(
        (0x4A, 0x4E, 0x135, 0x137, 0x222, 0x252, 0x257, 0x262, 0x272, 0x1084, 0x108B), take_ulong
    ),
}
_WITH_PARAMETER_FROM_0: Final = frozenset({0x9, 0xD})
_WITHOUT: Final = _PLAIN | _PLAIN_FROM_1


def is_known_to(mechanism: int, offered: int) -> bool:
    """Tell whether a client that offered this byte has an encoding for a mechanism."""
    if offered == 0:
        return mechanism in _PLAIN or mechanism in _WITH_PARAMETER_FROM_0
    return mechanism in _WITHOUT or mechanism in _PARAMETERS


def take_mechanism_a(data: bytes, at: int) -> tuple[Mechanism | None, int]:
    """Decode `M` of a client that offered 0 or 1; None for a null pointer."""
    number, at = take_u32(data, at)
    if (take := _PARAMETERS.get(number)) is not None:
        parameter, at = take(data, at)
        return Mechanism(number, parameter), at
    if number == NULL_MECHANISM:
        return None, at
    if number not in _WITHOUT:
        raise _unknown(number)
    # 0.25.0 to 0.25.2 wrote 0 alone for a null pointer: nothing follows, or a key.
    if number == 0 and len(data) - at in {0, 8}:
        return None, at
    _, at = take_counted(data, at)
    return Mechanism(number), at


def take_mechanism_b(data: bytes, at: int) -> tuple[Mechanism | None, int]:
    """Decode `M` of a client that offered 2; None for a null pointer."""
    number, at = take_u32(data, at)
    if number in _WITHOUT:
        return Mechanism(number), at
    if number == NULL_MECHANISM:
        return None, at
    if (take := _PARAMETERS.get(number)) is None:
        raise _unknown(number)
    is_given, at = take_byte(data, at)
    if not is_given:
        return Mechanism(number), at
    parameter, at = take(data, at)
    return Mechanism(number, parameter), at


def _unknown(number: int) -> CryptokiError:
    """Where the parameter ends cannot be told: the rest of the body is left."""
    return CryptokiError(CKR.MECHANISM_INVALID, f"0x{number:x}")
