"""What sealed messages are bound to."""

from __future__ import annotations


def password_info(purpose: str, hsm: str, nonce: bytes, role: str, name: str) -> bytes:
    """Return what binds a sealed password to purpose, HSM, connection and user.

    The connection's nonce makes a recorded message worthless on any other connection.
    """
    return f"cloister/1 {purpose} {hsm} {role} {name} ".encode() + nonce


def box_info(epoch: int, cluster: str) -> bytes:
    """Return what binds the boxes of a rekeying entry."""
    return f"cloister/1 rekey {epoch} {cluster}".encode()
