"""What an HSM answers."""

from __future__ import annotations

from typing import NoReturn

import msgspec

from orchestrator.model.entries import Credential, Entry, Record, SignedJoinRequest
from orchestrator.model.errors import MalformedError, OrchestratorError, RemoteError
from orchestrator.model.keys import Key
from orchestrator.model.objects import StoredObject
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.state import Phase
from orchestrator.wire.messages.changes import LockUser
from orchestrator.wire.messages.signed import SignedGrant, SignedTries


class Refusal(Record, tag=True):
    """The request failed; nothing changed."""

    code: str
    message: str
    exit_status: int
    retryable: bool


class Welcome(Record, tag=True):
    """Who an HSM is. `nonce` is this connection's; `credential` is None before it is a member.

    `at` is its clock in Unix ms; entries up to place `erased` have no bodies any more.
    """

    hsm: str
    host: str
    zone: str
    profile: str
    nonce: bytes
    identity: bytes
    box: bytes
    cluster: str
    mode: str
    phase: Phase | None
    seq: int
    head: bytes
    credential: Credential | None
    certificate: bytes
    csr: bytes
    removed: bool
    trouble: str
    at: int
    erased: int = 0


class Ticket(Record, tag=True):
    """A login's proof, to be sent with every request; `expires_at` in Unix ms."""

    ticket: bytes
    login: str
    expires_at: int
    seq: int


class Prepared(Record, tag=True):
    """An entry that nobody has committed yet."""

    entry: Entry


class Committed(Record, tag=True):
    """What an applied request led to: its place and the keys it made (without blobs).

    `data` is a quorum token's approval_data, or the id of a login that was lent.
    """

    seq: int
    kind: str
    keys: tuple[Key, ...] = ()
    data: bytes = b""


class Applied(Record, tag=True):
    """Where this HSM stands."""

    seq: int
    head: bytes


class EntryPage(Record, tag=True):
    """Entries in order; `base_seq` is the place before the first one this HSM has."""

    base_seq: int
    entries: tuple[Entry, ...]


class StateDigest(Record, tag=True):
    """The state digest at a place."""

    seq: int
    head: bytes
    digest: bytes
    counts: tuple[tuple[str, int], ...]


class UserView(Record):
    """A user as anybody may see it."""

    name: str
    role: Role
    locked: bool
    disabled: bool = False
    mfa: bool = False
    quorum: bool = False


class UserPage(Record, tag=True):
    """All users."""

    users: tuple[UserView, ...]


class TokenView(Record):
    """A quorum token that waits. Times in Unix ms; `words` is empty unless it is bound."""

    token: bytes
    service: Service
    ref: int
    name: str
    role: Role
    words: str
    issued_at: int
    expires_at: int
    approvals_required: int


class QuorumPage(Record, tag=True):
    """Quorum values of all services that have one (1 is off), policy, and tokens."""

    values: tuple[tuple[Service, int], ...]
    bound_only: bool
    guards_use: bool
    generated_s: int
    approved_s: int
    tokens: tuple[TokenView, ...]


class LoginTicketView(Record):
    """A login that a user has given to a Unix user, until `until` (Unix ms)."""

    login: str
    name: str
    role: Role
    uid: int
    until: int


class LoginTicketPage(Record, tag=True):
    """Login tickets."""

    tickets: tuple[LoginTicketView, ...]


class MemberView(Record):
    """A member HSM."""

    hsm: str
    host: str
    zone: str


class HostView(Record):
    """An admitted host and its key."""

    name: str
    key: bytes


class MemberPage(Record, tag=True):
    """Members and admitted hosts."""

    members: tuple[MemberView, ...]
    hosts: tuple[HostView, ...]
    recovery_threshold: int
    recovery_shares: int


class KeyPage(Record, tag=True):
    """Keys without blobs, and how many match in all."""

    keys: tuple[Key, ...]
    total: int


class ObjectPage(Record, tag=True):
    """Certificates and data objects, and how many match in all."""

    objects: tuple[StoredObject, ...]
    total: int


class Data(Record, tag=True):
    """Bytes: a signature, a ciphertext, a nonce, a piece of a blob."""

    data: bytes


class BlobReady(Record, tag=True):
    """A blob to be fetched, or one that has arrived whole."""

    blob: str
    size: int


class SnapshotChecked(Record, tag=True):
    """An opened backup had this digest, equal to its manifest's."""

    seq: int
    digest: bytes


class SignedJoin(Record, tag=True):
    """A joiner's request."""

    join: SignedJoinRequest


class Granted(Record, tag=True):
    """The grant, and the joiner's snapshot to be downloaded (empty for a clone)."""

    grant: SignedGrant
    blob: str


class Accepted(Record, tag=True):
    """The joiner holds the masking key durably; `receipt` is its identity's signature."""

    receipt: bytes
    seq: int
    digest: bytes


class PendingChanges(Record, tag=True):
    """Changes that an HSM wants committed, by request id, and tries that others must hear of."""

    changes: tuple[tuple[str, LockUser], ...]
    tries: tuple[SignedTries, ...] = ()


class AuditRecord(Record):
    """One line of the audit log; `prev` is the hash of the line before."""

    number: int
    at: int
    event: str
    actor: str
    subject: str
    outcome: str
    prev: bytes


class AuditPage(Record, tag=True):
    """Audit lines as stored bytes, and the signed head: count, hash, identity's signature."""

    records: tuple[bytes, ...]
    count: int
    head: bytes
    signature: bytes


class Done(Record, tag=True):
    """It is done, and there is nothing more to say."""


Reply = (
    Refusal | Welcome | Ticket | Prepared | Committed | Applied | EntryPage | StateDigest
    | UserPage | MemberPage | KeyPage | Data | BlobReady | SnapshotChecked | SignedJoin | Granted
    | Accepted | PendingChanges | AuditPage | Done | ObjectPage | QuorumPage | LoginTicketPage
)  # fmt: skip

_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def decode_reply(data: bytes) -> Reply:
    """Decode a reply or raise MalformedError."""
    try:
        return _reply_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError("the HSM's reply is not one that this software knows") from exc


def refusal_of(error: OrchestratorError) -> Refusal:
    """Return an error as a reply."""
    return Refusal(error.code, str(error), error.exit_status, error.retryable)


def raise_refusal(refusal: Refusal) -> NoReturn:
    """Raise a reply that is an error."""
    raise RemoteError(
        refusal.code,
        refusal.message,
        exit_status=refusal.exit_status,
        retryable=refusal.retryable,
    )
