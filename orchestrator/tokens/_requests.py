"""Checks of what callers give a token, the same for every store."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    AES_BLOCK_BYTES,
    DIGEST_BYTES,
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    Usage,
)
from orchestrator.model.wrap_mechanism import WRAPPED_BYTES_MAX, WrapMechanism, WrapScheme
from orchestrator.tokens.store import BlobRefusedError, WrappingKey

RANDOM_BYTES_MAX: Final = 65_536
PLAINTEXT_BYTES_MAX: Final = 1 << 20
AAD_BYTES_MAX: Final = 1 << 16
CLEAR_KEY_BYTES_MAX: Final = 4096
"""PKCS#8 of RSA with 4096 bits has some 2,400."""
_BLOB_BYTES_MIN, _BLOB_BYTES_MAX = 16, 16_384
_WHOLE_BLOCKS: Final = frozenset({CipherScheme.AES_ECB, CipherScheme.AES_CBC})

EC_CURVES: Final[dict[Curve, ec.EllipticCurve]] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.SECP256K1: ec.SECP256K1(),
}


def check_usage(spec: KeySpec, usages: AbstractSet[Usage], usage: Usage, key_type: KeyType) -> None:
    """Raise RefusedError unless a loaded key is of this type and was loaded for this use."""
    if spec.type is not key_type:
        raise RefusedError("key-type", f"this takes a key of type {key_type}, not {spec.type}")
    if usage not in usages:
        raise RefusedError("key-usage", f"this key may not {usage}: its attributes forbid it")


def check_sign(
    spec: KeySpec, usages: AbstractSet[Usage], mechanism: SignMechanism, digest: bytes
) -> None:
    """Raise RefusedError or UsageError unless a key of `spec` can sign `digest` so."""
    mechanism.check(spec, digest)
    check_usage(spec, usages, Usage.SIGN, spec.type)


def check_identity_digest(digest: bytes) -> None:
    """Raise UsageError unless `digest` is a SHA-256 digest."""
    if len(digest) != DIGEST_BYTES[HashFunction.SHA256]:
        raise UsageError(f"an identity signs 32-byte digests, not {len(digest)} bytes")


def check_random(count: int) -> None:
    """Raise UsageError unless `count` bytes may be drawn at once."""
    if not 1 <= count <= RANDOM_BYTES_MAX:
        raise UsageError(f"1 to {RANDOM_BYTES_MAX} random bytes at once, not {count}")


def check_plaintext(plaintext: bytes, aad: bytes = b"") -> None:
    """Raise UsageError where an operation would be too large."""
    if len(plaintext) > PLAINTEXT_BYTES_MAX or len(aad) > AAD_BYTES_MAX:
        raise UsageError(
            f"at most {PLAINTEXT_BYTES_MAX} bytes with {AAD_BYTES_MAX} bytes of additional data"
        )


def check_encrypt(
    spec: KeySpec, usages: AbstractSet[Usage], mechanism: CipherMechanism, plaintext: bytes
) -> None:
    """Raise RefusedError or UsageError unless a key of `spec` can encrypt `plaintext` so."""
    mechanism.check()
    if mechanism.key_type is KeyType.RSA:
        raise UsageError(f"{mechanism.scheme} encrypts with the public key, which needs no token")
    check_usage(spec, usages, Usage.ENCRYPT, KeyType.AES)
    check_plaintext(plaintext, mechanism.aad)
    if mechanism.scheme in _WHOLE_BLOCKS and len(plaintext) % AES_BLOCK_BYTES:
        raise UsageError(
            f"{mechanism.scheme} takes whole blocks of 16 bytes; aes-cbc-pad pads the last one"
        )
    if mechanism.scheme is CipherScheme.AES_GCM and mechanism.iv:
        raise UsageError("aes-gcm: the HSM draws the nonce of what it encrypts; give none")
    if mechanism.scheme is CipherScheme.AES_CTR and mechanism.iv:
        blocks = -(-len(plaintext) // AES_BLOCK_BYTES)
        if int.from_bytes(mechanism.iv, "big") + blocks > 1 << 128:
            raise UsageError("aes-ctr: the counter would pass its end; start from a lower one")


def check_decrypt(
    spec: KeySpec, usages: AbstractSet[Usage], mechanism: CipherMechanism, ciphertext: bytes
) -> None:
    """Raise unless a key of `spec` can decrypt so; nothing here depends on the plaintext."""
    mechanism.check()
    check_usage(spec, usages, Usage.DECRYPT, mechanism.key_type)
    if mechanism.scheme is CipherScheme.AES_GCM:
        check_ciphertext(ciphertext, mechanism)
    elif mechanism.key_type is KeyType.RSA:
        if len(ciphertext) != spec.bits // 8:
            raise BlobRefusedError(f"a ciphertext of this key has {spec.bits // 8} bytes")
    else:
        at_least, room = mechanism.drawn_bytes(), PLAINTEXT_BYTES_MAX + 2 * AES_BLOCK_BYTES
        if not at_least <= len(ciphertext) <= room:
            raise BlobRefusedError("this is no ciphertext of this token: its length is wrong")


def check_mac(
    spec: KeySpec, usages: AbstractSet[Usage], usage: Usage, mechanism: MacMechanism, data: bytes
) -> None:
    """Raise RefusedError or UsageError unless a key of `spec` makes or verifies such a MAC."""
    check_usage(spec, usages, usage, mechanism.key_type)
    check_plaintext(data)


def check_wrapper(mechanism: WrapMechanism, wrapper: WrappingKey) -> None:
    """Raise RefusedError unless a key of this type wraps or unwraps so."""
    mechanism.check()
    if wrapper.spec.type is not mechanism.key_type:
        raise RefusedError(
            "key-type", f"{mechanism.scheme} takes a key of type {mechanism.key_type}"
        )


def check_wrapped(
    mechanism: WrapMechanism, unwrapper: WrappingKey, wrapped: bytes, key_type: KeyType
) -> None:
    """Raise BlobRefusedError for bytes that are no key wrapped so; RefusedError for the type."""
    size = unwrapper.spec.bits // 8
    match mechanism.scheme:
        case WrapScheme.RSA_OAEP | WrapScheme.RSA_PKCS:
            if key_type not in {KeyType.AES, KeyType.GENERIC_SECRET}:
                raise RefusedError("payload", f"{mechanism.scheme} unwraps secret keys alone")
            good = len(wrapped) == size
        case WrapScheme.RSA_AES:
            good = size + 16 <= len(wrapped) <= WRAPPED_BYTES_MAX and not (len(wrapped) - size) % 8
        case _:
            good = 16 <= len(wrapped) <= WRAPPED_BYTES_MAX and not len(wrapped) % 8
    if not good:
        raise BlobRefusedError("this is no key wrapped so: its length is wrong")


def curve_of(spec: KeySpec) -> ec.EllipticCurve:
    """Return an EC key's curve."""
    if spec.curve is None:
        raise RefusedError("key-type", f"a key of type {spec.type} has no curve")
    return EC_CURVES[spec.curve]


def check_ciphertext(ciphertext: bytes, mechanism: CipherMechanism) -> None:
    """Raise BlobRefusedError for bytes that no AES-GCM made."""
    extra = mechanism.drawn_bytes() + mechanism.tag_bytes
    fits = extra <= len(ciphertext) <= PLAINTEXT_BYTES_MAX + GCM_NONCE_BYTES + GCM_TAG_BYTES
    if not fits or len(mechanism.aad) > AAD_BYTES_MAX:
        raise BlobRefusedError("this is no ciphertext of this token: its length is wrong")


def check_point(point: bytes, curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
    """Return the public key; raise BlobRefusedError unless it is an uncompressed curve point."""
    try:
        if point[:1] != b"\x04":
            raise ValueError("compressed")  # one message for all that is wrong
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError as exc:
        raise BlobRefusedError(f"this is no uncompressed point of {curve.name}") from exc


def check_clear_key(
    spec: KeySpec, value: bytes
) -> bytes | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return a key given in clear, or raise UsageError unless it is of `spec`."""
    spec.check()
    wrong = UsageError(f"this value is no {spec.type} key of {spec.bits} bits")
    if spec.type in {KeyType.AES, KeyType.GENERIC_SECRET}:
        if len(value) * 8 != spec.bits:
            raise wrong
        return value
    if len(value) > CLEAR_KEY_BYTES_MAX:  # what follows tests numbers for being prime
        raise wrong
    try:
        private = load_der_private_key(value, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise wrong from None  # the cause may quote what it was given
    match private:
        case rsa.RSAPrivateKey() if spec.type is KeyType.RSA:
            exponent = private.public_key().public_numbers().e
            fits = (private.key_size, exponent) == (spec.bits, spec.public_exponent)
        case ec.EllipticCurvePrivateKey() if spec.type is KeyType.EC:
            fits = private.curve.name == curve_of(spec).name
        case _:
            raise wrong
    if not fits:
        raise wrong
    return private


def check_blob_length(blob: bytes, spec: KeySpec) -> None:
    """Raise BlobRefusedError where a secret key's AES-KWP blob cannot hold `spec.bits`."""
    if spec.type in {KeyType.AES, KeyType.GENERIC_SECRET}:
        if len(blob) != 8 + (spec.bits // 8 + 7) // 8 * 8:  # RFC 5649 §3
            raise BlobRefusedError(f"this blob holds no {spec.type} key of {spec.bits} bits")
    elif not _BLOB_BYTES_MIN <= len(blob) <= _BLOB_BYTES_MAX:
        raise BlobRefusedError("this blob is no wrapped private key: its length is wrong")
