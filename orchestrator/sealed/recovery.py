"""The recovery key: made away from the HSMs, split to custodians as SLIP-39 words.

A 32-byte seed is what custodians share; the P-384 private key follows from it (HKDF-SHA512, then
reduction modulo the group order from 56 bytes, FIPS 186-5 A.2.1). A backup's envelope holds the
masking key encrypted to its public point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from orchestrator.model.entries import Envelope
from orchestrator.model.errors import MalformedError, RefusedError

SEED_BYTES: Final = 32
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


def recovery_key(seed: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the recovery private key of a seed."""
    hkdf = HKDF(hashes.SHA512(), 56, salt=None, info=b"cloister/1 recovery key P-384")
    number = int.from_bytes(hkdf.derive(seed), "big") % (_P384_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP384R1())


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public point (97 bytes)."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def split_seed(seed: bytes, threshold: int, shares: int) -> list[str]:
    """Split a seed into `shares` mnemonics of 33 words, any `threshold` of which give it back."""
    from shamir_mnemonic import generate_mnemonics  # noqa: PLC0415  # slow to import

    if not 2 <= threshold <= shares <= 16:
        raise RefusedError("recovery-rule", "a threshold is 2 to the number of shares, at most 16")
    [mnemonics] = generate_mnemonics(1, [(threshold, shares)], seed)
    return list(mnemonics)


def combine_shares(mnemonics: Sequence[str]) -> bytes:
    """Return the seed; raise RefusedError saying what is wrong with which share."""
    from shamir_mnemonic import MnemonicError, Share, combine_mnemonics  # noqa: PLC0415  # slow

    parsed: list[Share] = []
    for number, words in enumerate(mnemonics, start=1):
        try:
            share = Share.from_mnemonic(words)
        except MnemonicError as exc:
            raise RefusedError(
                "share-mistyped", f"share {number} is mistyped: its checksum or words are wrong"
            ) from exc
        if parsed and share.identifier != parsed[0].identifier:
            raise RefusedError(
                "share-other-set", f"share {number} belongs to another set of shares"
            )
        if any(other.index == share.index for other in parsed):
            raise RefusedError("share-twice", f"share {number} is given twice")
        parsed.append(share)
    if parsed and len(parsed) < parsed[0].member_threshold:
        raise RefusedError(
            "share-too-few",
            f"{len(parsed)} of the {parsed[0].member_threshold} shares that are needed were given",
        )
    try:
        seed = combine_mnemonics(list(mnemonics[: parsed[0].member_threshold] if parsed else []))
    except MnemonicError as exc:
        raise RefusedError("share-mistyped", f"the shares do not fit together: {exc}") from exc
    if len(seed) != SEED_BYTES:
        raise RefusedError("share-other-set", "these shares are not of a Cloister recovery key")
    return seed


def send_recovery_key(key: ec.EllipticCurvePrivateKey, transport: bytes) -> Envelope:
    """Encrypt the recovery key to the HSM whose transport point (P-384) this is.

    The HSM's token unwraps it and opens the backup's envelope inside; the masking key is in no
    host's memory.
    """
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), transport)
    except ValueError as exc:
        raise MalformedError("the HSM's transport key is no point of P-384") from exc
    ephemeral = ec.generate_private_key(ec.SECP384R1())
    kek = ephemeral.exchange(ec.ECDH(), peer)[-32:]
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Envelope(point_of(ephemeral), aes_key_wrap_with_padding(kek, pkcs8))
