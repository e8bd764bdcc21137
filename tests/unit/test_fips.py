"""FIPS mode: the original's list, and no more."""

from __future__ import annotations

import pytest

from orchestrator.model.errors import RefusedError
from orchestrator.model.fips import check_signature, restrictions
from orchestrator.model.key_spec import (
    CURVE_BITS,
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
    check_signature("NON_FIPS", spec, mechanism)
    if hash_function not in BARRED[curve]:
        check_signature("FIPS", spec, mechanism)
        return
    with pytest.raises(RefusedError, match="Digest security strength") as caught:
        check_signature("FIPS", spec, mechanism)
    assert caught.value.code == "fips-mode"
    assert f"ECDSA on {curve} signs no digest of sha1 or sha224" in str(caught.value)


def test_the_original_signs_sha1_with_rsa() -> None:
    for scheme in (SignScheme.RSA_PKCS, SignScheme.RSA_PSS):
        check_signature("FIPS", RSA, SignMechanism(scheme, HashFunction.SHA1))


def test_the_list_can_be_read() -> None:
    assert restrictions("NON_FIPS") == ()
    assert restrictions("FIPS") == (
        "RSA PKCS#1 v1.5 encrypts, decrypts, wraps and unwraps nothing.",
        "ECDSA on secp256r1 signs no digest of sha1 or sha224.",
        "ECDSA on secp384r1 signs no digest of sha1 or sha224 or sha256.",
        "ECDSA on secp521r1 signs no digest of sha1 or sha224 or sha256 or sha384.",
        "ECDSA on secp256k1 signs no digest of sha1 or sha224.",
    )
