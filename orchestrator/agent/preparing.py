"""From what is asked to a change: the token work, done once for each request id.

Invariants: the token work comes before the place in the ledger and is never repeated for a
request that lost the race for its place; whatever is prepared and not committed leaves nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, assert_never

from cryptography.hazmat.primitives.serialization import Encoding

from orchestrator.agent.cluster_changes import ClusterChanges
from orchestrator.agent.core import Caller, Core
from orchestrator.agent.key_changes import KeyChanges
from orchestrator.agent.making import Making
from orchestrator.agent.passwords import PasswordCheck, new_password
from orchestrator.agent.replicating import Replicating
from orchestrator.agent.session_keys import SessionKeys
from orchestrator.agent.wrapping import Wrapping
from orchestrator.model import entries as e
from orchestrator.model.attribute_rules import operation_to_change
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.quorum import ApprovalData, check_words
from orchestrator.model.roles import Operation, parse_user_name
from orchestrator.model.signatures import load_certificate
from orchestrator.model.state import Secrets
from orchestrator.model.steps import Step
from orchestrator.wire import messages as m

_WORKS_KEPT: Final = 256
WORKS_BYTES_MAX: Final = 8 * 1024 * 1024
_REQUEST_CHARACTERS: Final = 64

OPERATIONS: Final[dict[type, Operation]] = {
    m.CreateCluster: Operation.JOIN,
    m.RestoreCluster: Operation.RESTORE,
    m.InitializeCluster: Operation.INITIALIZE,
    m.ActivateCluster: Operation.ACTIVATE,
    m.AdmitHost: Operation.ADMIT_HOST,
    m.ExpelHost: Operation.EXPEL_HOST,
    m.JoinHsm: Operation.JOIN,
    m.RemoveHsm: Operation.REMOVE_HSM,
    m.CreateUser: Operation.CREATE_USER,
    m.DeleteUser: Operation.DELETE_USER,
    m.EndLogin: Operation.LOGOUT,
    m.LockUser: Operation.SYNC,
    m.GenerateKeys: Operation.GENERATE_KEY,
    m.DeriveKeys: Operation.DERIVE_KEY,
    m.DeleteKey: Operation.DELETE_KEY,
    m.SetRecoveryKey: Operation.SET_RECOVERY_KEY,
    m.CloseCluster: Operation.REMOVE_HSM,
    m.UnlockUser: Operation.UNLOCK_USER,
    m.DisableUser: Operation.DISABLE_USER,
    m.EnableUser: Operation.DISABLE_USER,
    m.TransferKeys: Operation.TRANSFER_KEYS,
    m.RegisterApprovalKey: Operation.REGISTER_APPROVAL_KEY,
    m.IssueToken: Operation.GENERATE_TOKEN,
    m.SetQuorumValue: Operation.SET_QUORUM,
    m.SetQuorumPolicy: Operation.SET_QUORUM,
    m.ApproveKeyUse: Operation.APPROVE_KEY_USE,
    m.IssueLoginTicket: Operation.ISSUE_LOGIN_TICKET,
    m.RevokeLoginTicket: Operation.REVOKE_LOGIN_TICKET,
    m.ImportClearKey: Operation.IMPORT_CLEAR_KEY,
    m.CopyKey: Operation.COPY_KEY,
    m.PutObject: Operation.MANAGE_OBJECTS,
    m.EditObject: Operation.MANAGE_OBJECTS,
    m.DeleteObject: Operation.MANAGE_OBJECTS,
    m.ShareKey: Operation.SHARE_KEY,
    m.UnshareKey: Operation.SHARE_KEY,
    m.KeepSessionKey: Operation.GENERATE_KEY,
    m.UnwrapKey: Operation.UNWRAP_KEY,
    m.ImportPublicKey: Operation.IMPORT_PUBLIC_KEY,
}


def operation_of(change: m.ChangeRequest, caller: Caller) -> Operation:
    """Return the operation that a change needs; of some, it depends on whose or what is changed."""
    match change:
        case m.ChangePassword() | m.ChangeMfa():
            own = (change.role, change.name) == (caller.role, caller.name)
            if isinstance(change, m.ChangePassword):
                return Operation.CHANGE_OWN_PASSWORD if own else Operation.CHANGE_OTHER_PASSWORD
            return Operation.CHANGE_OWN_MFA if own else Operation.CHANGE_OTHER_MFA
        case m.DeleteTokens():
            return Operation.DELETE_ALL_TOKENS if change.of_all else Operation.DELETE_OWN_TOKENS
        case m.ChangeKey():
            return operation_to_change(change.name)
        case m.TakeReplica():
            return Operation.REPLICATE_USER if change.of_user else Operation.REPLICATE_KEY
        case _:
            return OPERATIONS[type(change)]


def _object_change(asked: m.PutObject | m.EditObject | m.DeleteObject, actor: e.Actor) -> e.Change:
    match asked:
        case m.PutObject():
            return e.ObjectCreated(actor, asked.draft)
        case m.EditObject():
            return e.ObjectEdited(actor, asked.ref, asked.edit)
        case m.DeleteObject():
            return e.ObjectDeleted(actor, asked.ref)
        case _:
            assert_never(asked)


@dataclass(frozen=True, slots=True, repr=False)
class _Work:
    """Token work that waits for its place."""

    asked: bytes
    by: tuple[str, str]
    of_login: str
    change: e.Change
    secrets: Secrets | None
    cluster: str
    session_ref: int = 0


class Preparing:
    """Does token work and has the result signed for the next place."""

    def __init__(self, core: Core, passwords: PasswordCheck) -> None:
        self._core, self._passwords = core, passwords
        self.making = Making(core)
        self.session_keys = SessionKeys(core)
        self.wrapping = Wrapping(core, self.making, self.session_keys)
        self.replicating = Replicating(core)
        self.key_changes = KeyChanges(
            core, self.making, self.session_keys, self.wrapping, self.replicating
        )
        self.cluster_changes = ClusterChanges(core)
        self._works: OrderedDict[str, _Work] = OrderedDict()

    def prepare(self, asked: m.Prepare, caller: Caller) -> m.Prepared:
        """Return an entry for the next place. Asked again with the same id, only sign again.

        Who was cut off may come back with the same id, another login, and a password sealed anew:
        nothing was committed, so the work is then done again.

        Raises:
            RefusedError: `request-reused` when the id came from another user before.
        """
        core = self._core
        printable = asked.request.isascii() and asked.request.isprintable()
        if not 1 <= len(asked.request) <= _REQUEST_CHARACTERS or not printable:
            raise UsageError(f"a request id has 1 to {_REQUEST_CHARACTERS} printable ASCII letters")
        encoded = e.encode(asked.change)
        by = (caller.role, caller.name)
        work = self._works.get(asked.request)
        if work is not None and work.by != by:
            raise RefusedError("request-reused", f"request id {asked.request} is taken")
        is_of_login = isinstance(asked.change, m.EndLogin | m.IssueToken)
        of_login = caller.login if is_of_login else ""
        if work is None or (work.asked, work.of_login) != (encoded, of_login):
            change, secrets, cluster = self._work(asked.change, caller)
            kept = asked.change.ref if isinstance(asked.change, m.KeepSessionKey) else 0
            work = _Work(encoded, by, of_login, change, secrets, cluster, kept)
            self._keep(asked.request, work)
            core.on_step(Step.PREPARE_TOKEN_WORK)
        change, secrets = work.change, work.secrets
        if isinstance(change, e.HsmRemoved):  # whom the new secrets go to depends on the place
            change, secrets = self.cluster_changes.removal(asked.change, change.compromised)
        entry = core.sign_entry(change, asked.request, secrets, work.cluster, asked.approval)
        return m.Prepared(entry)

    def _keep(self, request: str, work: _Work) -> None:
        """Remember work; what goes for it, the oldest, is done again if it is asked for again."""
        self._works[request] = work
        size = sum(len(each.asked) for each in self._works.values())
        while len(self._works) > _WORKS_KEPT or size > WORKS_BYTES_MAX:
            size -= len(self._works.popitem(last=False)[1].asked)

    def forget(self, request: str) -> None:
        """Drop the work of a request that has been committed."""
        work = self._works.pop(request, None)
        if work is not None and work.session_ref:
            self.session_keys.drop(work.session_ref)

    def _work(  # one case per kind of change, all straight
        self, asked: m.ChangeRequest, caller: Caller
    ) -> tuple[e.Change, Secrets | None, str]:
        core, actor = self._core, caller.actor
        if isinstance(asked, m.CreateCluster):
            return *self.cluster_changes.create(asked), asked.cluster
        if isinstance(asked, m.RestoreCluster):
            return *self.cluster_changes.restore(asked), asked.cluster
        cluster = core.state.meta.cluster
        if isinstance(asked, m.KeyRequest):
            return self.key_changes.change(asked, caller), None, cluster
        match asked:
            case m.InitializeCluster():
                certificate = load_certificate(asked.certificate, "the signed certificate")
                anchor = load_certificate(asked.trust_anchor, "the trust anchor")
                der = Encoding.DER
                return (
                    e.ClusterInitialized(certificate.public_bytes(der), anchor.public_bytes(der)),
                    None,
                    cluster,
                )
            case m.ActivateCluster():
                return self.cluster_changes.activate(asked, caller), None, cluster
            case m.AdmitHost():
                return e.HostAdmitted(actor, asked.host, asked.key), None, cluster
            case m.ExpelHost():
                return e.HostExpelled(actor, asked.host), None, cluster
            case m.JoinHsm():
                request = e.decode(e.JoinRequest, asked.join.request, "join request")
                credential = self.cluster_changes.certify(request, core.state.meta.certificate_key)
                return e.HsmJoined(asked.join, credential, asked.receipt), None, cluster
            case m.RemoveHsm():
                return *self.cluster_changes.removal(asked, asked.compromised), cluster
            case m.CreateUser():
                name = parse_user_name(asked.name)
                hashed = new_password(self._core, asked.password, caller, asked.role, name)
                return e.UserCreated(actor, name, asked.role, hashed), None, cluster
            case m.DeleteUser():
                name = parse_user_name(asked.name)
                heir = parse_user_name(asked.transfer_to) if asked.transfer_to else ""
                return e.UserDeleted(actor, name, asked.role, heir), None, cluster
            case m.ChangePassword():
                name = parse_user_name(asked.name)
                hashed = new_password(self._core, asked.password, caller, asked.role, name)
                flags = (asked.deregister_mfa, asked.deregister_quorum)
                return e.PasswordChanged(actor, name, asked.role, hashed, *flags), None, cluster
            case m.EndLogin():
                until = core.clock.now_ms() + e.LOGIN_LIFE_MS
                return e.LoginEnded(actor, caller.login, until), None, cluster
            case m.LockUser():
                user = core.state.user(asked.role, asked.name)
                if not self._passwords.wants_lock(core.state, user):
                    raise RefusedError(
                        "not-counted", f"{core.config.hsm} has not counted this lock"
                    )
                return e.UserLocked(user.name, user.role), None, cluster
            case m.SetRecoveryKey():
                change = e.RecoveryKeySet(actor, asked.point, asked.threshold, asked.shares)
                return change, None, cluster
            case m.CloseCluster():
                return e.ClusterClosed(), None, cluster
            case m.PutObject() | m.EditObject() | m.DeleteObject():
                return _object_change(asked, actor), None, cluster
            case _:
                return self._people(asked, caller), None, cluster

    def _people(  # one case per kind of change, all straight
        self, asked: m.PeopleRequest, caller: Caller
    ) -> e.Change:
        actor = caller.actor
        match asked:
            case m.UnlockUser():
                return e.UserUnlocked(actor, parse_user_name(asked.name), asked.role)
            case m.DisableUser():
                return e.UserDisabled(actor, parse_user_name(asked.name), asked.role)
            case m.EnableUser():
                return e.UserEnabled(actor, parse_user_name(asked.name), asked.role)
            case m.TransferKeys():
                return e.KeysTransferred(
                    actor, parse_user_name(asked.name), parse_user_name(asked.to)
                )
            case m.RegisterApprovalKey():
                return e.ApprovalKeyRegistered(
                    actor, asked.public, asked.approval_data, asked.signature
                )
            case m.ChangeMfa():
                return self._change_mfa(asked, caller)
            case m.IssueToken():
                return self._issue_token(asked, caller)
            case m.DeleteTokens():
                return e.QuorumTokensDeleted(actor, asked.of_all)
            case m.SetQuorumValue():
                return e.QuorumValueSet(actor, asked.service, asked.value)
            case m.SetQuorumPolicy():
                return e.QuorumPolicySet(
                    actor, asked.bound_only, asked.guards_use, asked.generated_s, asked.approved_s
                )
            case m.ApproveKeyUse():
                return e.KeyUseApproved(actor, asked.ref, asked.operation, asked.request)
            case m.IssueLoginTicket():
                if not caller.has_factor:
                    raise RefusedError(
                        "second-factor-needed", "log in with the second factor to issue tickets"
                    )
                login = self._core.store.random(12).hex()
                return e.LoginTicketIssued(actor, login, asked.uid, asked.until)
            case m.RevokeLoginTicket():
                return e.LoginTicketRevoked(actor, asked.login)
            case _:
                assert_never(asked)

    def _change_mfa(self, asked: m.ChangeMfa, caller: Caller) -> e.MfaChanged:
        name, hashed = parse_user_name(asked.name), ""
        if asked.password:
            hashed = new_password(self._core, asked.password, caller, asked.role, name)
        return e.MfaChanged(
            caller.actor, name, asked.role, hashed, asked.public, asked.approval_data,
            asked.signature, asked.change_quorum,
        )  # fmt: skip

    def _issue_token(self, asked: m.IssueToken, caller: Caller) -> e.QuorumTokenIssued:
        core = self._core
        data = ApprovalData(
            service=asked.service,
            ref=asked.ref,
            requester=caller.name,
            issued_at_s=core.clock.now_ms() // 1000,
            words=check_words(asked.words),
            nonces=tuple(core.store.random(16) for _ in core.state.members()),
            number=core.state.seq,
        )
        return e.QuorumTokenIssued(caller.actor, caller.login, data.pack())
