"""Requests to use keys, to make such as live on one HSM, and to seal what a clone shall have."""

from __future__ import annotations

from orchestrator.model.entries import Credential, Record
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
)
from orchestrator.model.roles import Role
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.wire.messages.changes import KeyCopy, KeyDraft


class ListKeys(Record, tag=True):
    """List the caller's visible keys that match, a page at a time."""

    ticket: bytes
    seen: int
    filter: KeyFilter
    offset: int = 0
    limit: int = 10


class Sign(Record, tag=True):
    """Sign a digest, or what a raw mechanism takes."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: SignMechanism
    digest: bytes


class Encrypt(Record, tag=True):
    """Encrypt with an AES key."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: CipherMechanism
    plaintext: bytes


class Decrypt(Record, tag=True):
    """Open what Encrypt made, or what was encrypted to an RSA key's public half."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: CipherMechanism
    ciphertext: bytes


class Mac(Record, tag=True):
    """Make a MAC with an AES key or a generic secret."""

    ticket: bytes
    seen: int
    ref: int
    mechanism: MacMechanism
    data: bytes


class VerifyMac(Record, tag=True):
    """Compare a MAC in the HSM: Done when it is right, refused when not.

    `length` says how many of its bytes count, 0 that all do: the verifier's choice, for whoever
    sends a shorter one must not make it so.
    """

    ticket: bytes
    seen: int
    ref: int
    mechanism: MacMechanism
    data: bytes
    mac: bytes
    length: int = 0


class Random(Record, tag=True):
    """Draw random bytes."""

    ticket: bytes
    count: int


class MakeSessionKeys(Record, tag=True):
    """Make keys that live on this HSM until log-out or the end of this connection."""

    ticket: bytes
    spec: KeySpec
    drafts: tuple[KeyDraft, ...]


class DeriveSessionKey(Record, tag=True):
    """As DeriveKeys, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    base: int
    agreement: Agreement
    spec: KeySpec
    draft: KeyDraft


class DropSessionKey(Record, tag=True):
    """Delete a session key."""

    ticket: bytes
    ref: int


class ImportSessionKey(Record, tag=True):
    """As ImportClearKey, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    spec: KeySpec
    draft: KeyDraft
    sealed: bytes


class CopySessionKey(Record, tag=True):
    """Copy a token key of the caller's to one that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    ref: int
    copy: KeyCopy


class ChangeSessionKey(Record, tag=True):
    """Change an attribute of a session key (CLI name and value)."""

    ticket: bytes
    ref: int
    name: str
    value: str


class SealKey(Record, tag=True):
    """Seal a token key as it is to an HSM of a clone, which proves itself; answered with Data."""

    ticket: bytes
    seen: int
    ref: int
    cluster: str
    credential: Credential


class SealUser(Record, tag=True):
    """As SealKey, for a user."""

    ticket: bytes
    seen: int
    name: str
    role: Role
    cluster: str
    credential: Credential


class WrapKey(Record, tag=True):
    """Wrap key `payload` under key `wrapper`; answered with Data."""

    ticket: bytes
    seen: int
    payload: int
    wrapper: int
    mechanism: WrapMechanism


class UnwrapSessionKey(Record, tag=True):
    """As UnwrapKey, for a key that lives as those of MakeSessionKeys do."""

    ticket: bytes
    seen: int
    unwrapper: int
    mechanism: WrapMechanism
    wrapped: bytes
    key_type: KeyType
    draft: KeyDraft
