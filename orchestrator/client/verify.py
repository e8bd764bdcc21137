"""What host code does with public halves, which need no HSM: verify, and encrypt to them."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    DIGEST_BYTES,
    CipherMechanism,
    HashFunction,
    SignMechanism,
    SignScheme,
)

_HASHES: dict[HashFunction, Callable[[], hashes.HashAlgorithm]] = {
    HashFunction.SHA1: hashes.SHA1,
    HashFunction.SHA224: hashes.SHA224,
    HashFunction.SHA256: hashes.SHA256,
    HashFunction.SHA384: hashes.SHA384,
    HashFunction.SHA512: hashes.SHA512,
}


def verify_signature(
    public: bytes, mechanism: SignMechanism, digest: bytes, signature: bytes
) -> None:
    """Verify a signature over a digest.

    Args:
        public: DER SubjectPublicKeyInfo.
        mechanism: scheme, hash and PSS salt length.
        digest: as long as the hash's.
        signature: RSA's octets, or r || s.

    Raises:
        RefusedError: `signature-invalid`, with CloudHSM's message.
    """
    algorithm = _HASHES[mechanism.hash]()
    prehashed = utils.Prehashed(algorithm)
    key = load_der_public_key(public)
    try:
        if mechanism.scheme is SignScheme.ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            if len(signature) != 2 * ((key.key_size + 7) // 8):
                raise ValueError("r and s are each as long as a coordinate")
            key.verify(der_signature(signature), digest, ec.ECDSA(prehashed))
            return
        if isinstance(key, rsa.RSAPublicKey) and mechanism.scheme is not SignScheme.ECDSA:
            scheme = (
                padding.PKCS1v15()
                if mechanism.scheme is SignScheme.RSA_PKCS
                else padding.PSS(padding.MGF1(algorithm), mechanism.salt_bytes)
            )
            key.verify(signature, digest, scheme, prehashed)
            return
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as exc:
        raise RefusedError("signature-invalid", "Signature verification failed") from exc
    raise RefusedError("key-usage", f"this key cannot verify {mechanism.scheme}")


def encrypt_oaep(public: bytes, mechanism: CipherMechanism, plaintext: bytes) -> bytes:
    """Encrypt to an RSA public half (DER SubjectPublicKeyInfo) with RSA-OAEP.

    Raises:
        UsageError: the plaintext is longer than modulus - 2 * hash - 2 bytes (RFC 8017 §7.1.1).
    """
    mechanism.check()
    key = load_der_public_key(public) if public else None
    if mechanism.hash is None or not isinstance(key, rsa.RSAPublicKey):
        raise RefusedError("key-usage", f"this key cannot encrypt with {mechanism.scheme}")
    room = (key.key_size + 7) // 8 - 2 * DIGEST_BYTES[mechanism.hash] - 2
    if len(plaintext) > room:
        raise UsageError(f"this key and hash encrypt at most {room} bytes, not {len(plaintext)}")
    algorithm = _HASHES[mechanism.hash]()
    return key.encrypt(plaintext, padding.OAEP(padding.MGF1(algorithm), algorithm, None))


def der_signature(raw: bytes) -> bytes:
    """Turn r || s into a DER ECDSA-Sig-Value."""
    half = len(raw) // 2
    if not raw or len(raw) % 2:
        raise ValueError("an ECDSA signature is r || s, both of one length")
    r, s = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    return utils.encode_dss_signature(r, s)


def raw_signature(der: bytes, coordinate_bytes: int) -> bytes:
    """Turn a DER ECDSA-Sig-Value into r || s, each as long as a coordinate of the curve."""
    try:
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(coordinate_bytes, "big") + s.to_bytes(coordinate_bytes, "big")
    except (ValueError, OverflowError) as exc:
        raise RefusedError("signature-invalid", "Signature verification failed") from exc
