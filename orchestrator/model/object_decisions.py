"""What entries about certificates and data objects do to state n."""

from __future__ import annotations

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import NotFoundError
from orchestrator.model.objects import ObjectDraft, StoredObject
from orchestrator.model.roles import Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.state import Put, State, Table, key_row


def object_created(state: State, header: e.Header, change: e.ObjectCreated) -> tuple[Put, ...]:
    """Give a new object its place, within the cluster's limit."""
    authorize(state, change.actor, Operation.MANAGE_OBJECTS)
    limit = state.meta.limits.objects
    need(
        len(state.tables[Table.OBJECTS]) < limit,
        "limit",
        f"the cluster holds its {limit} certificates and data objects; delete some",
    )
    change.draft.check()
    _check_shares(state, change.draft, change.actor.name)
    ref = header.seq << 16
    stored = StoredObject(ref=ref, owner=change.actor.name, **msgspec.structs.asdict(change.draft))
    return (Put(Table.OBJECTS, key_row(ref), stored),)


def object_edited(state: State, change: e.ObjectEdited) -> tuple[Put, ...]:
    """Change an object of the actor's that may change."""
    stored = _owned(state, change.actor, change.ref, "change")
    need(stored.modifiable, "not-modifiable", "the object has modifiable=false")
    edited = change.edit.apply(stored)
    edited.check()
    _check_shares(state, edited, stored.owner)
    return (Put(Table.OBJECTS, key_row(change.ref), edited),)


def object_deleted(state: State, change: e.ObjectDeleted) -> tuple[Put, ...]:
    """Delete an object of the actor's that may go."""
    stored = _owned(state, change.actor, change.ref, "delete")
    need(stored.destroyable, "not-destroyable", "the object has destroyable=false")
    return (Put(Table.OBJECTS, key_row(change.ref), None),)


def _owned(state: State, actor: e.Actor, ref: int, deed: str) -> StoredObject:
    authorize(state, actor, Operation.MANAGE_OBJECTS)
    stored = state.object(ref)
    if not stored.visible_to(actor.name):
        raise NotFoundError("object", f"0x{ref:016x}")
    need(
        stored.owner == actor.name,
        "not-owner",
        f"object 0x{ref:016x} is {stored.owner}'s to {deed}",
    )
    return stored


def _check_shares(state: State, draft: ObjectDraft, owner: str) -> None:
    for user in draft.shared:
        state.user(Role.CRYPTO_USER, user)
        need(user != owner, "share-rule", f"{user} owns the object; share it with others")
