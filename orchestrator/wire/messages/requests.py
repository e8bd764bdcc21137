"""Requests to an HSM.

A request that acts for a user carries the user's `ticket` and `seen`, the highest seq that the
sender has heard of: an HSM behind it says so instead of answering from the past.
"""

from __future__ import annotations

import msgspec

from orchestrator.model.entries import Approval, Entry, Record
from orchestrator.model.errors import MalformedError
from orchestrator.model.objects import ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.wire.messages.changes import ChangeRequest
from orchestrator.wire.messages.joining import (
    CheckSnapshot,
    Download,
    JoinAccept,
    JoinChallenge,
    JoinGrant,
    JoinStart,
    RecoverAccept,
    RecoverStart,
    TakeSnapshot,
    Upload,
)
from orchestrator.wire.messages.key_use import (
    ChangeSessionKey,
    CopySessionKey,
    Decrypt,
    DeriveSessionKey,
    DropSessionKey,
    Encrypt,
    ImportSessionKey,
    ListKeys,
    Mac,
    MakeSessionKeys,
    Random,
    SealKey,
    SealUser,
    Sign,
    UnwrapSessionKey,
    VerifyMac,
    WrapKey,
)
from orchestrator.wire.messages.signed import SignedTries


class Hello(Record, tag=True):
    """Ask who is there; answered to anybody on the stream."""


class Factor(Record):
    """A second factor: what MfaChallenge answered at this HSM, and its signature."""

    approval_data: bytes
    signature: bytes


class Login(Record, tag=True):
    """Log in; `password` is sealed as in `password_info`."""

    name: str
    role: Role
    password: bytes
    factor: Factor | None = None


class MfaChallenge(Record, tag=True):
    """Ask for what the second factor of a user is to sign: good once, at this HSM."""

    name: str
    role: Role


class Renew(Record, tag=True):
    """Exchange a ticket, expired or not, for a fresh one (within 24 h of the login)."""

    ticket: bytes


class Prepare(Record, tag=True):
    """Do the token work of a change and sign it for the next place."""

    ticket: bytes
    request: str
    change: ChangeRequest
    seen: int
    approval: Approval | None = None


class Outcome(Record, tag=True):
    """Ask what a committed request id led to."""

    request: str


class Apply(Record, tag=True):
    """Offer entries in order; those already held are passed over."""

    entries: tuple[Entry, ...]


class Entries(Record, tag=True):
    """Ask for entries after `after`, as many as fit a frame."""

    after: int


class Digest(Record, tag=True):
    """Ask for the state digest, counted again from the stored rows when `recount`."""

    recount: bool = False


class EraseBodies(Record, tag=True):
    """Empty the bodies of entries up to a place that every member has passed; headers stay."""

    upto: int


class TellTries(Record, tag=True):
    """Wrong passwords: what other HSMs have counted, and which of this HSM's own they know."""

    reports: tuple[SignedTries, ...]
    known: tuple[SignedTries, ...] = ()


class ListUsers(Record, tag=True):
    """List users."""


class ListQuorum(Record, tag=True):
    """List quorum values, policy and tokens."""


class ListLoginTickets(Record, tag=True):
    """List the caller's login tickets; an admin sees everybody's."""

    ticket: bytes


class TakeLoginTicket(Record, tag=True):
    """Fetch the ticket of a login that the caller has issued."""

    ticket: bytes
    seen: int
    login: str


class ListMembers(Record, tag=True):
    """List members and admitted hosts."""


class ListObjects(Record, tag=True):
    """List certificates and data objects; the ticket is empty for those that are not private."""

    ticket: bytes
    seen: int
    filter: ObjectFilter
    offset: int = 0
    limit: int = 100


class Pending(Record, tag=True):
    """Ask which changes this HSM wants committed."""


class Zeroize(Record, tag=True):
    """Destroy all keys: obeyed by an HSM that has learnt of its removal, or was never member."""


class ReadAudit(Record, tag=True):
    """Read audit records from number `start` on."""

    ticket: bytes
    start: int
    limit: int = 500


Request = (
    Hello | Login | Renew | Prepare | Outcome | Apply | Entries | Digest | EraseBodies | TellTries
    | ListUsers | ListMembers | ListKeys | Sign | Encrypt | Decrypt | Mac | VerifyMac | Random
    | MakeSessionKeys | DeriveSessionKey | DropSessionKey
    | TakeSnapshot | CheckSnapshot | Upload | Download | JoinChallenge | JoinStart | JoinGrant
    | JoinAccept | RecoverStart | RecoverAccept | Pending | Zeroize | ReadAudit
    | MfaChallenge | ListQuorum | ListLoginTickets | TakeLoginTicket
    | ListObjects
    | ChangeSessionKey | WrapKey | UnwrapSessionKey | SealKey | SealUser
    | ImportSessionKey | CopySessionKey
)  # fmt: skip
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


def decode_request(data: bytes) -> Request:
    """Decode a request or raise MalformedError."""
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError(f"not a request that this HSM knows: {exc}") from exc
