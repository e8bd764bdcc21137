"""Changes of quorum keys, tokens, values and policy, and the approvals themselves."""

from __future__ import annotations

from orchestrator.model.entries.record import Record
from orchestrator.model.entries.users import Actor
from orchestrator.model.roles import Role
from orchestrator.model.services import Service


class ApprovalKeyRegistered(Record, tag="approval-key-registered"):
    """The actor's quorum key, with the proof that the actor holds its private half."""

    actor: Actor
    public: bytes
    approval_data: bytes
    signature: bytes


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
