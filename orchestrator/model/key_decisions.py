"""What entries about keys do to state n."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import NotFoundError
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key, check_attributes, check_label
from orchestrator.model.roles import Operation
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
        _check_new_key(key, change.actor.name)
        ref = (header.seq << 16) | index
        puts.append(Put(Table.KEYS, key_row(ref), msgspec.structs.replace(key, ref=ref)))
    return tuple(puts)


def _check_new_key(key: Key, owner: str) -> None:
    key.spec.check()
    check_label(key.label)
    check_attributes(key.attributes)
    need(key.ref == 0 and key.owner == owner, "key-rule", "a key belongs to who made it")
    need(key.attributes.token, "key-rule", "session keys are not in the ledger")
    need(not key.attributes.trusted, "key-rule", "no key is born trusted")
    need(
        len(key.blob) <= BLOB_BYTES_MAX and len(key.public) <= BLOB_BYTES_MAX,
        "key-rule",
        "a wrapped key exceeds its bounds",
    )


def check_deletable(key: Key, user: str) -> None:
    """Raise unless `user` may delete this key."""
    if not key.usable_by(user):
        raise NotFoundError("key", f"0x{key.ref:016x}", "see `cloister key list`")
    need(key.owner == user, "not-owner", f"key 0x{key.ref:016x} is {key.owner}'s to delete")
    need(key.attributes.destroyable, "not-destroyable", "the key has destroyable=false")
