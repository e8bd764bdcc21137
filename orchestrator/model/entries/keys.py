"""Changes of keys, and of the objects beside them."""

from __future__ import annotations

from orchestrator.model.entries.cluster import Credential
from orchestrator.model.entries.record import Record
from orchestrator.model.entries.users import Actor
from orchestrator.model.keys import Key
from orchestrator.model.objects import ObjectDraft, ObjectEdit


class KeysCreated(Record, tag="keys-created"):
    """New token keys, with `ref` 0; their references follow from the entry's place."""

    actor: Actor
    keys: tuple[Key, ...]


class KeyDeleted(Record, tag="key-deleted"):
    """A token key is gone from every HSM; backups still hold it."""

    actor: Actor
    ref: int


class KeyChanged(Record, tag="key-changed"):
    """An attribute of a token key has another value (CLI name and value)."""

    actor: Actor
    ref: int
    name: str
    value: str


class KeyShared(Record, tag="key-shared"):
    """Another crypto user may use a token key."""

    actor: Actor
    ref: int
    user: str


class KeyUnshared(Record, tag="key-unshared"):
    """A crypto user may use a token key no more."""

    actor: Actor
    ref: int
    user: str


class KeysTransferred(Record, tag="keys-transferred"):
    """All keys of crypto user `name` belong to crypto user `to`."""

    actor: Actor
    name: str
    to: str


class Replica(Record):
    """A key or a user as one cluster of a family gives it to another: one of the two is empty.

    `key` and `user` are the rows as they are stored; `destination` is the HSM that asked.
    """

    source: str
    hsm: str
    destination_cluster: str
    destination: str
    at: int
    key: bytes = b""
    user: bytes = b""


class SignedReplica(Record):
    """A Replica as bytes, its HSM's signature, and what proves that HSM to a clone."""

    replica: bytes
    signature: bytes
    credential: Credential


class Replicated(Record, tag="replicated"):
    """A key or a user has come from a clone; the source's HSM signed it as it was there."""

    actor: Actor
    signed: SignedReplica


class ObjectCreated(Record, tag="object-created"):
    """A new certificate or data object of the actor's."""

    actor: Actor
    draft: ObjectDraft


class ObjectEdited(Record, tag="object-edited"):
    """A certificate or data object has changed."""

    actor: Actor
    ref: int
    edit: ObjectEdit


class ObjectDeleted(Record, tag="object-deleted"):
    """A certificate or data object is gone from every HSM; backups still hold it."""

    actor: Actor
    ref: int
