"""Entries of a cluster's ledger: header, body, and every kind of change.

Invariants: the bytes that were signed are the bytes stored and sent; an entry's hash covers
header and signature; membership is in clear, everything else sealed under the seal key.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar, dataclass_transform

import msgspec

from orchestrator.model.errors import MalformedError
from orchestrator.model.keys import Key
from orchestrator.model.objects import ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role
from orchestrator.model.services import Service

FORMAT_VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 256 * 1024
NO_HASH: Final = bytes(32)
LOGIN_LIFE_MS: Final = 24 * 60 * 60 * 1000


@dataclass_transform(frozen_default=True)
class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all stored records: arrays in field order, nothing unknown let through."""


class Header(Record):
    """Place and authorship of a change. `at` is Unix time in milliseconds, never decreasing."""

    version: int
    cluster: str
    seq: int
    prev: bytes
    at: int
    kind: str
    request: str
    author: str
    body_hash: bytes


class Entry(Record):
    """A signed header and its body as bytes. The signature is ECDSA P-256, r || s."""

    header: bytes
    signature: bytes
    body: bytes

    @property
    def hash(self) -> bytes:
        """SHA-256 of header and signature: what the next header names as `prev`."""
        return hashlib.sha256(self.header + self.signature).digest()

    @property
    def is_erased(self) -> bool:
        """Its body was erased after a snapshot; the header keeps the chain."""
        return not self.body

    def is_whole(self, header: Header) -> bool:
        """Tell whether the body is the one that was signed, or erased."""
        return self.is_erased or hashlib.sha256(self.body).digest() == header.body_hash

    def parse_header(self) -> Header:
        """Return the header; raise MalformedError for bytes that are none, or another version."""
        if len(self.header) + len(self.body) > ENTRY_BYTES_MAX or len(self.signature) != 64:
            raise MalformedError("ledger entry exceeds its bounds")
        header = decode(Header, self.header, "ledger header")
        if header.version != FORMAT_VERSION:
            raise MalformedError(
                f"ledger entry {header.seq} has format version {header.version}, this software "
                f"knows {FORMAT_VERSION}; update it"
            )
        return header


class Actor(Record):
    """The user whose log-in the author HSM verified."""

    name: str
    role: Role


class Member(Record):
    """An HSM of a cluster: `identity` is DER SubjectPublicKeyInfo, `box` a P-256 point."""

    cluster: str
    hsm: str
    host: str
    zone: str
    identity: bytes
    box: bytes


class Credential(Record):
    """A Member and the cluster certificate key's signature (RSA PKCS#1 v1.5, SHA-256) over it."""

    member: bytes
    signature: bytes


class Rekey(Record):
    """New cluster secrets, boxed for each member: (HSM id, HPKE message)."""

    epoch: int
    boxes: tuple[tuple[str, bytes], ...]


class Envelope(Record):
    """The masking key encrypted to the recovery key: see `tokens.store.Transport`."""

    point: bytes
    wrapped: bytes


class Limits(Record):
    """Cluster limits, fixed at creation from the firmware profile."""

    users: int
    keys: int
    asymmetric_keys: int
    objects: int = 1024


class JoinRequest(Record):
    """What an HSM on a host asks of a member, signed by host key and identity.

    `transport` is the P-384 point to which the masking key is to be encrypted; `challenge` is
    the member's fresh nonce, so that a recorded request is worth nothing.
    """

    cluster: str
    hsm: str
    host: str
    zone: str
    identity: bytes
    box: bytes
    transport: bytes
    challenge: bytes


class SignedJoinRequest(Record):
    """A JoinRequest as bytes, with the host's Ed25519 and the HSM's ECDSA signature over it."""

    request: bytes
    host_signature: bytes
    identity_signature: bytes


class ClusterCreated(Record, tag="cluster-created"):
    """The first entry, by the first HSM."""

    hsm_type: str
    mode: str
    limits: Limits
    csr: bytes
    cluster_public: bytes
    certificate_key: bytes
    credential: Credential
    rekey: Rekey


class ClusterInitialized(Record, tag="cluster-initialized"):
    """The customer's CA has signed the cluster certificate (both DER)."""

    certificate: bytes
    trust_anchor: bytes


class ClusterActivated(Record, tag="cluster-activated"):
    """PRECO became admin; the first host is admitted; the backup key is made."""

    password_hash: str
    host: str
    host_key: bytes
    backup_public: bytes
    backup_key: bytes


class ClusterRestored(Record, tag="cluster-restored"):
    """A new cluster goes on from a backup's state, on HSMs of `hsm_type` (empty: as before)."""

    source_cluster: str
    source_backup: str
    source_digest: bytes
    credential: Credential
    host_key: bytes
    rekey: Rekey
    hsm_type: str = ""
    limits: Limits | None = None


class HostAdmitted(Record, tag="host-admitted"):
    """An admin lets HSMs on this host join; `key` is the host's Ed25519 public key (32 bytes)."""

    actor: Actor
    host: str
    key: bytes


class HostExpelled(Record, tag="host-expelled"):
    """No further HSM may join from this host."""

    actor: Actor
    host: str


class HsmJoined(Record, tag="hsm-joined"):
    """An HSM holds the masking key durably, by its own signature (`receipt`)."""

    join: SignedJoinRequest
    credential: Credential
    receipt: bytes


class HsmRemoved(Record, tag="hsm-removed"):
    """An HSM left; those who stay get new secrets. `compromised` also ends all logins."""

    hsm: str
    rekey: Rekey
    compromised: bool


class UserCreated(Record, tag="user-created"):
    """A new user with an Argon2id hash (PHC string)."""

    actor: Actor
    name: str
    role: Role
    password_hash: str


class UserDeleted(Record, tag="user-deleted"):
    """A user left, who owned no keys or whose keys go to crypto user `transfer_to`."""

    actor: Actor
    name: str
    role: Role
    transfer_to: str = ""


class PasswordChanged(Record, tag="password-changed"):
    """A new password: ends the user's logins, and unlocks."""

    actor: Actor
    name: str
    role: Role
    password_hash: str
    deregister_mfa: bool = False
    deregister_quorum: bool = False


class UserLocked(Record, tag="user-locked"):
    """The author counted the sixth wrong password."""

    name: str
    role: Role


class LoginEnded(Record, tag="login-ended"):
    """A log-out; remembered until the login's tickets could no longer be renewed (`until`, ms)."""

    actor: Actor
    login: str
    until: int


class KeysCreated(Record, tag="keys-created"):
    """New token keys, with `ref` 0; their references follow from the entry's place."""

    actor: Actor
    keys: tuple[Key, ...]


class KeyDeleted(Record, tag="key-deleted"):
    """A token key is gone from every HSM; backups still hold it."""

    actor: Actor
    ref: int


class KeyChanged(Record, tag="key-changed"):
    """An attribute of a token key has another value (CLI name and value)."""

    actor: Actor
    ref: int
    name: str
    value: str


class KeyShared(Record, tag="key-shared"):
    """Another crypto user may use a token key."""

    actor: Actor
    ref: int
    user: str


class KeyUnshared(Record, tag="key-unshared"):
    """A crypto user may use a token key no more."""

    actor: Actor
    ref: int
    user: str


class RecoveryKeySet(Record, tag="recovery-key-set"):
    """Backups carry the masking key encrypted to `point` (P-384), split `threshold` of `shares`."""

    actor: Actor
    point: bytes
    threshold: int
    shares: int


class UserUnlocked(Record, tag="user-unlocked"):
    """An admin ends a lock; password and logins stay."""

    actor: Actor
    name: str
    role: Role


class UserDisabled(Record, tag="user-disabled"):
    """A user may not log in, and all logins end; keys and password stay."""

    actor: Actor
    name: str
    role: Role


class UserEnabled(Record, tag="user-enabled"):
    """A disabled user may log in again."""

    actor: Actor
    name: str
    role: Role


class KeysTransferred(Record, tag="keys-transferred"):
    """All keys of crypto user `name` belong to crypto user `to`."""

    actor: Actor
    name: str
    to: str


class ApprovalKeyRegistered(Record, tag="approval-key-registered"):
    """The actor's quorum key, with the proof that the actor holds its private half."""

    actor: Actor
    public: bytes
    approval_data: bytes
    signature: bytes


class MfaChanged(Record, tag="mfa-changed"):
    """A second factor, proved as in ApprovalKeyRegistered; an empty `public` removes it.

    An empty `password_hash` leaves the password. Ends the user's logins.
    """

    actor: Actor
    name: str
    role: Role
    password_hash: str
    public: bytes
    approval_data: bytes
    signature: bytes
    change_quorum: bool


class QuorumTokenIssued(Record, tag="quorum-token-issued"):
    """The actor asks others to approve; `login` is the actor's."""

    actor: Actor
    login: str
    approval_data: bytes


class QuorumTokensDeleted(Record, tag="quorum-tokens-deleted"):
    """Tokens are withdrawn: the actor's, or all."""

    actor: Actor
    of_all: bool


class QuorumValueSet(Record, tag="quorum-value-set"):
    """How many approvals a service needs from now on; 1 is none."""

    actor: Actor
    service: Service
    value: int


class QuorumPolicySet(Record, tag="quorum-policy-set"):
    """See `quorum.QuorumPolicy`."""

    actor: Actor
    bound_only: bool
    guards_use: bool
    generated_s: int
    approved_s: int


class KeyUseApproved(Record, tag="key-use-approved"):
    """Approvals were spent on one exact use of a key; `request` is `quorum.use_digest`."""

    actor: Actor
    ref: int
    operation: str
    request: bytes


class Replica(Record):
    """A key or a user as one cluster of a family gives it to another: one of the two is empty.

    `key` and `user` are the rows as they are stored; `destination` is the HSM that asked.
    """

    source: str
    hsm: str
    destination_cluster: str
    destination: str
    at: int
    key: bytes = b""
    user: bytes = b""


class SignedReplica(Record):
    """A Replica as bytes, its HSM's signature, and what proves that HSM to a clone."""

    replica: bytes
    signature: bytes
    credential: Credential


class Replicated(Record, tag="replicated"):
    """A key or a user has come from a clone; the source's HSM signed it as it was there."""

    actor: Actor
    signed: SignedReplica


class LoginTicketIssued(Record, tag="login-ticket-issued"):
    """The actor lets Unix user `uid` log in as the actor, without second factor, until `until`."""

    actor: Actor
    login: str
    uid: int
    until: int


class LoginTicketRevoked(Record, tag="login-ticket-revoked"):
    """A login ticket is worth nothing any more."""

    actor: Actor
    login: str


class ObjectCreated(Record, tag="object-created"):
    """A new certificate or data object of the actor's."""

    actor: Actor
    draft: ObjectDraft


class ObjectEdited(Record, tag="object-edited"):
    """A certificate or data object has changed."""

    actor: Actor
    ref: int
    edit: ObjectEdit


class ObjectDeleted(Record, tag="object-deleted"):
    """A certificate or data object is gone from every HSM; backups still hold it."""

    actor: Actor
    ref: int


CLEAR_CHANGES: Final = (
    ClusterCreated, ClusterInitialized, ClusterRestored, HostAdmitted, HostExpelled, HsmJoined,
    HsmRemoved,
)  # fmt: skip
CLEAR_KINDS: Final = frozenset(str(kind.__struct_config__.tag) for kind in CLEAR_CHANGES)


class ClusterClosed(Record, tag="cluster-closed"):
    """The last HSM may go, and the cluster with it: only where a quorum must approve that."""


PeopleChange = (
    UserUnlocked
    | UserDisabled
    | UserEnabled
    | KeysTransferred
    | ApprovalKeyRegistered
    | MfaChanged
    | QuorumTokenIssued
    | QuorumTokensDeleted
    | QuorumValueSet
    | QuorumPolicySet
    | KeyUseApproved
    | LoginTicketIssued
    | LoginTicketRevoked
)
Change = (
    ClusterCreated
    | ClusterInitialized
    | ClusterActivated
    | ClusterRestored
    | HostAdmitted
    | HostExpelled
    | HsmJoined
    | HsmRemoved
    | UserCreated
    | UserDeleted
    | PasswordChanged
    | UserLocked
    | LoginEnded
    | KeysCreated
    | KeyDeleted
    | RecoveryKeySet
    | PeopleChange
    | ClusterClosed
    | ObjectCreated
    | ObjectEdited
    | ObjectDeleted
    | KeyChanged
    | KeyShared
    | KeyUnshared
    | Replicated
)


class ApproverSignature(Record):
    """One approver's signature over a token."""

    name: str
    role: Role
    signature: bytes


class Approval(Record):
    """Approvals of the change that they travel with.

    `data` is the approval_data of what no ledger row stands for: a restore is approved before
    there is a ledger that goes on.
    """

    token: bytes
    signatures: tuple[ApproverSignature, ...]
    data: bytes = b""


class ApprovedChange(Record, tag="approved"):
    """A body: a change and its approvals, which are spent with it."""

    change: Change
    approval: Approval


T = TypeVar("T", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()
_body_decoder: msgspec.msgpack.Decoder[Change | ApprovedChange] = msgspec.msgpack.Decoder(
    Change | ApprovedChange
)


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


def encode_body(change: Change, approval: Approval | None) -> bytes:
    """Encode a body: the change, and its approvals where it has any."""
    return encode(change if approval is None else ApprovedChange(change, approval))


def decode_body(data: bytes) -> tuple[Change, Approval | None]:
    """Decode a body after unsealing."""
    try:
        body = _body_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError("these bytes are no change that this software knows") from exc
    return (body.change, body.approval) if isinstance(body, ApprovedChange) else (body, None)


def kind_of(change: Change) -> str:
    """Return the change's tag."""
    return str(change.__struct_config__.tag)
