"""What entries about keys do to state n."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import NotFoundError
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key, check_attributes, check_label
from orchestrator.model.quorum import check_key_quorum
from orchestrator.model.roles import Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.state import Put, State, Table, key_row

KEYS_PER_ENTRY: Final = 2
BLOB_BYTES_MAX: Final = 16 * 1024


def keys_created(state: State, header: e.Header, change: e.KeysCreated) -> tuple[Put, ...]:
    """Give new keys their place, within the cluster's limits."""
    authorize(state, change.actor, Operation.GENERATE_KEY)
    keys, limits = state.tables[Table.KEYS], state.meta.limits
    need(1 <= len(change.keys) <= KEYS_PER_ENTRY, "limit", "an entry makes one key or one pair")
    need(
        len(keys) + len(change.keys) <= limits.keys,
        "limit",
        f"the cluster has room for {limits.keys} keys and holds {len(keys)}; delete some",
    )
    if any(key.key_class is not KeyClass.SECRET for key in change.keys):
        need(
            state.asymmetric_keys + len(change.keys) <= limits.asymmetric_keys,
            "limit",
            f"the cluster has room for {limits.asymmetric_keys} asymmetric keys; delete some",
        )
    puts = []
    for index, key in enumerate(change.keys):
        _check_new_key(state, key, change.actor.name)
        ref = (header.seq << 16) | index
        puts.append(Put(Table.KEYS, key_row(ref), msgspec.structs.replace(key, ref=ref)))
    return tuple(puts)


def _check_new_key(state: State, key: Key, owner: str) -> None:
    key.spec.check()
    check_label(key.label)
    check_attributes(key.attributes)
    need(key.ref == 0 and key.owner == owner, "key-rule", "a key belongs to who made it")
    values = (key.manage_quorum, key.use_quorum)
    check_sharing(state, key.key_class, owner, key.shared, values)
    need(key.attributes.token, "key-rule", "session keys are not in the ledger")
    need(not key.attributes.trusted, "key-rule", "no key is born trusted")
    need(
        len(key.blob) <= BLOB_BYTES_MAX and len(key.public) <= BLOB_BYTES_MAX,
        "key-rule",
        "a wrapped key exceeds its bounds",
    )


def check_sharing(
    state: State,
    key_class: KeyClass,
    owner: str,
    shared: tuple[str, ...],
    quorum_values: tuple[int, int],
) -> None:
    """Raise unless a key's shared users are there, and enough for its quorum values."""
    need(
        owner not in shared and len(set(shared)) == len(shared),
        "share-rule",
        "a key is shared with other users than its owner, each named once",
    )
    for name in shared:
        state.user(Role.CRYPTO_USER, name)
    # A public key has no secret to guard, and no values.
    check_key_quorum(quorum_values, 0 if key_class is KeyClass.PUBLIC else 1 + len(shared))


def check_deletable(key: Key, user: str) -> None:
    """Raise unless `user` may delete this key."""
    if not key.usable_by(user):
        raise NotFoundError("key", f"0x{key.ref:016x}", "see `cloister key list`")
    need(key.owner == user, "not-owner", f"key 0x{key.ref:016x} is {key.owner}'s to delete")
    need(key.attributes.destroyable, "not-destroyable", "the key has destroyable=false")
