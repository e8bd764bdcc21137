"""Keys and users that come from a clone, and what must hold for them here.

Clones share the masking key and the cluster certificate key (one was restored from the other's
backup, or both from one). So a key's blob is good here as it is, and an HSM of the source proves
itself by a credential under the key that this cluster's HSMs are certified under.
Invariants: a row is taken as the source's HSM signed it, or not at all; nothing comes twice.
"""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.attribute_rules import check_policy, joined
from orchestrator.model.errors import RefusedError, TamperedError
from orchestrator.model.factor_decisions import check_not_taken
from orchestrator.model.key_decisions import check_owner, check_room, check_sharing, halves_of
from orchestrator.model.keys import Key
from orchestrator.model.roles import APPLIANCE_NAME, LOGIN_ROLES, Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.signatures import check_credential, check_ecdsa, digest_of
from orchestrator.model.ssh_signature import check_public_key
from orchestrator.model.state import Put, State, Table, User, key_row, user_row

LIFE_MS: Final = 10 * 60 * 1000
_INCONSISTENT: Final = "Specified user is inconsistent across the cluster"


def replica_digest(replica: bytes) -> bytes:
    """Return what the source's HSM signs."""
    return digest_of("replica", replica)


def open_replica(state: State, signed: e.SignedReplica) -> e.Replica:
    """Return a replica for this cluster that an HSM of a clone has signed."""
    replica = e.decode(e.Replica, signed.replica, "replica")
    meta = state.meta
    try:
        member = check_credential(signed.credential, replica.source, meta.cluster_public)
    except TamperedError as exc:
        raise RefusedError(
            "not-a-clone",
            f"{replica.source} is no clone of {meta.cluster}: only clusters of which one was "
            "restored from a backup of the other, or both from one, hold the same masking key",
        ) from exc
    if member.hsm != replica.hsm:
        raise TamperedError(f"the credential is {member.hsm}'s, and not {replica.hsm}'s")
    what = f"replica from {replica.hsm}"
    check_ecdsa(member.identity, replica_digest(signed.replica), signed.signature, what)
    if replica.destination_cluster != meta.cluster or replica.source == meta.cluster:
        raise TamperedError(f"the {what} was not made for {meta.cluster}")
    return replica


def replicated(state: State, header: e.Header, change: e.Replicated) -> tuple[Put, ...]:
    """Take a key or a user from a clone."""
    replica = open_replica(state, change.signed)
    if replica.destination != header.author:
        raise TamperedError(f"the replica was made for {replica.destination}")
    need(
        abs(header.at - replica.at) <= LIFE_MS,
        "replica-expired",
        "the clone made this replica more than 10 minutes ago, or its clock is off: repeat it",
    )
    if replica.key and not replica.user:
        key = e.decode(Key, replica.key, "replicated key")
        return _key_replicated(state, header, change.actor, key, replica.source)
    if replica.user and not replica.key:
        user = e.decode(User, replica.user, "replicated user")
        return _user_replicated(state, header, change.actor, user)
    raise TamperedError("a replica holds a key or a user")


def _key_replicated(
    state: State, header: e.Header, actor: e.Actor, key: Key, source: str
) -> tuple[Put, ...]:
    authorize(state, actor, Operation.REPLICATE_KEY)
    state.user(Role.CRYPTO_USER, key.owner)
    if actor.role is Role.CRYPTO_USER:
        check_owner(key, actor.name, "replicate")
    need(key.attributes.token, "key-rule", "session keys are not replicated")
    key.spec.check()
    check_policy(key)
    check_sharing(state, key)
    check_room(state, (key,))
    origin = key.guards.origin or f"{source} {key_row(key.ref)}"
    for held in state.all_keys():
        is_origin = origin == f"{state.meta.cluster} {key_row(held.ref)}"
        if is_origin or held.guards.origin == origin or _is_from_the_backup(held, key):
            raise RefusedError(
                "exists",
                f"key 0x{key.ref:016x} of {source} is here already, as key 0x{held.ref:016x}",
            )
    guards = msgspec.structs.replace(key.guards, origin=origin)
    placed = msgspec.structs.replace(key, ref=header.seq << 16, guards=guards)
    keys = joined((placed, *halves_of(state, placed)), {placed.ref})
    return tuple(Put(Table.KEYS, key_row(each.ref), each) for each in keys)


def _is_from_the_backup(held: Key, key: Key) -> bool:
    """Keys of the common backup kept their reference; later ones of one reference differ."""
    return (held.ref, held.key_class, held.public, held.blob) == (
        key.ref, key.key_class, key.public, key.blob,
    )  # fmt: skip


def _user_replicated(state: State, header: e.Header, actor: e.Actor, user: User) -> tuple[Put, ...]:
    """Make a user as the clone has it; one who is here must be the same but for the password."""
    authorize(state, actor, Operation.REPLICATE_USER)
    need(
        user.role in LOGIN_ROLES and user.name != APPLIANCE_NAME,
        "role-rule",
        f"no {user.role} is replicated",
    )
    users = state.tables[Table.USERS]
    others = [u for u in state.users() if u.name == user.name and u.role is not user.role]
    need(not others, "user-inconsistent", _INCONSISTENT)
    held = users.get(user_row(user.role, user.name))
    if isinstance(held, User):
        need(_state_of(held) == _state_of(user), "user-inconsistent", _INCONSISTENT)
    else:
        limit = state.meta.limits.users
        need(len(users) < limit, "limit", f"the cluster has its {limit} users; delete some")
    for public in {user.quorum_key, user.mfa_key} - {b""}:
        check_not_taken(state, user, check_public_key(public))
    # Versions are places in the ledger: tickets from before, here or there, are good no more.
    row = msgspec.structs.replace(user, version=header.seq, unlocks=0)
    return (Put(Table.USERS, user_row(user.role, user.name), row),)


def _state_of(user: User) -> tuple[object, ...]:
    return user.locked, user.disabled, user.quorum_key, user.mfa_key
