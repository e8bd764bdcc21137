"""Boxes: messages that one HSM (or backup key) can open. HPKE base mode, RFC 9180.

Suite: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. A box is `enc` (65 bytes) and the
ciphertext. Sealing is the library's; opening is written here because the private half of the
recipient's key is in a token, which does the ECDH.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from orchestrator.model.errors import MalformedError, TamperedError

POINT_BYTES: Final = 65
_SUITE: Final = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_KEM_ID: Final = b"KEM\x00\x10"
_SUITE_ID: Final = b"HPKE\x00\x10\x00\x01\x00\x02"

Agree = Callable[[bytes], bytes]
"""ECDH of the recipient's key with a point; returns the x coordinate (32 bytes)."""


def seal_box(recipient: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal `plaintext` to a P-256 point (65 bytes); `info` must be given again to open it."""
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), recipient)
    except ValueError as exc:
        raise MalformedError("the recipient's key is no point of P-256") from exc
    return _SUITE.encrypt(plaintext, public, info)


def open_box(recipient: bytes, agree: Agree, box: bytes, info: bytes) -> bytes:
    """Open a box with the token's ECDH.

    Raises:
        TamperedError: not sealed to this key, another `info`, or changed bytes.
    """
    enc, ciphertext = box[:POINT_BYTES], box[POINT_BYTES:]
    if len(enc) != POINT_BYTES or len(ciphertext) < 16:
        raise MalformedError("a box has at least 81 bytes")
    shared = agree(enc)
    eae_prk = _extract(_KEM_ID, b"", b"eae_prk", shared)
    secret = _expand(_KEM_ID, eae_prk, b"shared_secret", enc + recipient, 32)
    # RFC 9180 §5.1, mode_base: psk and psk_id are empty.
    context = (
        b"\x00"
        + _extract(_SUITE_ID, b"", b"psk_id_hash", b"")
        + _extract(_SUITE_ID, b"", b"info_hash", info)
    )
    prk = _extract(_SUITE_ID, secret, b"secret", b"")
    key = _expand(_SUITE_ID, prk, b"key", context, 32)
    nonce = _expand(_SUITE_ID, prk, b"base_nonce", context, 12)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except InvalidTag as exc:
        raise TamperedError("this message was not sealed to this HSM for this purpose") from exc


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    mac = HMAC(salt or bytes(32), hashes.SHA256())
    mac.update(b"HPKE-v1" + suite + label + ikm)
    return mac.finalize()


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labeled).derive(prk)
