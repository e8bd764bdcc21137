"""What an entry does to state n: one pure function, the same on every HSM.

Invariants: a change that a rule forbids is no entry, whoever signed it; the entry's `at` is the
only clock; the result depends on state n and the entry alone.
"""

from __future__ import annotations

import hashlib
from typing import Final, assert_never

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.approvals import spend
from orchestrator.model.errors import RefusedError, TamperedError
from orchestrator.model.factor_decisions import (
    approval_key_registered,
    mfa_changed,
    ticket_issued,
    ticket_revoked,
)
from orchestrator.model.key_decisions import (
    check_deletable,
    key_changed,
    key_shared,
    key_unshared,
    keys_created,
)
from orchestrator.model.object_decisions import object_created, object_deleted, object_edited
from orchestrator.model.ownership import keys_transferred
from orchestrator.model.quorum_decisions import (
    expired,
    key_use_approved,
    policy_set,
    token_issued,
    tokens_deleted,
    tokens_of_login,
    value_set,
)
from orchestrator.model.replication import replicated
from orchestrator.model.roles import (
    APPLIANCE_NAME,
    Operation,
    Role,
    require,
)
from orchestrator.model.rules import authorize, need, need_active
from orchestrator.model.signatures import (
    check_cluster_certificate,
    check_credential,
    check_ecdsa,
    check_ed25519,
    digest_of,
    is_p384_point,
)
from orchestrator.model.state import (
    ONLY,
    EndedLogin,
    Host,
    MemberRow,
    Meta,
    OldTicketSecret,
    Phase,
    Put,
    Secrets,
    State,
    Table,
    User,
    key_row,
    user_row,
)
from orchestrator.model.user_decisions import (
    password_changed,
    user_created,
    user_deleted,
    user_disabled,
    user_enabled,
    user_locked,
    user_unlocked,
)

MEMBERS_MAX: Final = 28
SUCCESSORS: Final = {"hsm1.medium": "hsm2m.medium"}
"""Types of HSM whose backups a newer type takes over."""
_OF_LOGINS: Final = (Table.LOGINS, Table.TOKENS, Table.GRANTS, Table.LOGIN_TICKETS)
"""What ends with the logins of the cluster that a backup was made of."""


def decide(
    state: State,
    header: e.Header,
    change: e.Change,
    secrets: Secrets | None,
    approval: e.Approval | None = None,
) -> tuple[Put, ...]:
    """Return the rows that `change` writes, or raise why it is no entry here.

    Args:
        state: state n.
        header: of entry n+1; its place, hash chain and signature were checked.
        change: the opened body.
        secrets: what this HSM found in its box of a rekeying entry, None for other entries.
        approval: what came with the change; it is spent with it.
    """
    puts = (
        *_decide(state, header, change, secrets),
        *spend(state, header.at, change, approval),
    )
    over = [
        Put(Table.LOGINS, name, None)
        for name, row in state.tables[Table.LOGINS].items()
        if isinstance(row, EndedLogin) and row.until < header.at
    ]
    named = {(p.table, p.name) for p in puts}
    over += expired(state, header.at)
    return (*puts, *(p for p in over if (p.table, p.name) not in named))


def _decide(
    state: State, header: e.Header, change: e.Change, secrets: Secrets | None
) -> tuple[Put, ...]:
    match change:
        case e.ClusterCreated():
            return _created(state, header, change, secrets)
        case e.ClusterRestored():
            return _restored(state, header, change, secrets)
        case e.ClusterInitialized():
            return _initialized(state, header, change)
        case e.ClusterActivated():
            return _activated(state, change)
        case e.HostAdmitted():
            authorize(state, change.actor, Operation.ADMIT_HOST)
            _check_host(change.host, change.key)
            return (Put(Table.HOSTS, change.host, Host(change.host, change.key)),)
        case e.HostExpelled():
            authorize(state, change.actor, Operation.EXPEL_HOST)
            state.host(change.host)
            return (Put(Table.HOSTS, change.host, None),)
        case e.HsmJoined():
            return _joined(state, change)
        case e.HsmRemoved():
            return _removed(state, header, change, secrets)
        case e.UserCreated():
            return user_created(state, header, change)
        case e.UserDeleted():
            return user_deleted(state, change)
        case e.PasswordChanged():
            return password_changed(state, change)
        case e.UserLocked():
            return user_locked(state, change)
        case e.LoginEnded():
            authorize(state, change.actor, Operation.LOGOUT)
            ended = Put(Table.LOGINS, change.login, EndedLogin(change.until))
            return (ended, *tokens_of_login(state, change.login))
        case e.KeysCreated():
            return keys_created(state, header, change)
        case e.KeyDeleted():
            authorize(state, change.actor, Operation.DELETE_KEY)
            check_deletable(state.key(change.ref), change.actor.name)
            return (Put(Table.KEYS, key_row(change.ref), None),)
        case e.RecoveryKeySet():
            return _recovery_key_set(state, change)
        case e.ClusterClosed():
            need_active(state)
            require(Role.APPLIANCE_USER, Operation.REMOVE_HSM)
            need(len(state.tables[Table.MEMBERS]) == 1, "has-hsms", "delete the other HSMs first")
            return (_put_meta(state, closed=True),)
        case e.ObjectCreated():
            return object_created(state, header, change)
        case e.ObjectEdited():
            return object_edited(state, change)
        case e.ObjectDeleted():
            return object_deleted(state, change)
        case e.KeyChanged():
            return key_changed(state, change)
        case e.KeyShared():
            return key_shared(state, change)
        case e.KeyUnshared():
            return key_unshared(state, change)
        case e.Replicated():
            return replicated(state, header, change)
        case _:
            return _decide_on_people(state, header, change)


def _decide_on_people(state: State, header: e.Header, change: e.PeopleChange) -> tuple[Put, ...]:
    match change:
        case e.UserUnlocked():
            return user_unlocked(state, change)
        case e.UserDisabled():
            return user_disabled(state, change)
        case e.UserEnabled():
            return user_enabled(state, change)
        case e.KeysTransferred():
            return keys_transferred(state, change)
        case e.ApprovalKeyRegistered():
            return approval_key_registered(state, header, change)
        case e.MfaChanged():
            return mfa_changed(state, header, change)
        case e.QuorumTokenIssued():
            return token_issued(state, header, change)
        case e.QuorumTokensDeleted():
            return tokens_deleted(state, change)
        case e.QuorumValueSet():
            return value_set(state, change)
        case e.QuorumPolicySet():
            return policy_set(state, change)
        case e.KeyUseApproved():
            return key_use_approved(state, header, change)
        case e.LoginTicketIssued():
            return ticket_issued(state, header, change)
        case e.LoginTicketRevoked():
            return ticket_revoked(state, change)
        case _:
            assert_never(change)


def _put_meta(state: State, **fields: object) -> Put:
    return Put(Table.META, ONLY, msgspec.structs.replace(state.meta, **fields))


def _checked_secrets(state: State, rekey: e.Rekey, secrets: Secrets | None) -> Secrets:
    if secrets is None or secrets.epoch != rekey.epoch:
        raise TamperedError("this HSM found no box of its own in a rekeying entry")
    if state.tables[Table.SECRETS]:
        need(rekey.epoch == state.secrets.epoch + 1, "epoch", "epochs rise by one")
    return secrets


def _created(
    state: State, header: e.Header, change: e.ClusterCreated, secrets: Secrets | None
) -> tuple[Put, ...]:
    need(state.seq == 0, "exists", "this HSM already belongs to a cluster")
    member = check_credential(change.credential, header.cluster, change.cluster_public)
    need(member.hsm == header.author, "author", "the first HSM authors the first entry")
    meta = Meta(
        cluster=header.cluster,
        hsm_type=change.hsm_type,
        mode=change.mode,
        phase=Phase.UNINITIALIZED,
        limits=change.limits,
        csr=change.csr,
        cluster_public=change.cluster_public,
        certificate_key=change.certificate_key,
    )
    preco = User("admin", Role.UNACTIVATED_ADMIN, "", 1)
    appliance = User(APPLIANCE_NAME, Role.APPLIANCE_USER, "", 1)
    return (
        Put(Table.META, ONLY, meta),
        Put(Table.SECRETS, ONLY, _checked_secrets(state, change.rekey, secrets)),
        Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),
        Put(Table.USERS, user_row(preco.role, preco.name), preco),
        Put(Table.USERS, user_row(appliance.role, appliance.name), appliance),
    )


def _restored(
    state: State, header: e.Header, change: e.ClusterRestored, secrets: Secrets | None
) -> tuple[Put, ...]:
    meta = state.meta
    need(meta.phase is Phase.ACTIVE, "not-active", "only an active cluster is restored")
    need(meta.cluster == change.source_cluster, "source", "the backup is of another cluster")
    need(header.cluster != meta.cluster, "source", "a restored cluster has an id of its own")
    if state.digest() != change.source_digest:
        raise TamperedError("the restored state is not the one that the backup names")
    member = check_credential(change.credential, header.cluster, meta.cluster_public)
    need(member.hsm == header.author, "author", "the first HSM authors the first entry")
    _check_host(member.host, change.host_key)
    gone = tuple(Put(Table.MEMBERS, m.hsm, None) for m in state.members() if m.hsm != member.hsm)
    hsm_type, limits = change.hsm_type or meta.hsm_type, change.limits or meta.limits
    check_restorable(meta.hsm_type, hsm_type)
    need(
        len(state.tables[Table.KEYS]) <= limits.keys
        and state.asymmetric_keys <= limits.asymmetric_keys
        and len(state.tables[Table.USERS]) <= limits.users
        and len(state.tables[Table.OBJECTS]) <= limits.objects,
        "limit",
        f"the backup holds more users, keys or objects than a cluster of {hsm_type} may",
    )
    return (
        _put_meta(
            state,
            cluster=header.cluster,
            source_cluster=change.source_cluster,
            closed=False,
            hsm_type=hsm_type,
            limits=limits,
        ),
        Put(Table.SECRETS, ONLY, _checked_secrets(state, change.rekey, secrets)),
        *gone,
        Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),
        Put(Table.HOSTS, member.host, Host(member.host, change.host_key)),
        *(Put(table, name, None) for table in _OF_LOGINS for name in state.tables[table]),
    )


def check_restorable(backup_type: str, hsm_type: str) -> None:
    """Raise RefusedError unless backups of one type of HSM go onto another: forward, never back."""
    if hsm_type not in {backup_type, SUCCESSORS.get(backup_type)}:
        raise RefusedError(
            "hsm-type", f"a backup of {backup_type} cannot be restored to {hsm_type}"
        )


def _initialized(state: State, header: e.Header, change: e.ClusterInitialized) -> tuple[Put, ...]:
    need(
        state.meta.phase is Phase.UNINITIALIZED,
        "not-uninitialized",
        f"cluster {state.meta.cluster} is already {state.meta.phase}",
    )
    check_cluster_certificate(
        change.certificate, change.trust_anchor, state.meta.cluster_public, header.at
    )
    return (
        _put_meta(
            state,
            phase=Phase.INITIALIZED,
            certificate=change.certificate,
            trust_anchor=change.trust_anchor,
        ),
    )


def _activated(state: State, change: e.ClusterActivated) -> tuple[Put, ...]:
    need(
        state.meta.phase is Phase.INITIALIZED,
        "not-initialized",
        f"cluster {state.meta.cluster} is {state.meta.phase}, not INITIALIZED",
    )
    require(Role.UNACTIVATED_ADMIN, Operation.ACTIVATE)
    preco = state.user(Role.UNACTIVATED_ADMIN, "admin")
    _check_host(change.host, change.host_key)
    admin = User(preco.name, Role.ADMIN, change.password_hash, preco.version + 1)
    return (
        _put_meta(
            state,
            phase=Phase.ACTIVE,
            backup_public=change.backup_public,
            backup_key=change.backup_key,
        ),
        Put(Table.USERS, user_row(preco.role, preco.name), None),
        Put(Table.USERS, user_row(admin.role, admin.name), admin),
        Put(Table.HOSTS, change.host, Host(change.host, change.host_key)),
    )


def _check_host(host: str, key: bytes) -> None:
    need(
        0 < len(host) <= 64 and host.isprintable(),
        "host-rule",
        "a host name has 1 to 64 characters",
    )
    need(len(key) == 32, "host-rule", "a host key is an Ed25519 public key of 32 bytes")


def receipt_digest(join: e.SignedJoinRequest, cluster_public: bytes) -> bytes:
    """Return what a joiner signs once it holds the masking key durably.

    Args:
        join: its request.
        cluster_public: the key of the cluster that granted it. A joiner that was lied to by a
            false member names the false cluster, and is no member of the real one.
    """
    return digest_of("join-receipt", hashlib.sha256(join.request).digest() + cluster_public)


def check_join(state: State, join: e.SignedJoinRequest) -> e.JoinRequest:
    """Check that an admitted host and the HSM itself ask to join; return the request."""
    request = e.decode(e.JoinRequest, join.request, "join request")
    name = request.host
    if name not in state.tables[Table.HOSTS]:
        raise RefusedError(
            "host-not-admitted",
            f"{name} is not admitted; an admin does: `cloister host admit {name}`",
        )
    host_digest = digest_of("join-host", join.request)
    try:
        check_ed25519(state.host(name).key, host_digest, join.host_signature, f"host {name}")
    except TamperedError as exc:
        raise RefusedError(
            "host-key-changed",
            f"{name} signs with another key than the one that was admitted; if the host was made "
            f"anew, an admin admits it again: `cloister host admit {name}`",
        ) from exc
    check_ecdsa(request.identity, digest_of("join", join.request), join.identity_signature,
                f"join request of {request.hsm}")  # fmt: skip
    return request


def _joined(state: State, change: e.HsmJoined) -> tuple[Put, ...]:
    need_active(state)
    request = check_join(state, change.join)
    meta = state.meta
    member = check_credential(change.credential, meta.cluster, meta.cluster_public)
    expected = e.Member(
        meta.cluster, request.hsm, request.host, request.zone, request.identity, request.box
    )
    if member != expected or request.cluster != meta.cluster:
        raise TamperedError(f"the credential of {request.hsm} is not for the HSM that asked")
    check_ecdsa(
        member.identity,
        receipt_digest(change.join, meta.cluster_public),
        change.receipt,
        f"receipt of {member.hsm}",
    )
    members = state.tables[Table.MEMBERS]
    need(member.hsm not in members, "exists", f"{member.hsm} is a member already")
    need(len(members) < MEMBERS_MAX, "limit", f"a cluster has at most {MEMBERS_MAX} HSMs")
    return (Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),)


def _removed(
    state: State, header: e.Header, change: e.HsmRemoved, secrets: Secrets | None
) -> tuple[Put, ...]:
    require(Role.APPLIANCE_USER, Operation.REMOVE_HSM)
    state.member(change.hsm)
    staying = {m.hsm for m in state.members()} - {change.hsm}
    need(bool(staying), "last-hsm", f"{change.hsm} is the last HSM of the cluster")
    need(
        {name for name, _ in change.rekey.boxes} == staying,
        "rekey",
        "a removal gives new secrets to exactly those who stay",
    )
    new = _checked_secrets(state, change.rekey, secrets)
    if not change.compromised:
        # Running logins outlive an orderly removal: their tickets are good for a day at most.
        now = state.secrets
        kept = tuple(old for old in now.old if old.until > header.at)
        last = OldTicketSecret(now.epoch, now.ticket_secret, header.at + e.LOGIN_LIFE_MS)
        new = msgspec.structs.replace(new, old=(*kept, last))
    return (
        Put(Table.SECRETS, ONLY, new),
        Put(Table.MEMBERS, change.hsm, None),
    )


def _recovery_key_set(state: State, change: e.RecoveryKeySet) -> tuple[Put, ...]:
    authorize(state, change.actor, Operation.SET_RECOVERY_KEY)
    need(is_p384_point(change.point), "recovery-rule", "a recovery key is a P-384 point")
    need(
        2 <= change.threshold <= change.shares <= 16,
        "recovery-rule",
        "custodian shares: a threshold from 2 to the number of shares, at most 16",
    )
    return (
        _put_meta(
            state,
            recovery_point=change.point,
            recovery_threshold=change.threshold,
            recovery_shares=change.shares,
        ),
    )
