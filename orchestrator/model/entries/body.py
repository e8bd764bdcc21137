"""What an entry's body says: a change of any kind, and the approvals that it spends."""

from __future__ import annotations

import msgspec

from orchestrator.model.entries.cluster import (
    ClusterActivated,
    ClusterClosed,
    ClusterCreated,
    ClusterInitialized,
    ClusterRestored,
    HostAdmitted,
    HostExpelled,
    HsmJoined,
    HsmRemoved,
    RecoveryKeySet,
)
from orchestrator.model.entries.keys import (
    KeyChanged,
    KeyDeleted,
    KeysCreated,
    KeyShared,
    KeysTransferred,
    KeyUnshared,
    ObjectCreated,
    ObjectDeleted,
    ObjectEdited,
    Replicated,
)
from orchestrator.model.entries.quorum import (
    Approval,
    ApprovalKeyRegistered,
    KeyUseApproved,
    QuorumPolicySet,
    QuorumTokenIssued,
    QuorumTokensDeleted,
    QuorumValueSet,
)
from orchestrator.model.entries.record import Record, encode
from orchestrator.model.entries.users import (
    LoginEnded,
    LoginTicketIssued,
    LoginTicketRevoked,
    MfaChanged,
    PasswordChanged,
    UserCreated,
    UserDeleted,
    UserDisabled,
    UserEnabled,
    UserLocked,
    UserUnlocked,
)
from orchestrator.model.errors import MalformedError

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


class ApprovedChange(Record, tag="approved"):
    """A body: a change and its approvals, which are spent with it."""

    change: Change
    approval: Approval


_body_decoder: msgspec.msgpack.Decoder[Change | ApprovedChange] = msgspec.msgpack.Decoder(
    Change | ApprovedChange
)


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
