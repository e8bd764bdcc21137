"""What the control plane tells about its resources. Times are Unix milliseconds, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ClusterState(StrEnum):
    """CloudHSM v2 API cluster states that Cloister uses."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    UNINITIALIZED = "UNINITIALIZED"
    INITIALIZED = "INITIALIZED"
    ACTIVE = "ACTIVE"
    DEGRADED = "DEGRADED"
    DELETED = "DELETED"


class HsmState(StrEnum):
    """CloudHSM v2 API HSM states."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    ACTIVE = "ACTIVE"
    DEGRADED = "DEGRADED"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETED = "DELETED"


class BackupState(StrEnum):
    """CloudHSM v2 API backup states."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    READY = "READY"
    PENDING_DELETION = "PENDING_DELETION"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class HsmView:
    """One HSM. `seq` is None while it does not answer; `trouble` says why it is DEGRADED."""

    hsm_id: str
    cluster_id: str
    host: str
    availability_zone: str
    state: HsmState
    seq: int | None
    trouble: str


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One cluster and its HSMs. `warnings` and `restrictions` are sentences for the admin.

    What a mode restricts is a policy of these HSMs, no validation of a module.
    """

    cluster_id: str
    state: ClusterState
    hsm_type: str
    mode: str
    availability_zones: tuple[str, ...]
    created_at: int
    source_backup_id: str
    hsms: tuple[HsmView, ...]
    seq: int
    warnings: tuple[str, ...]
    restrictions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostView:
    """A host, its Ed25519 public key (32 bytes), and whether the cluster has admitted it."""

    host: str
    availability_zone: str
    key: bytes
    fingerprint: str
    is_admitted: bool


@dataclass(frozen=True, slots=True)
class BackupView:
    """A backup in the vault directory."""

    backup_id: str
    cluster_id: str
    state: BackupState
    hsm_type: str
    mode: str
    created_at: int
    delete_at: int | None
    seq: int
    digest: str
    size_bytes: int
    users: int
    keys: int
    recovery: str
    reason: str


@dataclass(frozen=True, slots=True)
class HsmCheck:
    """What `cluster verify` found at one HSM. `problem` is empty when all is well."""

    hsm_id: str
    seq: int | None
    digest: str
    audit_records: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`is_consistent`: every HSM answers, at one place with one digest, and no chain is broken."""

    cluster_id: str
    is_consistent: bool
    ledger_seq: int
    hsms: tuple[HsmCheck, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """A change is done: held by `held` of `members` HSMs; `missing` are those that lack it yet."""

    request: str
    seq: int
    held: int
    members: int
    missing: tuple[str, ...]
