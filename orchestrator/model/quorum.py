"""Quorum, M of N: services, values, tokens, and the bytes that approvers sign.

Invariants: `approval_data` says all that a token is for, and a token is its SHA-256; a bound
token's data ends with the operation in words, so that nobody can swap it under a signature;
records of every purpose (service, registration, second factor) differ, so that no signature
serves two of them. Layout: one 80-byte record per HSM, as CloudHSM's token files have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from types import MappingProxyType
from typing import Final

from orchestrator.model.entries import Record, encode_value
from orchestrator.model.errors import MalformedError, RefusedError
from orchestrator.model.key_spec import SignMechanism
from orchestrator.model.roles import Role
from orchestrator.model.services import VALUED_SERVICES, Service

VALUE_MAX: Final = 8
TOKENS_MAX: Final = 1024
TOKENS_PER_USER: Final = 128
LIFE_S: Final = 600
LIFE_S_MAX: Final = 24 * 60 * 60
WORDS_BYTES_MAX: Final = 1024
APPROVAL_DATA_BYTES_MAX: Final = 28 * 80 + WORDS_BYTES_MAX
REGISTRATION_BYTES_MAX: Final = 245
_RECORD: Final = Struct(">HHIQ16s32sQQ")
_ADMIN_FORM, _KEY_FORM, _BOUND_FORM = 1, 2, 3


_IDS: Final[Mapping[Service, int]] = MappingProxyType(
    {
        Service.USER: 3,  # to 6: CloudHSM's numbers; the others are ours
        Service.QUORUM: 4,
        Service.KEY_USAGE: 5,
        Service.KEY_MANAGEMENT: 6,
        Service.CLUSTER: 0x101,
        Service.REGISTRATION: 0x102,
        Service.KEY_DELETE: 0x103,
        Service.BACKUP_RESTORE: 0x104,
        Service.HSM_DELETE: 0x105,
        Service.CLUSTER_DELETE: 0x106,
        Service.SHARE_EXPORT: 0x107,
        Service.MFA: 0x108,
    }
)
_SERVICES: Final = {number: service for service, number in _IDS.items()}


class QuorumPolicy(Record):
    """The cluster's quorum values and how tokens live; a service not listed has the value 1, off.

    `bound_only` refuses tokens that are not bound to one operation; `guards_use` lets a key's
    use value guard decryption with RSA and derivation too; signing, MACs and AES it always guards.
    """

    values: tuple[tuple[Service, int], ...] = ()
    bound_only: bool = False
    guards_use: bool = False
    generated_s: int = LIFE_S
    approved_s: int = LIFE_S

    def value(self, service: Service) -> int:
        """Return how many approvals a service needs; 1 is none."""
        return dict(self.values).get(service, 1)

    def with_value(self, service: Service, value: int) -> tuple[tuple[Service, int], ...]:
        """Return the values with one replaced."""
        values = {**dict(self.values), service: value}
        return tuple((s, values[s]) for s in VALUED_SERVICES if values.get(s, 1) > 1)

    def highest(self) -> int:
        """Return the most approvals that any service needs."""
        return max((value for _, value in self.values), default=1)


class Token(Record):
    """A token that waits for its operation: it is gone once it is spent. Times in Unix ms.

    `version` is the requester's at issue: whatever ends the requester's logins ends the token.
    """

    service: Service
    ref: int
    name: str
    role: Role
    version: int
    login: str
    issued_at: int
    expires_at: int
    words: str


class UseGrant(Record):
    """One exact use of a key that was approved: it may be asked for, again too, until `until`."""

    ref: int
    name: str
    until: int


@dataclass(frozen=True, slots=True)
class ApprovalData:
    """What `approval_data` says. `words` is empty unless it is bound; times in Unix seconds."""

    service: Service
    ref: int
    requester: str
    issued_at_s: int
    words: str
    nonces: tuple[bytes, ...]
    number: int = 0

    def pack(self) -> bytes:
        """Return the bytes whose SHA-256 is the token."""
        words = self.words.encode()
        form = _BOUND_FORM if words else (_KEY_FORM if self.ref else _ADMIN_FORM)
        return b"".join(
            _RECORD.pack(
                form, _IDS[self.service], (self.number + place) % (1 << 32), self.ref, nonce,
                self.requester.encode(), self.issued_at_s, len(words),
            )
            for place, nonce in enumerate(self.nonces)
        ) + words  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> ApprovalData:
        """Return what the bytes say, or raise MalformedError; packing it gives the same bytes."""
        if not _RECORD.size <= len(data) <= APPROVAL_DATA_BYTES_MAX:
            raise MalformedError("approval_data exceeds its bounds")
        form, service, number, ref, _, name, issued, length = _RECORD.unpack_from(data)
        count, rest = divmod(len(data) - length, _RECORD.size)
        if length > WORDS_BYTES_MAX or rest or count < 1:
            raise MalformedError("approval_data is no row of 80-byte records")
        nonces = [_RECORD.unpack_from(data, i * _RECORD.size)[4] for i in range(count)]
        try:
            words = data[count * _RECORD.size :].decode()
            requester = name.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError as exc:
            raise MalformedError("approval_data holds words that are no text") from exc
        if service not in _SERVICES or not words.isprintable() or not requester.isprintable():
            raise MalformedError("approval_data is of no service that this software knows")
        parsed = cls(_SERVICES[service], ref, requester, issued, words, tuple(nonces), number)
        # One form for one meaning: what the records leave open must not differ between them.
        if parsed.pack() != data or form not in {_ADMIN_FORM, _KEY_FORM, _BOUND_FORM}:
            raise MalformedError("the records of approval_data contradict each other")
        return parsed


def token_of(approval_data: bytes) -> bytes:
    """Return the 32 bytes that approvers sign."""
    return hashlib.sha256(approval_data).digest()


def check_words(words: str) -> str:
    """Return `words` if they can bind a token: printable, and not too many."""
    if len(words.encode()) > WORDS_BYTES_MAX or not words.isprintable():
        raise RefusedError(
            "token-rule", f"an operation has at most {WORDS_BYTES_MAX} printable bytes of words"
        )
    return words


def possession_words(purpose: str, cluster: str, role: Role, name: str, hsm: str = "") -> str:
    """Return what a proof of possession is bound to: nobody can use it for anything else."""
    where = f" hsm={hsm}" if hsm else ""
    return f"{purpose} username={name} role={role} cluster={cluster}{where}"


def check_key_quorum(values: Sequence[int], associated: int) -> None:
    """Raise RefusedError unless a key with `associated` users (owner and shared) can have them."""
    if any(value and not 2 <= value <= min(VALUE_MAX, associated) for value in values):
        raise RefusedError("quorum-value", "Invalid quorum value provided.")


def use_digest(operation: str, ref: int, name: str, mechanism: object, data: bytes) -> bytes:
    """Return what names one use of a key by crypto user `name`: all that decides the result.

    One signature has one name, whether the HSM or who asks it makes the DigestInfo: a person
    approves a document, and the application's library chooses between the two.
    """
    if isinstance(mechanism, SignMechanism):
        mechanism, data = mechanism.raw(data)
    parts = (
        operation.encode(),
        ref.to_bytes(8, "big"),
        name.encode(),
        encode_value(mechanism),
        data,
    )
    hashed = hashlib.sha256(b"cloister/1 key use\0")
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()
