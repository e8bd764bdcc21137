"""The call table, and what decodes a request's body by it.

Signatures are compared character by character, as the client compares those of the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from orchestrator.gateway.cryptoki import CKR
from orchestrator.gateway.rpc import values as v
from orchestrator.gateway.rpc.attributes import take_attributes, take_rooms
from orchestrator.gateway.rpc.mechanisms import take_mechanism_a, take_mechanism_b
from orchestrator.model.errors import MalformedError

# id, name, signature of the request, of the answer
_TABLE: Final = """
1 C_Initialize ayyay -|2 C_Finalize - -|3 C_GetInfo - vsusv|4 C_GetSlotList yfu au
5 C_GetSlotInfo u ssuvv|6 C_GetTokenInfo u ssssuuuuuuuuuuuvvs|7 C_GetMechanismList ufu au
8 C_GetMechanismInfo uu uuu|9 C_InitToken uayz -|10 C_OpenSession uu u|11 C_CloseSession u -
12 C_CloseAllSessions u -|13 C_GetSessionInfo u uuuu|14 C_InitPIN uay -|15 C_SetPIN uayay -
16 C_GetOperationState ufy ay|17 C_SetOperationState uayuu -|18 C_Login uuay -|19 C_Logout u -
20 C_CreateObject uaA u|21 C_CopyObject uuaA u|22 C_DestroyObject uu -|23 C_GetObjectSize uu u
24 C_GetAttributeValue uufA aAu|25 C_SetAttributeValue uuaA -|26 C_FindObjectsInit uaA -
27 C_FindObjects ufu au|28 C_FindObjectsFinal u -|29 C_EncryptInit uMu -|30 C_Encrypt uayfy ay
31 C_EncryptUpdate uayfy ay|32 C_EncryptFinal ufy ay|33 C_DecryptInit uMu -|34 C_Decrypt uayfy ay
35 C_DecryptUpdate uayfy ay|36 C_DecryptFinal ufy ay|37 C_DigestInit uM -|38 C_Digest uayfy ay
39 C_DigestUpdate uay -|40 C_DigestKey uu -|41 C_DigestFinal ufy ay|42 C_SignInit uMu -
43 C_Sign uayfy ay|44 C_SignUpdate uay -|45 C_SignFinal ufy ay|46 C_SignRecoverInit uMu -
47 C_SignRecover uayfy ay|48 C_VerifyInit uMu -|49 C_Verify uayay -|50 C_VerifyUpdate uay -
51 C_VerifyFinal uay -|52 C_VerifyRecoverInit uMu -|53 C_VerifyRecover uayfy ay
54 C_DigestEncryptUpdate uayfy ay|55 C_DecryptDigestUpdate uayfy ay
56 C_SignEncryptUpdate uayfy ay|57 C_DecryptVerifyUpdate uayfy ay|58 C_GenerateKey uMaA u
59 C_GenerateKeyPair uMaAaA uu|60 C_WrapKey uMuufy ay|61 C_UnwrapKey uMuayaA u
62 C_DeriveKey uMuaA u|63 C_SeedRandom uay -|64 C_GenerateRandom ufy ay|65 C_WaitForSlotEvent u u
66 C_LoginUser uuayay -|67 C_SessionCancel uu -|68 C_MessageEncryptInit uMu -
69 C_EncryptMessage uayayayfy ay|70 C_EncryptMessageBegin uayay -
71 C_EncryptMessageNext uayayfyu ay
72 C_MessageEncryptFinal u -|73 C_MessageDecryptInit uMu -|74 C_DecryptMessage uayayayfy ay
75 C_DecryptMessageBegin uayay -|76 C_DecryptMessageNext uayayfyu ay|77 C_MessageDecryptFinal u -
78 C_MessageSignInit uMu -|79 C_SignMessage uayayfy ay|80 C_SignMessageBegin uay -
81 C_SignMessageNext uayayyfy ay|82 C_MessageSignFinal u -|83 C_MessageVerifyInit uMu -
84 C_VerifyMessage uayayay -|85 C_VerifyMessageBegin uay -|86 C_VerifyMessageNext uayayay -
87 C_MessageVerifyFinal u -|88 C_InitToken2 uays -|89 C_DeriveKey2 uMuaA uPu
"""
_HEAD: Final = Struct("!II")
_ERROR: Final = _HEAD.pack(0, 1) + b"u"
_NUMBERS: Final = {"u": "Q", "fy": "I", "fu": "I", "y": "B"}
_INITS: Final = frozenset({29, 33, 37, 42, 48})
_INIT_BYTES_MAX: Final = 128
"""Applications begin alike again and again; what they begin with is no secret."""
Decoder = Callable[[bytes, int], tuple[Any, int]]
_DECODERS: Final[dict[str, Decoder]] = {
    "y": v.take_byte,
    "u": v.take_ulong,
    "s": v.take_string,
    "z": v.take_string,
    "ay": v.take_bytes,
    "fy": v.take_u32,
    "fu": v.take_u32,
    "aA": take_attributes,
    "fA": take_rooms,
}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One row of the table: how a request starts, how its values and the answer are encoded."""

    id: int
    name: str
    request: str
    answer: str
    request_head: bytes
    answer_head: bytes
    decoders_a: tuple[Decoder, ...]
    decoders_b: tuple[Decoder, ...]
    numbers: Struct | None
    """Decodes a request that has numbers alone at once."""

    def has_session(self) -> bool:
        """Tell whether the first value names a session."""
        return self.request.startswith("u") and self.id not in _BY_SLOT


_BY_SLOT: Final = frozenset({5, 6, 7, 8, 9, 10, 12, 65, 88})


def split(signature: str) -> list[str]:
    """Split a signature into its codes."""
    codes, at = [], 0
    while at < len(signature):
        width = 2 if signature[at] in "af" else 1
        codes.append(signature[at : at + width])
        at += width
    return codes


def _row(text: str) -> Call:
    number, name, request, answer = text.split()
    request, answer = request.strip("-"), answer.strip("-")
    codes = split(request)
    a, b = ({**_DECODERS, "M": take} for take in (take_mechanism_a, take_mechanism_b))
    return Call(
        int(number),
        name,
        request,
        answer,
        _HEAD.pack(int(number), len(request)) + request.encode(),
        _HEAD.pack(int(number), len(answer)) + answer.encode(),
        tuple(a[code] for code in codes),
        tuple(b[code] for code in codes),
        Struct("!" + "".join(_NUMBERS[code] for code in codes))
        if all(code in _NUMBERS for code in codes)
        else None,
    )


CALLS: Final[dict[int, Call]] = {
    call.id: call for line in _TABLE.split("\n") for row in line.split("|") if row
    for call in (_row(row),)
}  # fmt: skip


def decode(body: bytes, offered: int) -> tuple[Call, list[Any]]:
    """Decode a request's body; the values are those of the signature, in order.

    Args:
        body: what the frame held.
        offered: the byte that the client offered on connecting, which tells its dialect.

    Raises:
        MalformedError: unknown call, another signature, or a value that the body does not hold.
        CryptokiError: a value that no call can take.
    """
    if len(body) < _HEAD.size:
        raise v.truncated()
    call = CALLS.get(v.U32.unpack_from(body)[0])
    if call is None or not body.startswith(call.request_head):
        raise MalformedError("this call, or its signature, is none of p11-kit's")
    at = len(call.request_head)
    if call.numbers is not None:
        if at + call.numbers.size > len(body):
            raise v.truncated()
        return call, list(call.numbers.unpack_from(body, at))
    if call.id in _INITS and len(body) <= _INIT_BYTES_MAX:
        return call, list(_init_values(call, body, offered))
    return call, _values(call, body, offered)


def _values(call: Call, body: bytes, offered: int) -> list[Any]:
    at, given = len(call.request_head), []
    for take in call.decoders_b if offered >= 2 else call.decoders_a:
        value, at = take(body, at)
        given.append(value)
    return given


@lru_cache(maxsize=256)
def _init_values(call: Call, body: bytes, offered: int) -> tuple[Any, ...]:
    return tuple(_values(call, body, offered))


def pack_error(rv: int) -> bytes:
    """Return the body of an answer that is an error; never with 0, which breaks clients."""
    return _ERROR + v.U64.pack(rv or CKR.GENERAL_ERROR)
