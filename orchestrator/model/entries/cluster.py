"""Changes of a cluster: its life, its HSMs and their hosts."""

from __future__ import annotations

from typing import Final

from orchestrator.model.entries.record import Record
from orchestrator.model.entries.users import Actor


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


class RecoveryKeySet(Record, tag="recovery-key-set"):
    """Backups carry the masking key encrypted to `point` (P-384), split `threshold` of `shares`."""

    actor: Actor
    point: bytes
    threshold: int
    shares: int


CLEAR_CHANGES: Final = (
    ClusterCreated, ClusterInitialized, ClusterRestored, HostAdmitted, HostExpelled, HsmJoined,
    HsmRemoved,
)  # fmt: skip
CLEAR_KINDS: Final = frozenset(str(kind.__struct_config__.tag) for kind in CLEAR_CHANGES)


class ClusterClosed(Record, tag="cluster-closed"):
    """The last HSM may go, and the cluster with it: only where a quorum must approve that."""
