"""What a cluster in FIPS mode refuses: CloudHSM's list, as data. A policy, no validation.

It is the list of the original and no more: secp256k1, SHA-1 under RSA and short HMAC keys pass
there, so they pass here. Verifying is never barred.
"""

from __future__ import annotations

from typing import Final

from orchestrator.model.errors import RefusedError
from orchestrator.model.key_spec import (
    DIGEST_BYTES,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeySpec,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.wrap_mechanism import WrapScheme

FIPS: Final = "FIPS"

# SP 800-57 part 1, tables 2 and 3; the 80 bits of SHA-1 are those of CloudHSM's message.
HASH_STRENGTH_BITS: Final = {
    HashFunction.SHA1: 80,
    HashFunction.SHA224: 112,
    HashFunction.SHA256: 128,
    HashFunction.SHA384: 192,
    HashFunction.SHA512: 256,
}
CURVE_STRENGTH_BITS: Final = {
    Curve.P256: 128,
    Curve.P384: 192,
    Curve.P521: 256,
    Curve.SECP256K1: 128,
}


def restrictions(mode: str) -> tuple[str, ...]:
    """Return what a cluster of this mode refuses, a sentence each."""
    if mode != FIPS:
        return ()
    return (
        "RSA PKCS#1 v1.5 encrypts, decrypts, wraps and unwraps nothing.",
        *(_weak_hashes(curve) for curve in Curve),
    )


def check_wrapping(mode: str, scheme: WrapScheme) -> None:
    """Raise RefusedError (`fips-mode`) where this mode neither wraps nor unwraps so."""
    if mode == FIPS and scheme is WrapScheme.RSA_PKCS:
        raise RefusedError(
            "fips-mode",
            "in FIPS mode RSA PKCS#1 v1.5 wraps and unwraps nothing; rsa-oaep and rsa-aes do",
        )


def _weak_hashes(curve: Curve) -> str:
    weak = [str(hash_) for hash_ in HashFunction if _is_weak(hash_, curve)]
    return f"ECDSA on {curve} signs no digest of {' or '.join(weak)}."


def _is_weak(hash_function: HashFunction, curve: Curve) -> bool:
    return HASH_STRENGTH_BITS[hash_function] < CURVE_STRENGTH_BITS[curve]


def _strength_bits(mechanism: SignMechanism, digest: bytes) -> int:
    """Return a digest's strength; one of no named hash is as strong as the longest it can be of."""
    if mechanism.hash is not None:
        return HASH_STRENGTH_BITS[mechanism.hash]
    fitting = [
        bits for hash_, bits in HASH_STRENGTH_BITS.items() if DIGEST_BYTES[hash_] <= len(digest)
    ]
    return max(fitting, default=0)


def check_signature(mode: str, spec: KeySpec, mechanism: SignMechanism, digest: bytes) -> None:
    """Raise RefusedError (`fips-mode`) where this mode makes no such signature."""
    if mode != FIPS or mechanism.scheme is not SignScheme.ECDSA or spec.curve is None:
        return
    strength = _strength_bits(mechanism, digest)
    if strength < CURVE_STRENGTH_BITS[spec.curve]:
        raise RefusedError(
            "fips-mode",
            f"Digest security strength ({strength}) is weaker than the "
            f"key security strength ({CURVE_STRENGTH_BITS[spec.curve]}): in FIPS mode "
            f"{_weak_hashes(spec.curve).rstrip('.')}; NON_FIPS clusters of hsm2m.medium do",
        )


def check_decryption(mode: str, mechanism: CipherMechanism) -> None:
    """Raise RefusedError (`fips-mode`) where this mode decrypts nothing so."""
    if mode == FIPS and mechanism.scheme is CipherScheme.RSA_PKCS:
        raise RefusedError(
            "fips-mode",
            "in FIPS mode RSA PKCS#1 v1.5 decrypts nothing; use rsa-oaep, or a NON_FIPS cluster of "
            "hsm2m.medium",
        )
