"""Which quorum guards a change, and what the change is called when people approve it.

Invariants: a guard follows from state n and the change alone; the words name the operation and
every argument that decides what it does, but no password; other changes have other words.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from shlex import quote
from typing import Final

from orchestrator.model import entries as e
from orchestrator.model.quorum import QuorumPolicy
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.state import State, User

MOVING: Final = frozenset({"wrap", "unwrap", "replicate"})
"""Uses of a key that count as managing it: CloudHSM says so of the first two."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Approvals that a change needs. `ref` is the key of a key service, else 0."""

    service: Service
    needed: int
    ref: int = 0
    code: str = "quorum-approval"
    refusal: str = "Quorum approval is required for this operation"


def guard_of(state: State, change: e.Change) -> Guard | None:
    """Return the guard of `change` in this state, None when nobody must approve it."""
    service, ref = service_of(change, state.quorum)
    if service is None:
        return None
    if not ref:
        needed = state.quorum.value(service)
    elif isinstance(change, e.KeyUseApproved):
        needed = state.key(ref).quorum_of(change.operation)
    else:
        needed = state.key(ref).manage_quorum
    if needed <= 1:
        return None
    if isinstance(change, e.KeyUseApproved):
        return Guard(service, needed, ref, "quorum-failed", "Quorum Failed")
    return Guard(service, needed, ref)


def service_of(change: e.Change, policy: QuorumPolicy) -> tuple[Service | None, int]:
    """Return what can guard `change`: a service, and the key if it is a key service.

    A new kind of change is guarded by a line here and its words in `words_of`.
    """
    match change:
        case (
            e.UserCreated()
            | e.UserDeleted()
            | e.UserUnlocked()
            | e.UserDisabled()
            | e.UserEnabled()
            | e.KeysTransferred()
        ):
            return Service.USER, 0
        case e.PasswordChanged():
            own = (change.actor.role, change.actor.name) == (change.role, change.name)
            weakens = change.deregister_mfa and change.role is Role.ADMIN
            return (None if own and not weakens else Service.USER), 0
        case e.MfaChanged():
            return _mfa_service(change), 0
        case e.Replicated():
            # A user who comes from a clone is made here, or gets the password of there.
            return (Service.USER if _replica(change).user else None), 0
        case e.QuorumValueSet() | e.QuorumPolicySet():
            return Service.QUORUM, 0
        case e.HostAdmitted() | e.HostExpelled():
            return Service.CLUSTER, 0
        case e.RecoveryKeySet():
            # Both say something about it; the stricter counts.
            return max((Service.SHARE_EXPORT, Service.CLUSTER), key=policy.value), 0
        case e.KeyDeleted():
            return Service.KEY_DELETE, 0
        case e.HsmRemoved():
            return Service.HSM_DELETE, 0
        case e.ClusterClosed():
            return Service.CLUSTER_DELETE, 0
        case e.ClusterRestored():
            return Service.BACKUP_RESTORE, 0
        case e.KeyShared() | e.KeyUnshared():
            return Service.KEY_MANAGEMENT, change.ref
        case e.KeyChanged():
            # What an admin says of a key, that it is trusted, is not its owners' to approve.
            by_admin = change.actor.role is Role.ADMIN
            return (None, 0) if by_admin else (Service.KEY_MANAGEMENT, change.ref)
        case e.KeyUseApproved():
            return use_service(change.operation), change.ref
        case _:
            return None, 0


def use_service(operation: str) -> Service:
    """Return the key service that guards a use of a key."""
    return Service.KEY_MANAGEMENT if operation in MOVING else Service.KEY_USAGE


def _mfa_service(change: e.MfaChanged) -> Service | None:
    """Taking a factor away is guarded, and so is what an admin does to somebody else's."""
    own = (change.actor.role, change.actor.name) == (change.role, change.name)
    if own and (change.public or change.role is not Role.ADMIN):
        return None
    return Service.USER


def approvers(state: State, guard: Guard) -> dict[tuple[Role, str], User]:
    """Return who may approve: enabled users with a registered key."""
    if guard.ref:
        key = state.key(guard.ref)
        named = {(Role.CRYPTO_USER, name) for name in (key.owner, *key.shared)}
        users = [user for user in state.users() if (user.role, user.name) in named]
    else:
        users = [user for user in state.users() if user.role is Role.ADMIN]
    return {(u.role, u.name): u for u in users if u.quorum_key and not u.disabled}


def words_of(change: e.Change) -> str:  # one case per guarded kind of change, all straight
    """Return what `change` does in words, empty for what no quorum can guard."""
    match change:
        case e.UserCreated():
            return _words("user create", username=change.name, role=change.role)
        case e.UserDeleted():
            extra = {"transfer-to": change.transfer_to} if change.transfer_to else {}
            return _words("user delete", username=change.name, role=change.role, **extra)
        case e.UserUnlocked():
            return _words("user unlock", username=change.name, role=change.role)
        case e.UserDisabled():
            return _words("user disable", username=change.name, role=change.role)
        case e.UserEnabled():
            return _words("user enable", username=change.name, role=change.role)
        case e.KeysTransferred():
            return _words("user transfer-keys", username=change.name, to=change.to)
        case e.PasswordChanged():
            return _words("user change-password", username=change.name, role=change.role, **{
                "deregister-mfa": change.deregister_mfa,
                "deregister-quorum": change.deregister_quorum,
            })  # fmt: skip
        case e.MfaChanged():
            return _mfa_words(change)
        case e.Replicated():
            return _replica_words(_replica(change))
        case e.QuorumValueSet():
            return _words("quorum set-value", service=change.service, value=change.value)
        case e.QuorumPolicySet():
            return _words("quorum set-policy", **{
                "bound-only": change.bound_only, "guards-use": change.guards_use,
                "generated": change.generated_s, "approved": change.approved_s,
            })  # fmt: skip
        case e.HostAdmitted():
            return _words("host admit", host=change.host, key=change.key.hex())
        case e.HostExpelled():
            return _words("host expel", host=change.host)
        case e.RecoveryKeySet():
            return _words(
                "recovery create-shares", shares=change.shares, threshold=change.threshold
            )
        case e.KeyDeleted():
            return _words("key delete", **{"key-reference": f"0x{change.ref:016x}"})
        case e.KeyShared():
            return _words(
                "key share", username=change.user, **{"key-reference": f"0x{change.ref:016x}"}
            )
        case e.KeyUnshared():
            return _words(
                "key unshare", username=change.user, **{"key-reference": f"0x{change.ref:016x}"}
            )
        case e.KeyChanged():
            return _words("key set-attribute", name=change.name, value=change.value, **{
                "key-reference": f"0x{change.ref:016x}",
            })  # fmt: skip
        case e.HsmRemoved():
            return _words("hsm delete", hsm=change.hsm, compromised=change.compromised)
        case e.ClusterClosed():
            return "cluster delete"
        case e.ClusterRestored():
            return _words("backup restore", backup=change.source_backup)
        case e.KeyUseApproved():
            reference = f"0x{change.ref:016x}"
            return _words(
                "key use", operation=change.operation, request=change.request.hex(),
                **{"key-reference": reference},
            )  # fmt: skip
        case _:
            return ""


def _mfa_words(change: e.MfaChanged) -> str:
    if not change.public:
        what = "user change-mfa deregister"
        return _words(what, username=change.name, role=change.role, **{
            "change-quorum": change.change_quorum,
        })  # fmt: skip
    key = hashlib.sha256(change.public).hexdigest()
    return _words("user change-mfa", username=change.name, role=change.role, **{
        "change-quorum": change.change_quorum, "public-key": key,
    })  # fmt: skip


def _replica(change: e.Replicated) -> e.Replica:
    return e.decode(e.Replica, change.signed.replica, "replica")


def _replica_words(replica: e.Replica) -> str:
    if not replica.user:
        return ""
    user = e.decode(User, replica.user, "replicated user")
    return _words("user replicate", username=user.name, role=user.role, source=replica.source)


def _words(what: str, /, **arguments: object) -> str:
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in arguments.items()
    }
    return " ".join([what, *(f"{name}={quote(text)}" for name, text in texts.items())])
