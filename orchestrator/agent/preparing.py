"""From what is asked to a change: the token work, done once for each request id.

Invariants: the token work comes before the place in the ledger and is never repeated for a
request that lost the race for its place; whatever is prepared and not committed leaves nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, assert_never

from cryptography.hazmat.primitives.serialization import Encoding

from orchestrator.agent.certificate_request import signing_request
from orchestrator.agent.core import Caller, Core
from orchestrator.agent.key_changes import KeyChanges
from orchestrator.agent.making import Making
from orchestrator.agent.passwords import PasswordCheck, hash_password
from orchestrator.agent.replicating import Replicating
from orchestrator.agent.session_keys import SessionKeys
from orchestrator.agent.wrapping import Wrapping
from orchestrator.model import entries as e
from orchestrator.model.attribute_rules import operation_to_change
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
    Usage,
)
from orchestrator.model.quorum import ApprovalData, check_words
from orchestrator.model.roles import Operation, Role, check_password, parse_user_name
from orchestrator.model.signatures import digest_of, load_certificate
from orchestrator.model.state import Phase, Secrets
from orchestrator.model.steps import Step
from orchestrator.sealed.box import POINT_BYTES, open_box
from orchestrator.sealed.snapshot import Snapshot
from orchestrator.wire import messages as m

CERTIFICATE_KEY: Final = KeySpec(KeyType.RSA, 2048, None, 65537)
BACKUP_KEY: Final = KeySpec(KeyType.EC, 256, Curve.P256)
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
        self._works: OrderedDict[str, _Work] = OrderedDict()
        self.restoring: Snapshot | None = None

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
            change, secrets = self._removal(asked.change, change.compromised)
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
            return *self._create(asked), asked.cluster
        if isinstance(asked, m.RestoreCluster):
            return *self._restore(asked), asked.cluster
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
                return self._activate(asked, caller), None, cluster
            case m.AdmitHost():
                return e.HostAdmitted(actor, asked.host, asked.key), None, cluster
            case m.ExpelHost():
                return e.HostExpelled(actor, asked.host), None, cluster
            case m.JoinHsm():
                request = e.decode(e.JoinRequest, asked.join.request, "join request")
                credential = self._certify(request, core.state.meta.certificate_key)
                return e.HsmJoined(asked.join, credential, asked.receipt), None, cluster
            case m.RemoveHsm():
                return *self._removal(asked, asked.compromised), cluster
            case m.CreateUser():
                name = parse_user_name(asked.name)
                hashed = self._new_password(asked.password, caller, asked.role, name)
                return e.UserCreated(actor, name, asked.role, hashed), None, cluster
            case m.DeleteUser():
                name = parse_user_name(asked.name)
                heir = parse_user_name(asked.transfer_to) if asked.transfer_to else ""
                return e.UserDeleted(actor, name, asked.role, heir), None, cluster
            case m.ChangePassword():
                name = parse_user_name(asked.name)
                hashed = self._new_password(asked.password, caller, asked.role, name)
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
            hashed = self._new_password(asked.password, caller, asked.role, name)
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

    # --- life of the cluster ---

    def _create(self, asked: m.CreateCluster) -> tuple[e.ClusterCreated, Secrets]:
        core, profile = self._core, self._core.profile
        if core.state.seq:
            raise RefusedError("exists", f"{core.config.hsm} belongs to a cluster already")
        if asked.mode not in profile.modes:
            raise RefusedError(
                "mode", f"{profile.name} offers mode {' or '.join(profile.modes)}, not {asked.mode}"
            )
        if core.store.has_masking_key():
            # A family's key, say, that came by cloning: a stranger's new cluster must not have it,
            # because its admin could have it handed to any host that he admits.
            raise RefusedError(
                "not-empty", f"{core.config.hsm} holds a masking key already; make the HSM anew"
            )
        core.store.create_masking_key()
        core.on_step(Step.CREATE_MASKING_KEY)
        pair = core.store.generate(CERTIFICATE_KEY)
        cluster = asked.cluster
        csr = signing_request(
            f"Cloister cluster {cluster}",
            core.config.hsm,
            pair.public,
            lambda digest: self._cluster_sign(pair.blob, digest),
        )
        member = self._own_member(cluster)
        secrets = core.new_secrets(1)
        change = e.ClusterCreated(
            hsm_type=profile.name,
            mode=asked.mode,
            limits=self._limits(),
            csr=csr,
            cluster_public=pair.public,
            certificate_key=pair.blob,
            credential=self._credential(member, pair.blob),
            rekey=core.rekey(secrets, cluster, [member]),
        )
        return change, secrets

    def _activate(self, asked: m.ActivateCluster, caller: Caller) -> e.ClusterActivated:
        core = self._core
        if core.state.meta.phase is not Phase.INITIALIZED:
            raise RefusedError(
                "not-initialized",
                f"cluster {core.state.meta.cluster} is {core.state.meta.phase}, not INITIALIZED",
            )
        hashed = self._new_password(asked.password, caller, Role.ADMIN, "admin")
        pair = core.store.generate(BACKUP_KEY)
        point = pair.public[-POINT_BYTES:]  # a P-256 SubjectPublicKeyInfo ends with its point
        return e.ClusterActivated(hashed, core.config.host, core.host_public, point, pair.blob)

    def _restore(self, asked: m.RestoreCluster) -> tuple[e.ClusterRestored, Secrets]:
        core, snapshot = self._core, self.restoring
        if snapshot is None or core.restore_base is None:
            raise RefusedError("no-backup", "upload a backup first")
        base = core.restore_base
        member = self._own_member(asked.cluster)
        secrets = core.new_secrets(base.secrets.epoch + 1)
        change = e.ClusterRestored(
            source_cluster=base.meta.cluster,
            source_backup=snapshot.manifest.id,
            source_digest=base.digest(),
            credential=self._credential(member, base.meta.certificate_key),
            host_key=core.host_public,
            rekey=core.rekey(secrets, asked.cluster, [member]),
            hsm_type=core.profile.name,
            limits=self._limits(),
        )
        return change, secrets

    def _limits(self) -> e.Limits:
        profile = self._core.profile
        return e.Limits(
            profile.max_users,
            profile.max_keys,
            profile.max_asymmetric_keys,
            profile.max_objects,
        )

    def _removal(
        self,
        asked: m.ChangeRequest,
        compromised: bool,  # a field of the entry
    ) -> tuple[e.HsmRemoved, Secrets]:
        core = self._core
        if not isinstance(asked, m.RemoveHsm):
            raise UsageError("not a removal")
        state = core.state
        state.member(asked.hsm)
        staying = [member for member in state.members() if member.hsm != asked.hsm]
        secrets = core.new_secrets(state.secrets.epoch + 1)
        rekey = core.rekey(secrets, state.meta.cluster, staying)
        return e.HsmRemoved(asked.hsm, rekey, compromised), secrets

    def _own_member(self, cluster: str) -> e.Member:
        core, config = self._core, self._core.config
        return e.Member(
            cluster,
            config.hsm,
            config.host,
            config.zone,
            core.store.identity_public(),
            core.store.box_public(),
        )

    def _certify(self, request: e.JoinRequest, certificate_key: bytes) -> e.Credential:
        member = e.Member(
            request.cluster,
            request.hsm,
            request.host,
            request.zone,
            request.identity,
            request.box,
        )
        return self._credential(member, certificate_key)

    def _credential(self, member: e.Member, certificate_key: bytes) -> e.Credential:
        signed = e.encode(member)
        digest = digest_of("credential", signed)
        return e.Credential(signed, self._cluster_sign(certificate_key, digest))

    def _cluster_sign(self, certificate_key: bytes, digest: bytes) -> bytes:
        store = self._core.store
        handle = store.load(certificate_key, CERTIFICATE_KEY, frozenset({Usage.SIGN}))
        try:
            mechanism = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)
            return store.sign(handle, mechanism, digest)
        finally:
            store.unload(handle)

    # --- passwords ---

    def _new_password(self, sealed: bytes, caller: Caller, role: Role, name: str) -> str:
        plain = self.open_password("new-password", sealed, caller, role, name)
        return hash_password(check_password(plain))

    def open_password(
        self, purpose: str, sealed: bytes, caller: Caller, role: Role, name: str
    ) -> bytes:
        """Open a password that was sealed to this HSM, on this connection, for this user."""
        store, hsm = self._core.store, self._core.config.hsm
        info = m.password_info(purpose, hsm, caller.peer.nonce, role, name)
        return open_box(store.box_public(), store.box_agree, sealed, info)
