"""What entries about keys do to state n."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.attribute_rules import (
    change_attribute,
    check_policy,
    joined,
    operation_to_change,
    paired,
)
from orchestrator.model.errors import NotFoundError
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key, check_label, check_usable
from orchestrator.model.ownership import with_users
from orchestrator.model.quorum import check_key_quorum
from orchestrator.model.roles import Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.state import Put, State, Table, key_row

KEYS_PER_ENTRY: Final = 2
BLOB_BYTES_MAX: Final = 16 * 1024


def keys_created(state: State, header: e.Header, change: e.KeysCreated) -> tuple[Put, ...]:
    """Give new keys their place, within the cluster's limits."""
    authorize(state, change.actor, Operation.GENERATE_KEY)
    need(1 <= len(change.keys) <= KEYS_PER_ENTRY, "limit", "an entry makes one key or one pair")
    check_room(state, change.keys)
    for key in change.keys:
        _check_new_key(state, key, change.actor.name)
    placed = [
        msgspec.structs.replace(key, ref=(header.seq << 16) | index)
        for index, key in enumerate(change.keys)
    ]
    halves: tuple[Key, ...] = ()
    if len(placed) == KEYS_PER_ENTRY:
        _check_halves(*placed)
        placed = [*paired(*placed)]
    elif placed[0].public or placed[0].guards.is_copy:
        halves = halves_of(state, placed[0])  # what came alone may have its other half here
    return _puts(joined((*placed, *halves), {key.ref for key in placed}))


def check_room(state: State, new: tuple[Key, ...]) -> None:
    """Raise RefusedError (`limit`) where the cluster holds as many keys as it may."""
    keys, limits = state.tables[Table.KEYS], state.meta.limits
    need(
        len(keys) + len(new) <= limits.keys,
        "limit",
        f"the cluster has room for {limits.keys} keys and holds {len(keys)}; delete some",
    )
    if any(key.key_class is not KeyClass.SECRET for key in new):
        need(
            state.asymmetric_keys + len(new) <= limits.asymmetric_keys,
            "limit",
            f"the cluster has room for {limits.asymmetric_keys} asymmetric keys; delete some",
        )


def _check_halves(public: Key, private: Key) -> None:
    classes = (public.key_class, private.key_class)
    need(
        classes == (KeyClass.PUBLIC, KeyClass.PRIVATE) and public.public == private.public,
        "key-rule",
        "an entry makes one key or one pair",
    )


def _puts(keys: tuple[Key, ...]) -> tuple[Put, ...]:
    return tuple(Put(Table.KEYS, key_row(key.ref), key) for key in keys)


def halves_of(state: State, key: Key) -> tuple[Key, ...]:
    """Return the cluster's other keys with the same public half, or of the same secret value."""
    others = (each for each in state.all_keys() if each.ref != key.ref)
    if key.public:
        return tuple(each for each in others if each.public == key.public)
    return tuple(each for each in others if each.blob == key.blob)


def _check_new_key(state: State, key: Key, owner: str) -> None:
    key.spec.check()
    check_label(key.label)
    need(key.ref == 0 and key.owner == owner, "key-rule", "a key belongs to who made it")
    need(key.attributes.token, "key-rule", "session keys are not in the ledger")
    need(not key.attributes.trusted, "key-rule", "no key is born trusted")
    check_policy(key)
    check_sharing(state, key)
    need(
        len(key.blob) <= BLOB_BYTES_MAX and len(key.public) <= BLOB_BYTES_MAX,
        "key-rule",
        "a wrapped key exceeds its bounds",
    )


def check_sharing(state: State, key: Key) -> None:
    """Raise unless a key's shared users are there, and enough for its quorum values."""
    need(
        key.owner not in key.shared and len(set(key.shared)) == len(key.shared),
        "share-rule",
        "a key is shared with other users than its owner, each named once",
    )
    for name in key.shared:
        state.user(Role.CRYPTO_USER, name)
    # A public key has no secret to guard, and no values.
    users = 0 if key.key_class is KeyClass.PUBLIC else 1 + len(key.shared)
    check_key_quorum((key.manage_quorum, key.use_quorum), users)


def check_owner(key: Key, user: str, deed: str) -> None:
    """Raise unless this key is `user`'s, who wants to do `deed` with it."""
    check_usable(key, user)
    need(key.owner == user, "not-owner", f"key 0x{key.ref:016x} is {key.owner}'s to {deed}")


def check_deletable(key: Key, user: str) -> None:
    """Raise unless `user` may delete this key."""
    check_owner(key, user, "delete")
    need(key.attributes.destroyable, "not-destroyable", "the key has destroyable=false")


def key_changed(state: State, change: e.KeyChanged) -> tuple[Put, ...]:
    """Change one attribute, and mark the key's other half where that says something of it too."""
    authorize(state, change.actor, operation_to_change(change.name))
    key = state.key(change.ref)
    if change.actor.role is Role.CRYPTO_USER:
        check_owner(key, change.actor.name, "change")
    changed = change_attribute(key, change.name, change.value, state.meta.hsm_type)
    return _puts(joined((changed, *halves_of(state, key)), {key.ref}))


def key_shared(state: State, change: e.KeyShared) -> tuple[Put, ...]:
    """Let another crypto user use a key."""
    key = _shareable(state, change)
    need(
        change.user not in key.shared,
        "exists",
        f"key 0x{key.ref:016x} is shared with {change.user} already",
    )
    shared = msgspec.structs.replace(key, shared=tuple(sorted((*key.shared, change.user))))
    check_sharing(state, shared)
    return _puts((shared,))


def key_unshared(state: State, change: e.KeyUnshared) -> tuple[Put, ...]:
    """End a share."""
    key = _shareable(state, change)
    if change.user not in key.shared:
        raise NotFoundError("share of", f"key 0x{key.ref:016x} with {change.user}")
    return (with_users(key, key.owner, tuple(n for n in key.shared if n != change.user)),)


def _shareable(state: State, change: e.KeyShared | e.KeyUnshared) -> Key:
    authorize(state, change.actor, Operation.SHARE_KEY)
    key = state.key(change.ref)
    check_owner(key, change.actor.name, "share")
    return key
