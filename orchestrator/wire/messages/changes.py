"""Changes that an HSM can be asked to prepare."""

from __future__ import annotations

from orchestrator.model.entries import Record, SignedJoinRequest
from orchestrator.model.key_spec import Agreement, KeyClass, KeySpec, KeyType
from orchestrator.model.objects import ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.wrap_mechanism import WrapMechanism


class KeyDraft(Record):
    """One key object to make: attributes and templates are CLI names and values."""

    key_class: KeyClass
    label: str
    attributes: tuple[tuple[str, str], ...] = ()
    shared: tuple[str, ...] = ()
    wrap_template: tuple[tuple[str, str], ...] = ()
    unwrap_template: tuple[tuple[str, str], ...] = ()
    manage_quorum: int = 0
    use_quorum: int = 0


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
    """Delete a user who owns no keys, or whose keys `transfer_to` gets."""

    name: str
    role: Role
    transfer_to: str = ""


class ChangePassword(Record, tag=True):
    """Set a password: one's own, or as admin anybody's, which also unlocks."""

    name: str
    role: Role
    password: bytes
    deregister_mfa: bool = False
    deregister_quorum: bool = False


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


class UnlockUser(Record, tag=True):
    """End a lock."""

    name: str
    role: Role


class DisableUser(Record, tag=True):
    """Let a user log in no more."""

    name: str
    role: Role


class EnableUser(Record, tag=True):
    """Let a disabled user log in again."""

    name: str
    role: Role


class TransferKeys(Record, tag=True):
    """Give all keys of one crypto user to another."""

    name: str
    to: str


class RegisterApprovalKey(Record, tag=True):
    """Register the caller's quorum key, with proof of possession."""

    public: bytes
    approval_data: bytes
    signature: bytes


class ChangeMfa(Record, tag=True):
    """Set a second factor, or remove it when `public` is empty.

    `password` is sealed as in `password_info`; empty leaves it as it is.
    """

    name: str
    role: Role
    password: bytes
    public: bytes = b""
    approval_data: bytes = b""
    signature: bytes = b""
    change_quorum: bool = False


class IssueToken(Record, tag=True):
    """Make a quorum token; `words` bind it to one operation (`guards.words_of`)."""

    service: Service
    ref: int = 0
    words: str = ""


class DeleteTokens(Record, tag=True):
    """Withdraw the caller's quorum tokens, or everybody's."""

    of_all: bool


class SetQuorumValue(Record, tag=True):
    """Set how many approvals a service needs."""

    service: Service
    value: int


class SetQuorumPolicy(Record, tag=True):
    """See `quorum.QuorumPolicy`."""

    bound_only: bool
    guards_use: bool
    generated_s: int
    approved_s: int


class ApproveKeyUse(Record, tag=True):
    """Spend approvals on one exact use of a key, named by `quorum.use_digest`."""

    ref: int
    operation: str
    request: bytes


class IssueLoginTicket(Record, tag=True):
    """Let a Unix user log in as the caller, without second factor, until `until` (Unix ms)."""

    uid: int
    until: int


class RevokeLoginTicket(Record, tag=True):
    """End a login ticket."""

    login: str


class CloseCluster(Record, tag=True):
    """Let the last HSM go; see `entries.ClusterClosed`."""


PeopleRequest = (
    UnlockUser
    | DisableUser
    | EnableUser
    | TransferKeys
    | RegisterApprovalKey
    | ChangeMfa
    | IssueToken
    | DeleteTokens
    | SetQuorumValue
    | SetQuorumPolicy
    | ApproveKeyUse
    | IssueLoginTicket
    | RevokeLoginTicket
)


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


class ChangeKey(Record, tag=True):
    """Change an attribute of a token key (CLI name and value)."""

    ref: int
    name: str
    value: str


class ShareKey(Record, tag=True):
    """Let another crypto user use a token key."""

    ref: int
    user: str


class UnshareKey(Record, tag=True):
    """Let a crypto user use a token key no more."""

    ref: int
    user: str


class KeepSessionKey(Record, tag=True):
    """Make a session key of this login and HSM a token key; the session key is gone then."""

    ref: int


class UnwrapKey(Record, tag=True):
    """Make a token key of one that was wrapped outside under key `unwrapper`."""

    unwrapper: int
    mechanism: WrapMechanism
    wrapped: bytes
    key_type: KeyType
    draft: KeyDraft


class ImportPublicKey(Record, tag=True):
    """Make a token key of an RSA or EC public key (PEM or DER SubjectPublicKeyInfo)."""

    public: bytes
    draft: KeyDraft


class TakeReplica(Record, tag=True):
    """Take a key or a user that an HSM of the clone `source` has sealed to this HSM."""

    source: str
    sealed: bytes
    of_user: bool = False


NewKeyRequest = (
    GenerateKeys
    | DeriveKeys
    | UnwrapKey
    | ImportPublicKey
    | KeepSessionKey
    | ImportClearKey
    | CopyKey
)
KeyRequest = NewKeyRequest | DeleteKey | ChangeKey | ShareKey | UnshareKey | TakeReplica
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
    | SetRecoveryKey
    | KeyRequest
    | PeopleRequest
    | CloseCluster
    | PutObject
    | EditObject
    | DeleteObject
)
