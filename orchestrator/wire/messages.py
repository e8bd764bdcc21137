"""Requests to an HSM and its replies: tagged msgpack arrays, nothing unknown let through.

A request that acts for a user carries the user's `ticket` and `seen`, the highest seq that the
sender has heard of: an HSM behind it says so instead of answering from the past.
"""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model.entries import Credential, Entry, Envelope, Record, SignedJoinRequest
from orchestrator.model.errors import MalformedError, OrchestratorError, RemoteError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    KeyClass,
    KeySpec,
    MacMechanism,
    SignMechanism,
)
from orchestrator.model.keys import Key, KeyFilter
from orchestrator.model.roles import Role
from orchestrator.model.state import Phase

BLOB_PIECE_BYTES: Final = 512 * 1024
ENTRIES_PER_FRAME: Final = 512
KEYS_PER_PAGE_MAX: Final = 1000
PLAINTEXT_BYTES_MAX: Final = 512 * 1024

# --- changes that can be asked for -----------------------------------------------------------


class KeyDraft(Record):
    """One key object to make: `attributes` are CLI names and values."""

    key_class: KeyClass
    label: str
    attributes: tuple[tuple[str, str], ...] = ()


class CreateCluster(Record, tag=True):
    """Make this empty HSM the first of a new cluster."""

    cluster: str
    mode: str


class InitializeCluster(Record, tag=True):
    """Give the cluster the certificate that the customer's CA signed (PEM or DER)."""

    certificate: bytes
    trust_anchor: bytes


class ActivateCluster(Record, tag=True):
    """Set the first admin's password (sealed as in `password_info`)."""

    password: bytes


class RestoreCluster(Record, tag=True):
    """Go on from the uploaded backup as a new cluster; the masking key is here already."""

    cluster: str
    blob: str


class AdmitHost(Record, tag=True):
    """Let HSMs on a host join."""

    host: str
    key: bytes


class ExpelHost(Record, tag=True):
    """Let no further HSM of a host join."""

    host: str


class JoinHsm(Record, tag=True):
    """Make an HSM that holds the masking key a member."""

    join: SignedJoinRequest
    receipt: bytes


class RemoveHsm(Record, tag=True):
    """End a membership and give the others new secrets; `compromised` ends all logins too."""

    hsm: str
    compromised: bool = False


class CreateUser(Record, tag=True):
    """Make a user; the password is sealed as in `password_info`."""

    name: str
    role: Role
    password: bytes


class DeleteUser(Record, tag=True):
    """Delete a user who owns no keys."""

    name: str
    role: Role


class ChangePassword(Record, tag=True):
    """Set a password: one's own, or as admin anybody's, which also unlocks."""

    name: str
    role: Role
    password: bytes


class EndLogin(Record, tag=True):
    """Log out: the ticket's login ends on every HSM."""


class LockUser(Record, tag=True):
    """Carry out a lock that this HSM has counted; refused when it has not."""

    name: str
    role: Role


class GenerateKeys(Record, tag=True):
    """Make one secret key, or a pair given as public and private draft."""

    spec: KeySpec
    drafts: tuple[KeyDraft, ...]


class DeriveKeys(Record, tag=True):
    """Make a secret key of an EC token key and a peer's point."""

    base: int
    agreement: Agreement
    spec: KeySpec
    draft: KeyDraft


class DeleteKey(Record, tag=True):
    """Delete a token key."""

    ref: int


class SetRecoveryKey(Record, tag=True):
    """Let backups carry a recovery envelope for this P-384 point."""

    point: bytes
    threshold: int
    shares: int


ChangeRequest = (
    CreateCluster
    | InitializeCluster
    | ActivateCluster
    | RestoreCluster
    | AdmitHost
    | ExpelHost
    | JoinHsm
    | RemoveHsm
    | CreateUser
    | DeleteUser
    | ChangePassword
    | EndLogin
    | LockUser
    | GenerateKeys
    | DeriveKeys
    | DeleteKey
    | SetRecoveryKey
)


class Tries(Record):
    """Wrong passwords that one HSM has counted for one version of a user; `last_at` in Unix ms.

    `resets` rises with a right password that ends a count; only reports of the highest count.
    """

    hsm: str
    role: Role
    name: str
    version: int
    resets: int
    count: int
    last_at: int


class SignedTries(Record):
    """A Tries as bytes, and its HSM's signature: nobody else can lock a user, or unlock one."""

    tries: bytes
    signature: bytes


class Grant(Record):
    """A member's answer to one join request, signed by its identity."""

    request: bytes
    point: bytes
    wrapped: bytes
    snapshot: bytes


class SignedGrant(Record):
    """A Grant as bytes, its signature, and the chain from the member to the trust anchor."""

    grant: bytes
    signature: bytes
    cluster: str
    credential: Credential
    certificate: bytes
    trust_anchor: bytes


# --- requests --------------------------------------------------------------------------------


class Hello(Record, tag=True):
    """Ask who is there; answered to anybody on the stream."""


class Login(Record, tag=True):
    """Log in; `password` is sealed as in `password_info`."""

    name: str
    role: Role
    password: bytes


class Renew(Record, tag=True):
    """Exchange a ticket, expired or not, for a fresh one (within 24 h of the login)."""

    ticket: bytes


class Prepare(Record, tag=True):
    """Do the token work of a change and sign it for the next place."""

    ticket: bytes
    request: str
    change: ChangeRequest
    seen: int


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
    """Sign a digest."""

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
    """Compare a MAC in the HSM: Done when it is right, refused when not."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: MacMechanism
    data: bytes
    mac: bytes


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
)  # fmt: skip

# --- replies ---------------------------------------------------------------------------------


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
    """What an applied request led to: its place and the keys it made (without blobs)."""

    seq: int
    kind: str
    keys: tuple[Key, ...] = ()


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


class UserPage(Record, tag=True):
    """All users."""

    users: tuple[UserView, ...]


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
    | Accepted | PendingChanges | AuditPage | Done
)  # fmt: skip

_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def decode_request(data: bytes) -> Request:
    """Decode a request or raise MalformedError."""
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError(f"not a request that this HSM knows: {exc}") from exc


def decode_reply(data: bytes) -> Reply:
    """Decode a reply or raise MalformedError."""
    try:
        return _reply_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError("the HSM's reply is not one that this software knows") from exc


def refusal_of(error: OrchestratorError) -> Refusal:
    """Return an error as a reply."""
    return Refusal(error.code, str(error), error.exit_status, error.retryable)


def raise_refusal(refusal: Refusal) -> None:
    """Raise a reply that is an error."""
    raise RemoteError(
        refusal.code,
        refusal.message,
        exit_status=refusal.exit_status,
        retryable=refusal.retryable,
    )


def password_info(purpose: str, hsm: str, nonce: bytes, role: str, name: str) -> bytes:
    """Return what binds a sealed password to purpose, HSM, connection and user.

    The connection's nonce makes a recorded message worthless on any other connection.
    """
    return f"cloister/1 {purpose} {hsm} {role} {name} ".encode() + nonce


def box_info(epoch: int, cluster: str) -> bytes:
    """Return what binds the boxes of a rekeying entry."""
    return f"cloister/1 rekey {epoch} {cluster}".encode()
