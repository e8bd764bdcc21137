"""Encryption of data of any length, an HSM's request at a time.

CBC and CTR chain over requests: the output is the one that a single request would give, the IV
first. GCM does not: its tag covers all data, which must fit into one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from orchestrator.client.session import Session
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import AES_BLOCK_BYTES, CipherMechanism, CipherScheme

PIECE_BYTES: Final = 256 * 1024
RANDOM_PIECE_BYTES: Final = 64 * 1024
STREAMED: Final = frozenset({CipherScheme.AES_CBC_PAD, CipherScheme.AES_CTR})


def encrypt_stream(
    session: Session,
    ref: int,
    scheme: CipherScheme,
    source: BinaryIO,
    write: Callable[[bytes], object],
) -> None:
    """Encrypt all of `source`; its IV is drawn by an HSM.

    Raises:
        UsageError: the scheme cannot be chained.
    """
    _check(scheme)
    iv = session.random(AES_BLOCK_BYTES)
    write(iv)
    for piece, is_last in _pieces(source):
        made = session.encrypt(ref, piece, mechanism=_mechanism(scheme, iv, is_last=is_last))
        write(made)
        iv = _next_iv(scheme, iv, made)


def decrypt_stream(
    session: Session,
    ref: int,
    scheme: CipherScheme,
    source: BinaryIO,
    write: Callable[[bytes], object],
) -> None:
    """Decrypt what `encrypt_stream` made.

    Nothing authenticates it: a ciphertext that was changed decrypts to something else, or fails in
    its padding after earlier pieces were written.
    """
    _check(scheme)
    iv = source.read(AES_BLOCK_BYTES)
    if len(iv) != AES_BLOCK_BYTES:
        raise RefusedError("blob-refused", f"the ciphertext is shorter than the IV of {scheme}")
    for piece, is_last in _pieces(source):
        write(session.decrypt(ref, piece, mechanism=_mechanism(scheme, iv, is_last=is_last)))
        iv = _next_iv(scheme, iv, piece)


def random_stream(session: Session, count: int, write: Callable[[bytes], object]) -> None:
    """Write random bytes of the HSMs."""
    while count:
        piece = session.random(min(count, RANDOM_PIECE_BYTES))
        write(piece)
        count -= len(piece)


def _check(scheme: CipherScheme) -> None:
    if scheme not in STREAMED:
        names = " and ".join(sorted(STREAMED))
        raise UsageError(f"{scheme} takes no more than one request; {names} take data of any size")


def _pieces(source: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Yield pieces of whole blocks, and with each whether it is the last; that one may be empty."""
    piece = source.read(PIECE_BYTES)
    while True:
        following = source.read(PIECE_BYTES)
        if not following:
            yield piece, True
            return
        yield piece, False
        piece = following


def _mechanism(scheme: CipherScheme, iv: bytes, *, is_last: bool) -> CipherMechanism:
    """Only the last piece of CBC is padded."""
    is_padded = scheme is CipherScheme.AES_CBC_PAD and is_last
    if scheme is CipherScheme.AES_CBC_PAD and not is_padded:
        scheme = CipherScheme.AES_CBC
    return CipherMechanism(scheme, iv=iv)


def _next_iv(scheme: CipherScheme, iv: bytes, ciphertext: bytes) -> bytes:
    if scheme is CipherScheme.AES_CTR:  # which counts in all 128 bits
        blocks = -(-len(ciphertext) // AES_BLOCK_BYTES)
        return ((int.from_bytes(iv, "big") + blocks) % (1 << 128)).to_bytes(AES_BLOCK_BYTES, "big")
    return ciphertext[-AES_BLOCK_BYTES:]
