"""Whose keys and stored objects are, when users go or hand over what they own."""

from __future__ import annotations

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError
from orchestrator.model.keys import Key
from orchestrator.model.quorum import check_key_quorum
from orchestrator.model.roles import Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.state import Put, State, Table, key_row


def keys_transferred(state: State, change: e.KeysTransferred) -> tuple[Put, ...]:
    """Give all that one crypto user owns to another, who was perhaps sharing it."""
    authorize(state, change.actor, Operation.TRANSFER_KEYS)
    state.user(Role.CRYPTO_USER, change.name)
    check_heir(state, change.name, change.to)
    return left_behind(state, change.name, change.to)


def check_heir(state: State, name: str, to: str) -> None:
    """Raise unless `to` can take over what `name` owns."""
    need(name != to, "transfer-rule", "keys go to another user")
    heir = state.user(Role.CRYPTO_USER, to)
    need(not heir.disabled, "user-disabled", f"{to} is disabled; enable that user first")


def left_behind(state: State, name: str, to: str) -> tuple[Put, ...]:
    """Return what `name` owns, as it is when it belongs to `to`."""
    keys = [
        with_users(key, to, tuple(user for user in key.shared if user != to))
        for key in state.all_keys()
        if key.owner == name
    ]
    objects = [
        Put(
            Table.OBJECTS,
            key_row(stored.ref),
            msgspec.structs.replace(
                stored, owner=to, shared=tuple(user for user in stored.shared if user != to)
            ),
        )
        for stored in state.objects()
        if stored.owner == name
    ]
    return (*keys, *objects)


def shares_ended(state: State, name: str) -> tuple[Put, ...]:
    """Return what is shared with a crypto user who leaves, without that user."""
    keys = [
        with_users(key, key.owner, tuple(user for user in key.shared if user != name))
        for key in state.all_keys()
        if name in key.shared
    ]
    objects = [
        Put(
            Table.OBJECTS,
            key_row(stored.ref),
            msgspec.structs.replace(
                stored, shared=tuple(user for user in stored.shared if user != name)
            ),
        )
        for stored in state.objects()
        if name in stored.shared
    ]
    return (*keys, *objects)


def with_users(key: Key, owner: str, shared: tuple[str, ...]) -> Put:
    """Return a key as it is with these users, enough for its quorum values."""
    try:
        check_key_quorum((key.manage_quorum, key.use_quorum), 1 + len(shared))
    except RefusedError as exc:
        raise RefusedError(
            "quorum-strands",
            f"key 0x{key.ref:016x} would have fewer users than its quorum value needs; share it "
            "with another user first",
        ) from exc
    return Put(
        Table.KEYS, key_row(key.ref), msgspec.structs.replace(key, owner=owner, shared=shared)
    )
