"""What an entry does to state n: one pure function, the same on every HSM.

Invariants: a change that a rule forbids is no entry, whoever signed it; the entry's `at` is the
only clock; the result depends on state n and the entry alone.
"""

from __future__ import annotations

from typing import assert_never

from orchestrator.model import entries as e
from orchestrator.model.approvals import spend
from orchestrator.model.cluster_decisions import (
    cluster_activated,
    cluster_closed,
    cluster_created,
    cluster_initialized,
    cluster_restored,
    host_admitted,
    host_expelled,
    hsm_joined,
    hsm_removed,
    recovery_key_set,
)
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
from orchestrator.model.roles import Operation
from orchestrator.model.rules import authorize
from orchestrator.model.state import EndedLogin, Put, Secrets, State, Table, key_row
from orchestrator.model.user_decisions import (
    password_changed,
    user_created,
    user_deleted,
    user_disabled,
    user_enabled,
    user_locked,
    user_unlocked,
)


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
            return cluster_created(state, header, change, secrets)
        case e.ClusterRestored():
            return cluster_restored(state, header, change, secrets)
        case e.ClusterInitialized():
            return cluster_initialized(state, header, change)
        case e.ClusterActivated():
            return cluster_activated(state, change)
        case e.HostAdmitted():
            return host_admitted(state, change)
        case e.HostExpelled():
            return host_expelled(state, change)
        case e.HsmJoined():
            return hsm_joined(state, change)
        case e.HsmRemoved():
            return hsm_removed(state, header, change, secrets)
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
            return recovery_key_set(state, change)
        case e.ClusterClosed():
            return cluster_closed(state)
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
