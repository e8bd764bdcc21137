"""What host code does with public halves, which need no HSM: verify, and encrypt to them."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    DIGEST_BYTES,
    ECDSA_DIGEST_BYTES_MAX,
    CipherMechanism,
    CipherScheme,
    HashFunction,
    KeyType,
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
_AS_LONG_AS_ORDER = {
    256: HashFunction.SHA256,
    384: HashFunction.SHA384,
    521: HashFunction.SHA512,
}


def verify_signature(
    public: bytes, mechanism: SignMechanism, digest: bytes, signature: bytes
) -> None:
    """Verify a signature over a digest.

    Args:
        public: DER SubjectPublicKeyInfo.
        mechanism: scheme, hash and PSS salt length, or a raw one.
        digest: as long as the hash's; for a raw mechanism what was signed.
        signature: RSA's octets, or r || s.

    Raises:
        RefusedError: `signature-invalid`, with CloudHSM's message.
    """
    key = load_der_public_key(public)
    try:
        if mechanism.scheme is SignScheme.ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            _verify_ecdsa(key, mechanism, digest, signature)
            return
        if isinstance(key, rsa.RSAPublicKey) and mechanism.scheme is not SignScheme.ECDSA:
            _verify_rsa(key, mechanism, digest, signature)
            return
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as exc:
        raise RefusedError("signature-invalid", "Signature verification failed") from exc
    raise RefusedError("key-usage", f"this key cannot verify {mechanism.scheme}")


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey, mechanism: SignMechanism, digest: bytes, signature: bytes
) -> None:
    if len(signature) != 2 * ((key.key_size + 7) // 8):
        raise ValueError("r and s are each as long as a coordinate")
    hash_function = mechanism.hash
    if hash_function is None:
        # The library takes digests as long as a hash's. These leftmost bits, as a number (FIPS
        # 186-4 §6.4), are the same in a hash no longer than the curve's order.
        if not 1 <= len(digest) <= ECDSA_DIGEST_BYTES_MAX:
            raise ValueError("no digest that ECDSA takes here")
        hash_function = _AS_LONG_AS_ORDER[key.key_size]
        length = DIGEST_BYTES[hash_function]
        digest = digest[:length].rjust(length, b"\0")
    prehashed = utils.Prehashed(_HASHES[hash_function]())
    key.verify(der_signature(signature), digest, ec.ECDSA(prehashed))


def _verify_rsa(
    key: rsa.RSAPublicKey, mechanism: SignMechanism, digest: bytes, signature: bytes
) -> None:
    if mechanism.hash is None:
        if mechanism.scheme is not SignScheme.RSA_PKCS:
            raise ValueError("PSS has a hash function")
        if key.recover_data_from_signature(signature, padding.PKCS1v15(), None) != digest:
            raise InvalidSignature
        return
    algorithm = _HASHES[mechanism.hash]()
    scheme = (
        padding.PKCS1v15()
        if mechanism.scheme is SignScheme.RSA_PKCS
        else padding.PSS(padding.MGF1(algorithm), mechanism.salt_bytes)
    )
    key.verify(signature, digest, scheme, utils.Prehashed(algorithm))


def public_point(public: bytes) -> bytes:
    """Return the uncompressed point of an EC public key in PEM, or raise UsageError."""
    public_type(public)
    key = load_pem_public_key(public)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError("ECDH takes the peer's EC public key")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def public_type(public: bytes) -> KeyType:
    """Return the type of a public key in PEM, or raise UsageError."""
    try:
        key = load_pem_public_key(public)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise UsageError("this is no public key in PEM") from exc
    if isinstance(key, rsa.RSAPublicKey):
        return KeyType.RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        return KeyType.EC
    raise UsageError("only RSA and EC public keys can be imported")


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


def encrypt_pkcs1(public: bytes, plaintext: bytes) -> bytes:
    """Encrypt to an RSA public half (DER SubjectPublicKeyInfo) with RSA PKCS#1 v1.5.

    Raises:
        UsageError: the plaintext is longer than modulus - 11 bytes (RFC 8017 §7.2.1).
    """
    key = load_der_public_key(public) if public else None
    if not isinstance(key, rsa.RSAPublicKey):
        raise RefusedError("key-usage", f"this key cannot encrypt with {CipherScheme.RSA_PKCS}")
    room = (key.key_size + 7) // 8 - 11
    if len(plaintext) > room:
        raise UsageError(f"this key encrypts at most {room} bytes, not {len(plaintext)}")
    return key.encrypt(plaintext, padding.PKCS1v15())


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
