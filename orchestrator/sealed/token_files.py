"""The JSON files that approvers pass round: CloudHSM's formats, and login tickets.

Invariants: a file is bounded before it is read; a token in a file is the SHA-256 of the data
beside it, or the file is refused; what a file says of itself decides nothing at an HSM.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar

import msgspec

from orchestrator.model.approvals import SIGNATURES_MAX
from orchestrator.model.entries import Approval, ApproverSignature
from orchestrator.model.errors import MalformedError, RefusedError
from orchestrator.model.quorum import APPROVAL_DATA_BYTES_MAX, ApprovalData, token_of
from orchestrator.model.roles import Role
from orchestrator.model.services import KEY_SERVICES, Service
from orchestrator.model.ssh_signature import SIGNATURE_BYTES_MAX

FILE_BYTES_MAX: Final = 512 * 1024
PARTS_MAX: Final = 28
VERSION: Final = "2.0"
T = TypeVar("T", bound=msgspec.Struct)


class _Signature(msgspec.Struct, omit_defaults=True):
    username: str
    signature: str
    role: str = ""


class _Token(msgspec.Struct, omit_defaults=True):
    version: str
    approval_data: str
    token: str
    signatures: list[_Signature]
    service: str = ""
    key_reference: str = ""


class _Part(msgspec.Struct, omit_defaults=True):
    unsigned: str
    signed: str
    approval_data: str = ""


class _Parts(msgspec.Struct):
    version: str
    tokens: list[_Part]


class _Ticket(msgspec.Struct):
    version: str
    cluster_id: str
    username: str
    role: str
    uid: int
    until: int
    login: str
    ticket: str


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str, what: str, limit: int) -> bytes:
    if len(text) > limit * 4 // 3 + limit // 16 + 64:  # base64, and its line ends
        raise MalformedError(f"{what} exceeds its bounds")
    if text.lstrip().startswith("-----BEGIN SSH SIGNATURE-----"):
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedError(f"{what} is not base64") from exc


def _read(kind: type[T], data: bytes, what: str) -> T:
    if len(data) > FILE_BYTES_MAX:
        raise MalformedError(f"a {what} has at most {FILE_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError(f"this is no {what}: {exc}") from exc


def _write(struct: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(struct), indent=2) + b"\n"


@dataclass(frozen=True, slots=True)
class FileSignature:
    """One approver's signature in a token file."""

    username: str
    signature: bytes
    role: Role


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A quorum token and the approvals that it has got."""

    data: ApprovalData
    signatures: tuple[FileSignature, ...] = ()

    @property
    def approval_data(self) -> bytes:
        """Return the bytes that the token is the hash of."""
        return self.data.pack()

    @property
    def token(self) -> bytes:
        """Return the 32 bytes that are signed."""
        return token_of(self.approval_data)

    @property
    def service(self) -> Service:
        """Return what guards the operation."""
        return self.data.service

    @property
    def key_reference(self) -> int:
        """Return the key, 0 for admin services."""
        return self.data.ref

    @property
    def words(self) -> str:
        """Return the operation that the token is bound to, empty if it is to none."""
        return self.data.words

    @property
    def requester(self) -> str:
        """Return who asks."""
        return self.data.requester

    @property
    def issued_at(self) -> int:
        """Return when it was made, in Unix seconds."""
        return self.data.issued_at_s

    @property
    def approval(self) -> Approval:
        """Return what travels with the change."""
        signatures = tuple(
            ApproverSignature(s.username, s.role, s.signature) for s in self.signatures
        )
        return Approval(self.token, signatures, self.approval_data)

    def signed_by(self, username: str, role: Role, signature: bytes) -> Self:
        """Return the file with one approval more; a person's earlier one goes."""
        kept = [s for s in self.signatures if (s.username, s.role) != (username, role)]
        return replace(self, signatures=(*kept, FileSignature(username, signature, role)))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a file, or raise MalformedError."""
        read = _read(_Token, data, "quorum token file")
        approval_data = _bytes(read.approval_data, "approval_data", APPROVAL_DATA_BYTES_MAX)
        parsed = ApprovalData.parse(approval_data)
        if _bytes(read.token, "token", 32) != token_of(approval_data):
            raise MalformedError(
                "the token is not the SHA-256 of approval_data: the file was edited"
            )
        if read.service not in {"", parsed.service}:
            raise MalformedError(f"the file says {read.service}, its data says {parsed.service}")
        if len(read.signatures) > SIGNATURES_MAX:
            raise MalformedError(f"a token file has at most {SIGNATURES_MAX} signatures")
        usual = Role.CRYPTO_USER if parsed.service in KEY_SERVICES else Role.ADMIN
        try:
            signatures = tuple(
                FileSignature(
                    s.username.lower(),
                    _bytes(s.signature, "a signature", SIGNATURE_BYTES_MAX),
                    Role(s.role) if s.role else usual,
                )
                for s in read.signatures
            )
        except ValueError as exc:
            raise MalformedError("a signature is of a role that does not approve") from exc
        return cls(parsed, signatures)

    def pack(self) -> bytes:
        """Return the file's JSON: key services name service, key and roles, as CloudHSM's do."""
        of_key = self.service in KEY_SERVICES
        is_ours = of_key or bool(self.words)
        return _write(
            _Token(
                VERSION,
                _text(self.approval_data),
                _text(self.token),
                [
                    _Signature(s.username, _text(s.signature), s.role if is_ours else "")
                    for s in self.signatures
                ],
                str(self.service) if is_ours else "",
                f"0x{self.key_reference:016x}" if of_key else "",
            )
        )


@dataclass(frozen=True, slots=True)
class Possession:
    """What a key is proved with: the data, and the signature over its SHA-256."""

    data: ApprovalData
    signed: bytes = b""

    @property
    def unsigned(self) -> bytes:
        """Return the 32 bytes that are signed."""
        return token_of(self.data.pack())


@dataclass(frozen=True, slots=True)
class PossessionFile:
    """A registration (one part), or a second factor's set-up or log-in (one part an HSM)."""

    parts: tuple[Possession, ...]

    def signed(self, sign: Callable[[bytes], bytes]) -> Self:
        """Return the file with every part signed."""
        return replace(self, parts=tuple(replace(p, signed=sign(p.unsigned)) for p in self.parts))

    def complete(self) -> Self:
        """Return the file if every part is signed, else raise RefusedError."""
        if missing := sum(1 for part in self.parts if not part.signed):
            raise RefusedError("unsigned", f"{missing} of {len(self.parts)} parts are not signed")
        return self

    @classmethod
    def parse(cls, data: bytes, issued: Self | None = None) -> Self:
        """Read a file, or raise MalformedError.

        Args:
            data: JSON; `approval_data` may be left out of parts that `issued` has.
            issued: what was written for signing.
        """
        read = _read(_Parts, data, "token file")
        if not 1 <= len(read.tokens) <= PARTS_MAX:
            raise MalformedError(f"a token file has 1 to {PARTS_MAX} parts")
        known = {part.unsigned: part.data for part in issued.parts} if issued else {}
        return cls(tuple(_possession(part, known) for part in read.tokens))

    def pack(self) -> bytes:
        """Return the file's JSON."""
        parts = [
            _Part(_text(p.unsigned), _text(p.signed), _text(p.data.pack())) for p in self.parts
        ]
        return _write(_Parts(VERSION, parts))


def _possession(part: _Part, known: Mapping[bytes, ApprovalData]) -> Possession:
    unsigned = _bytes(part.unsigned, "unsigned", 32)
    signed = _bytes(part.signed, "signed", SIGNATURE_BYTES_MAX)
    if not part.approval_data:
        if unsigned not in known:
            raise MalformedError("a part lacks approval_data, and is not one that was written here")
        return Possession(known[unsigned], signed)
    packed = _bytes(part.approval_data, "approval_data", APPROVAL_DATA_BYTES_MAX)
    if token_of(packed) != unsigned:
        raise MalformedError("unsigned is not the SHA-256 of approval_data: the file was edited")
    return Possession(ApprovalData.parse(packed), signed)


@dataclass(frozen=True, slots=True, repr=False)
class LoginTicketFile:
    """A login that a user has lent to a Unix user, until `until` (Unix ms). It is a secret."""

    cluster_id: str
    username: str
    role: Role
    uid: int
    until: int
    login: str
    ticket: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a file, or raise MalformedError."""
        read = _read(_Ticket, data, "login ticket file")
        if read.version != VERSION:
            raise MalformedError(f"this login ticket file has format version {read.version}")
        try:
            role = Role(read.role)
        except ValueError as exc:
            raise MalformedError("a login ticket is of a role that logs in") from exc
        ticket = _bytes(read.ticket, "ticket", SIGNATURE_BYTES_MAX)
        return cls(read.cluster_id, read.username, role, read.uid, read.until, read.login, ticket)

    def pack(self) -> bytes:
        """Return the file's JSON."""
        return _write(
            _Ticket(
                VERSION, self.cluster_id, self.username, str(self.role), self.uid, self.until,
                self.login, _text(self.ticket),
            )
        )  # fmt: skip
