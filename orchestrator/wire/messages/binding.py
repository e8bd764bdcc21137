"""What sealed messages are bound to."""

from __future__ import annotations

import hashlib

from orchestrator.model.entries import encode
from orchestrator.model.key_spec import KeySpec
from orchestrator.wire.messages.changes import KeyDraft


def password_info(purpose: str, hsm: str, nonce: bytes, role: str, name: str) -> bytes:
    """Return what binds a sealed password to purpose, HSM, connection and user.

    The connection's nonce makes a recorded message worthless on any other connection.
    """
    return f"cloister/1 {purpose} {hsm} {role} {name} ".encode() + nonce


def clear_key_info(hsm: str, nonce: bytes, name: str, spec: KeySpec, draft: KeyDraft) -> bytes:
    """Return what binds a sealed clear key to HSM, connection, user, and what it is to become.

    So nobody on the way can have it imported as another key than its owner meant.
    """
    shape = hashlib.sha256(encode(spec) + encode(draft)).digest()
    return f"cloister/1 clear-key {hsm} {name} ".encode() + shape + nonce


def replica_info(source: str, destination: str, hsm: str) -> bytes:
    """Return what binds a replica to both clusters and to the HSM that may open it."""
    return f"cloister/1 replica {source} {destination} {hsm}".encode()


def box_info(epoch: int, cluster: str) -> bytes:
    """Return what binds the boxes of a rekeying entry."""
    return f"cloister/1 rekey {epoch} {cluster}".encode()
