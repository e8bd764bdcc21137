"""FIPS mode: the original's list, and no more."""

from __future__ import annotations

import pytest

from orchestrator.model.errors import RefusedError
from orchestrator.model.fips import check_decryption, check_signature, restrictions
from orchestrator.model.key_spec import (
    CURVE_BITS,
    DIGEST_BYTES,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)

RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
BARRED = {
    Curve.P256: {"sha1", "sha224"},
    Curve.SECP256K1: {"sha1", "sha224"},
    Curve.P384: {"sha1", "sha224", "sha256"},
    Curve.P521: {"sha1", "sha224", "sha256", "sha384"},
}


@pytest.mark.parametrize("hash_function", list(HashFunction))
@pytest.mark.parametrize("curve", list(Curve))
def test_a_hash_is_as_strong_as_its_curve(curve: Curve, hash_function: HashFunction) -> None:
    spec = KeySpec(KeyType.EC, CURVE_BITS[curve], curve)
    mechanism = SignMechanism(SignScheme.ECDSA, hash_function)
    digest = bytes(DIGEST_BYTES[hash_function])
    raw = SignMechanism(SignScheme.ECDSA, None)
    check_signature("NON_FIPS", spec, mechanism, digest)
    check_signature("NON_FIPS", spec, raw, digest)
    if hash_function not in BARRED[curve]:
        check_signature("FIPS", spec, mechanism, digest)
        check_signature("FIPS", spec, raw, digest)
        return
    with pytest.raises(RefusedError, match="Digest security strength") as caught:
        check_signature("FIPS", spec, mechanism, digest)
    with pytest.raises(RefusedError, match="Digest security strength"):
        check_signature("FIPS", spec, raw, digest)
    assert caught.value.code == "fips-mode"
    assert f"ECDSA on {curve} signs no digest of sha1 or sha224" in str(caught.value)


def test_the_original_signs_sha1_with_rsa() -> None:
    for scheme in (SignScheme.RSA_PKCS, SignScheme.RSA_PSS):
        check_signature("FIPS", RSA, SignMechanism(scheme, HashFunction.SHA1), bytes(20))
    check_signature("FIPS", RSA, SignMechanism(SignScheme.RSA_PKCS, None), b"")


@pytest.mark.parametrize("length", range(65))
def test_a_raw_digest_is_as_strong_as_its_length(length: int) -> None:
    spec = KeySpec(KeyType.EC, 256, Curve.P256)
    raw = SignMechanism(SignScheme.ECDSA, None)
    if length >= 32:
        check_signature("FIPS", spec, raw, bytes(length))
        return
    with pytest.raises(RefusedError) as caught:
        check_signature("FIPS", spec, raw, bytes(length))
    assert caught.value.code == "fips-mode"


def test_pkcs1_decrypts_outside_fips_mode_alone() -> None:
    mechanism = CipherMechanism(CipherScheme.RSA_PKCS)
    check_decryption("NON_FIPS", mechanism)
    with pytest.raises(RefusedError) as caught:
        check_decryption("FIPS", mechanism)
    assert caught.value.code == "fips-mode"
    check_decryption("FIPS", CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1))


def test_the_list_can_be_read() -> None:
    assert restrictions("NON_FIPS") == ()
    assert restrictions("FIPS") == (
        "RSA PKCS#1 v1.5 encrypts, decrypts, wraps and unwraps nothing.",
        "ECDSA on secp256r1 signs no digest of sha1 or sha224.",
        "ECDSA on secp384r1 signs no digest of sha1 or sha224 or sha256.",
        "ECDSA on secp521r1 signs no digest of sha1 or sha224 or sha256 or sha384.",
        "ECDSA on secp256k1 signs no digest of sha1 or sha224.",
    )
