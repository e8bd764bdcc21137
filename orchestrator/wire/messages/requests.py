"""Requests to an HSM.

A request that acts for a user carries the user's `ticket` and `seen`, the highest seq that the
sender has heard of: an HSM behind it says so instead of answering from the past.
"""

from __future__ import annotations

import msgspec

from orchestrator.model.entries import (
    Approval,
    Credential,
    Entry,
    Envelope,
    Record,
    SignedJoinRequest,
)
from orchestrator.model.errors import MalformedError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
)
from orchestrator.model.keys import KeyFilter
from orchestrator.model.objects import ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.wire.messages.changes import ChangeRequest, KeyCopy, KeyDraft
from orchestrator.wire.messages.signed import SignedGrant, SignedTries


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


class ListKeys(Record, tag=True):
    """List the caller's visible keys that match, a page at a time."""

    ticket: bytes
    seen: int
    filter: KeyFilter
    offset: int = 0
    limit: int = 10


class Sign(Record, tag=True):
    """Sign a digest, or what a raw mechanism takes."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: SignMechanism
    digest: bytes


class Encrypt(Record, tag=True):
    """Encrypt with an AES key."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: CipherMechanism
    plaintext: bytes


class Decrypt(Record, tag=True):
    """Open what Encrypt made, or what was encrypted to an RSA key's public half."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: CipherMechanism
    ciphertext: bytes


class Mac(Record, tag=True):
    """Make a MAC with an AES key or a generic secret."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: MacMechanism
    data: bytes


class VerifyMac(Record, tag=True):
    """Compare a MAC in the HSM: Done when it is right, refused when not.

    `length` says how many of its bytes count, 0 that all do: the verifier's choice, for whoever
    sends a shorter one must not make it so.
    """

    ticket: bytes
    seen: int
    ref: int
    mechanism: MacMechanism
    data: bytes
    mac: bytes
    length: int = 0


class Random(Record, tag=True):
    """Draw random bytes."""

    ticket: bytes
    count: int


class MakeSessionKeys(Record, tag=True):
    """Make keys that live on this HSM until log-out or the end of this connection."""

    ticket: bytes
    spec: KeySpec
    drafts: tuple[KeyDraft, ...]


class DeriveSessionKey(Record, tag=True):
    """As DeriveKeys, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    base: int
    agreement: Agreement
    spec: KeySpec
    draft: KeyDraft


class DropSessionKey(Record, tag=True):
    """Delete a session key."""

    ticket: bytes
    ref: int


class ImportSessionKey(Record, tag=True):
    """As ImportClearKey, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    spec: KeySpec
    draft: KeyDraft
    sealed: bytes


class CopySessionKey(Record, tag=True):
    """Copy a token key of the caller's to one that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    ref: int
    copy: KeyCopy


class ListObjects(Record, tag=True):
    """List certificates and data objects; the ticket is empty for those that are not private."""

    ticket: bytes
    seen: int
    filter: ObjectFilter
    offset: int = 0
    limit: int = 100


class ChangeSessionKey(Record, tag=True):
    """Change an attribute of a session key (CLI name and value)."""

    ticket: bytes
    ref: int
    name: str
    value: str


class SealKey(Record, tag=True):
    """Seal a token key as it is to an HSM of a clone, which proves itself; answered with Data."""

    ticket: bytes
    seen: int
    ref: int
    cluster: str
    credential: Credential


class SealUser(Record, tag=True):
    """As SealKey, for a user."""

    ticket: bytes
    seen: int
    name: str
    role: Role
    cluster: str
    credential: Credential


class WrapKey(Record, tag=True):
    """Wrap key `payload` under key `wrapper`; answered with Data."""

    ticket: bytes
    seen: int
    payload: int
    wrapper: int
    mechanism: WrapMechanism


class UnwrapSessionKey(Record, tag=True):
    """As UnwrapKey, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    unwrapper: int
    mechanism: WrapMechanism
    wrapped: bytes
    key_type: KeyType
    draft: KeyDraft


class TakeSnapshot(Record, tag=True):
    """Seal the state to the backup key; fetch it with Download. `reason` is for people."""

    id: str
    reason: str = ""


class CheckSnapshot(Record, tag=True):
    """Open an uploaded backup, restoring nothing, and compare its digest."""

    blob: str


class Upload(Record, tag=True):
    """Give a piece of a blob; the last piece completes it."""

    blob: str
    offset: int
    total: int
    data: bytes


class Download(Record, tag=True):
    """Fetch a piece of a blob."""

    blob: str
    offset: int


class JoinChallenge(Record, tag=True):
    """To a member: a fresh nonce for one join request."""


class JoinStart(Record, tag=True):
    """To an empty HSM: ask for admission to `cluster`, answering a member's challenge."""

    cluster: str
    challenge: bytes


class JoinGrant(Record, tag=True):
    """To a member: check a join request and encrypt the masking key to it."""

    join: SignedJoinRequest


class JoinAccept(Record, tag=True):
    """To the joiner: take the masking key, and the state from the uploaded snapshot."""

    grant: SignedGrant
    blob: str


class RecoverStart(Record, tag=True):
    """To an empty HSM: open a transport key for the recovery key."""


class RecoverAccept(Record, tag=True):
    """To an empty HSM: take the masking key out of a backup's envelope."""

    recovery_key: Envelope
    envelope: Envelope


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
