"""Changes that an HSM can be asked to prepare."""

from __future__ import annotations

from orchestrator.model.entries import Record, SignedJoinRequest
from orchestrator.model.key_spec import Agreement, KeyClass, KeySpec
from orchestrator.model.objects import ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role


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


class ImportClearKey(Record, tag=True):
    """Make a token key of a value that its user gives, sealed as in `clear_key_info`.

    The value of a private key is PKCS#8 (DER).
    """

    spec: KeySpec
    draft: KeyDraft
    sealed: bytes


class KeyCopy(Record):
    """What a copy has of its own; None keeps the source's. Attributes only get tighter."""

    label: str | None = None
    id: bytes | None = None
    attributes: tuple[tuple[str, str], ...] = ()


class CopyKey(Record, tag=True):
    """Make a token key of the same value as a token key of the caller's."""

    ref: int
    copy: KeyCopy


class PutObject(Record, tag=True):
    """Store a certificate or a data object."""

    draft: ObjectDraft


class EditObject(Record, tag=True):
    """Change a certificate or data object."""

    ref: int
    edit: ObjectEdit


class DeleteObject(Record, tag=True):
    """Delete a certificate or data object."""

    ref: int


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
    | ImportClearKey
    | CopyKey
    | PutObject
    | EditObject
    | DeleteObject
)
