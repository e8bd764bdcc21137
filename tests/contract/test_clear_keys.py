"""Keys that are given in clear: the token works with that very value, and with no other."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from orchestrator.client.verify import encrypt_pkcs1, verify_signature
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
    Usage,
)
from orchestrator.tokens.store import NoMaskingKeyError, TokenStore
from tests.contract.test_mechanisms import AES, CURVES, EC, cmac, point_of, x_of
from tests.fakes.token_store import FakeTokenStore

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
ECB = CipherMechanism(CipherScheme.AES_ECB)
DIGEST = hashlib.sha256(b"contract").digest()


def pkcs8(private: Private) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki(private: Private) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_an_aes_key_has_the_value_it_was_given(member: TokenStore, bits: int) -> None:
    spec, value = KeySpec(KeyType.AES, bits), os.urandom(bits // 8)
    made = member.import_key(spec, value)
    ecb = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # noqa: S305  # a check value
    zeros = ecb.update(bytes(16))
    assert (made.public, made.check_value) == (b"", zeros[:3])
    assert value not in made.blob
    handle = member.load(made.blob, spec, {Usage.ENCRYPT, Usage.SIGN})
    assert member.encrypt(handle, ECB, bytes(16)) == zeros
    assert member.mac(handle, MacMechanism.AES_CMAC, b"data") == cmac(value, b"data")


@pytest.mark.parametrize("length", [32, 33, 47, 63, 64, 72, 128, 136, 800])
def test_a_secret_has_the_value_it_was_given(member: TokenStore, length: int) -> None:
    spec, value = KeySpec(KeyType.GENERIC_SECRET, length * 8), os.urandom(length)
    handle = member.load(member.import_key(spec, value).blob, spec, {Usage.SIGN, Usage.VERIFY})
    for mechanism, name, digest_bytes in (
        (MacMechanism.HMAC_SHA1, "sha1", 20),
        (MacMechanism.HMAC_SHA256, "sha256", 32),
        (MacMechanism.HMAC_SHA512, "sha512", 64),
    ):
        if length >= digest_bytes:
            expected = hmac.digest(value, b"data", name)
            assert member.mac(handle, mechanism, b"data") == expected
            member.verify_mac(handle, mechanism, b"data", expected)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_an_rsa_key_has_the_value_it_was_given(member: TokenStore, bits: int) -> None:
    private = rsa.generate_private_key(65537, bits)
    spec = KeySpec(KeyType.RSA, bits, None, 65537)
    made = member.import_key(spec, pkcs8(private))
    assert made.public == spki(private)
    assert made.check_value == hashlib.sha1(made.public, usedforsecurity=False).digest()[:3]
    handle = member.load(made.blob, spec, {Usage.SIGN, Usage.DECRYPT})
    for scheme in (SignScheme.RSA_PKCS, SignScheme.RSA_PSS):
        mechanism = SignMechanism(scheme, HashFunction.SHA256, 32)
        signature = member.sign(handle, mechanism, DIGEST)
        verify_signature(spki(private), mechanism, DIGEST, signature)
    pkcs1 = CipherMechanism(CipherScheme.RSA_PKCS)
    assert member.decrypt(handle, pkcs1, encrypt_pkcs1(spki(private), b"x")) == b"x"


@pytest.mark.parametrize("number", [0, 7])
@pytest.mark.parametrize("curve", list(Curve))
def test_an_ec_key_has_the_value_it_was_given(
    member: TokenStore, curve: Curve, number: int
) -> None:
    """7: a value with zeros in front, which PKCS#11 leaves out."""
    group = CURVES[curve]
    private = ec.derive_private_key(number, group) if number else ec.generate_private_key(group)
    made = member.import_key(EC[curve], pkcs8(private))
    assert made.public == spki(private)
    handle = member.load(made.blob, EC[curve], {Usage.SIGN, Usage.DERIVE})
    mechanism = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
    signature = member.sign(handle, mechanism, DIGEST)
    verify_signature(spki(private), mechanism, DIGEST, signature)
    peer = ec.generate_private_key(group)
    derived = member.derive(handle, Agreement(point_of(peer)), AES)
    agreed = member.load(derived.blob, AES, {Usage.SIGN})
    expected = cmac(x_of(peer, spki(private))[-32:], b"data")
    assert member.mac(agreed, MacMechanism.AES_CMAC, b"data") == expected


def test_an_imported_key_is_the_same_on_every_token(member: TokenStore) -> None:
    joiner = FakeTokenStore()
    joiner.accept_masking_key(member.wrap_masking_key(joiner.transport_open()))
    value, private = os.urandom(32), ec.generate_private_key(ec.SECP256R1())
    for first, second in ((member, joiner), (joiner, member)):
        blob = first.import_key(AES, value).blob
        handle = second.load(blob, AES, {Usage.SIGN})
        assert second.mac(handle, MacMechanism.AES_CMAC, b"x") == cmac(value, b"x")
    # One way only: SoftHSM wraps PKCS#8 with zeros behind it, which the fake's parser refuses.
    blob = joiner.import_key(EC[Curve.P256], pkcs8(private)).blob
    handle = member.load(blob, EC[Curve.P256], {Usage.SIGN})
    raw = SignMechanism(SignScheme.ECDSA, None)
    verify_signature(spki(private), raw, DIGEST, member.sign(handle, raw, DIGEST))


def test_what_is_no_such_key_is_refused(member: TokenStore) -> None:
    p256, p384 = (ec.generate_private_key(CURVES[c]) for c in (Curve.P256, Curve.P384))
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505  # refused
    three = rsa.generate_private_key(3, 2048)
    rsa_2048 = KeySpec(KeyType.RSA, 2048, None, 65537)
    locked = p256.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    for spec, value in (
        (AES, b""),
        (AES, bytes(31)),
        (AES, bytes(33)),
        (KeySpec(KeyType.GENERIC_SECRET, 256), bytes(16)),
        (EC[Curve.P256], b""),
        (EC[Curve.P256], bytes(32)),
        (EC[Curve.P256], pkcs8(p384)),
        (EC[Curve.P256], pkcs8(three)),
        (EC[Curve.P256], pkcs8(ed25519.Ed25519PrivateKey.generate())),
        (EC[Curve.P256], spki(p256)),
        (EC[Curve.P256], locked),
        (EC[Curve.P256], pkcs8(p256)[:-1]),
        (rsa_2048, pkcs8(p256)),
        (rsa_2048, pkcs8(short)),
        (rsa_2048, pkcs8(three)),
        (rsa_2048, pkcs8(rsa.generate_private_key(65537, 2048)) + bytes(4096)),
    ):
        with pytest.raises(UsageError) as caught:
            member.import_key(spec, value)
        assert caught.value.__cause__ is None
    for wrong in (KeySpec(KeyType.AES, 100), KeySpec(KeyType.RSA, 1024, None, 65537)):
        with pytest.raises(RefusedError):
            member.import_key(wrong, bytes(wrong.bits // 8))
    assert member.import_key(EC[Curve.P256], pkcs8(p256)).blob


def test_only_a_member_imports(store: TokenStore) -> None:
    with pytest.raises(NoMaskingKeyError):
        store.import_key(AES, bytes(32))
