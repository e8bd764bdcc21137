"""Asking others to approve, and setting how many must: what a logged-in user does about quorum."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

from orchestrator.client.session import Session
from orchestrator.control.controller import Controller, Outcome
from orchestrator.control.views import ChangeReport
from orchestrator.model import entries as e
from orchestrator.model.errors import MalformedError, RefusedError, TamperedError, UsageError
from orchestrator.model.factor_decisions import MFA_ENROLMENT, REGISTRATION
from orchestrator.model.guards import service_of, words_of
from orchestrator.model.key_spec import SignMechanism
from orchestrator.model.quorum import (
    ApprovalData,
    QuorumPolicy,
    possession_words,
    use_digest,
)
from orchestrator.model.roles import Role
from orchestrator.model.services import KEY_SERVICES, Service
from orchestrator.model.ssh_signature import parse_public_key
from orchestrator.sealed.token_files import Possession, PossessionFile, TokenFile
from orchestrator.wire import messages as m

SCOPES: Final = ("user", "all")


class Carry(Protocol):
    """Carries a change in the user's name to its outcome."""

    def __call__(
        self,
        change: m.ChangeRequest,
        request: str | None = None,
        approval: TokenFile | None = None,
    ) -> Outcome:
        """Raise as `Controller.change` does."""


def possession(
    service: Service, cluster: str, role: Role, name: str, now_s: int, hsm: str = ""
) -> Possession:
    """Return what to sign as proof of a key: to register it, or to make it a second factor."""
    purpose = REGISTRATION if service is Service.REGISTRATION else MFA_ENROLMENT
    words = possession_words(purpose, cluster, role, name, hsm)
    return Possession(ApprovalData(service, 0, name, now_s, words, (os.urandom(16),)))


def restore_request(backup: str, requester: str, now_s: int) -> TokenFile:
    """Return a token for restoring a backup, for its own admins to approve: needs no HSM."""
    words = f"backup restore backup={backup}"
    service = Service.BACKUP_RESTORE
    return TokenFile(ApprovalData(service, 0, requester, now_s, words, (os.urandom(16),)))


class QuorumChanges:
    """Quorum in one user's name."""

    def __init__(
        self,
        controller: Controller,
        session: Session,
        carry: Carry,
        now_s: Callable[[], int],
    ) -> None:
        self._controller, self._session, self._carry = controller, session, carry
        self._now_s = now_s

    @property
    def actor(self) -> e.Actor:
        """The user as changes name it, for drafts of `request`."""
        return e.Actor(self._session.name, self._session.role)

    def generate(self, service: Service, key_reference: int = 0) -> TokenFile:
        """Make a token that approves one operation of a service."""
        if (service in KEY_SERVICES) != (key_reference != 0):
            raise UsageError("a token of a key service, and no other, names a key")
        return self._issue(m.IssueToken(service, key_reference))

    def request(self, draft: e.Change) -> TokenFile:
        """Make a token that is bound to the operation which `draft` describes.

        Args:
            draft: the change as it will be; passwords and other results of an HSM's work are
                no part of the words, and left empty.
        """
        policy = self._policy()
        service, ref = service_of(draft, policy)
        words = words_of(draft)
        if service is None or not words:
            raise RefusedError("not-guarded", "no quorum can guard this operation")
        made = self._issue(m.IssueToken(service, ref, words))
        if made.words != words:
            raise TamperedError("the HSM made a token for another operation")
        return made

    def _policy(self) -> QuorumPolicy:
        page = self._controller.ask_best(m.ListQuorum(), m.QuorumPage)
        return QuorumPolicy(
            page.values, page.bound_only, page.guards_use, page.generated_s, page.approved_s
        )

    def _issue(self, change: m.IssueToken) -> TokenFile:
        outcome = self._carry(change)
        try:
            data = ApprovalData.parse(outcome.data)
        except MalformedError as exc:
            raise RefusedError("token-gone", "the token is no longer known; make another") from exc
        if (data.service, data.ref, data.requester) != (
            change.service, change.ref, self._session.name
        ):  # fmt: skip
            raise TamperedError("the HSM made another token than was asked for")
        return TokenFile(data)

    def set_value(
        self,
        service: Service,
        value: int,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Set how many approvals a service needs; 1 is none."""
        return self._carry(m.SetQuorumValue(service, value), request, approval).report

    def set_policy(  # the fields of a policy
        self,
        *,
        bound_only: bool | None = None,
        guards_use: bool | None = None,
        generated_s: int | None = None,
        approved_s: int | None = None,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Set what tokens must be like and how long they live; None leaves as it is."""
        draft = self.policy_draft(bound_only, guards_use, generated_s, approved_s)
        change = m.SetQuorumPolicy(
            draft.bound_only, draft.guards_use, draft.generated_s, draft.approved_s
        )
        return self._carry(change, request, approval).report

    def policy_draft(
        self,
        bound_only: bool | None,  # None leaves as it is
        guards_use: bool | None,
        generated_s: int | None,
        approved_s: int | None,
    ) -> e.QuorumPolicySet:
        """Return a change of policy, filled up with what the policy is now."""
        now = self._policy()
        return e.QuorumPolicySet(
            self.actor,
            now.bound_only if bound_only is None else bound_only,
            now.guards_use if guards_use is None else guards_use,
            now.generated_s if generated_s is None else generated_s,
            now.approved_s if approved_s is None else approved_s,
        )

    def delete_tokens(self, scope: str, *, request: str | None = None) -> ChangeReport:
        """Withdraw one's own tokens (`user`), or everybody's (`all`)."""
        if scope not in SCOPES:
            raise UsageError(f"scope is {' or '.join(SCOPES)}")
        return self._carry(m.DeleteTokens(of_all=scope == "all"), request).report

    def registration(self) -> PossessionFile:
        """Return what to sign with the key that shall be registered."""
        actor, cluster = self.actor, self._controller.cluster
        service = Service.REGISTRATION
        made = possession(service, cluster, actor.role, actor.name, self._now_s())
        return PossessionFile((made,))

    def register(
        self, public_key: bytes, signed: PossessionFile, *, request: str | None = None
    ) -> ChangeReport:
        """Register the user's key for approvals.

        Args:
            public_key: PEM, or a line of an OpenSSH `.pub` file.
            signed: what `registration` returned, signed with that key.
            request: repeats an earlier request by its id.
        """
        part = signed.complete().parts[0]
        public = parse_public_key(public_key)
        change = m.RegisterApprovalKey(public, part.data.pack(), part.signed)
        return self._carry(change, request).report

    def approve_sign(
        self,
        ref: int,
        mechanism: SignMechanism,
        digest: bytes,
        approval: TokenFile,
        *,
        request: str | None = None,
    ) -> ChangeReport:
        """Spend approvals on one signature, for `Session.sign` to fetch."""
        return self.approve_use("sign", ref, mechanism, digest, approval, request=request)

    def approve_use(  # the parts of one use
        self,
        operation: str,
        ref: int,
        mechanism: object,
        data: bytes,
        approval: TokenFile,
        *,
        request: str | None = None,
    ) -> ChangeReport:
        """Spend approvals on one exact use of a key: of `quorum_decisions.USE_OPERATIONS`."""
        draft = self.use_draft(operation, ref, mechanism, data)
        change = m.ApproveKeyUse(ref, operation, draft.request)
        return self._carry(change, request, approval).report

    def use_draft(
        self, operation: str, ref: int, mechanism: object, data: bytes
    ) -> e.KeyUseApproved:
        """Return the change that spends approvals on one use of a key."""
        digest = use_digest(operation, ref, self._session.name, mechanism, data)
        return e.KeyUseApproved(self.actor, ref, operation, digest)
