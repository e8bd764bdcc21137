"""What PKCS#11 applications ask for beside hash-and-sign, against `cryptography`."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from orchestrator.client.verify import encrypt_pkcs1, verify_signature
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    CURVE_BITS,
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
from orchestrator.tokens.store import BlobRefusedError, TokenStore
from tests.contract.test_mechanisms import AES, EC, IV, SECRET, agreed

RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
ROOM = 256 - 11
RAW_RSA = SignMechanism(SignScheme.RSA_PKCS, None)
RAW_ECDSA = SignMechanism(SignScheme.ECDSA, None)
ECB = CipherMechanism(CipherScheme.AES_ECB)
PKCS1 = CipherMechanism(CipherScheme.RSA_PKCS)
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def rsa_public(public: bytes) -> rsa.RSAPublicKey:
    loaded = load_der_public_key(public)
    assert isinstance(loaded, rsa.RSAPublicKey)
    return loaded


def test_pkcs1_pads_what_it_is_given(member: TokenStore) -> None:
    made = member.generate(RSA)
    handle = member.load(made.blob, RSA, {Usage.SIGN})
    public = rsa_public(made.public)
    md5_and_sha1 = bytes(range(36))  # as TLS 1.1 has it: no DigestInfo
    for data in (b"", b"x", md5_and_sha1, bytes(ROOM)):
        signature = member.sign(handle, RAW_RSA, data)
        recovered = public.recover_data_from_signature(signature, padding.PKCS1v15(), None)
        assert recovered == data
        verify_signature(made.public, RAW_RSA, data, signature)
        with pytest.raises(RefusedError):
            verify_signature(made.public, RAW_RSA, data + b"\0", signature)
    with pytest.raises(UsageError, match=f"at most {ROOM} bytes"):
        member.sign(handle, RAW_RSA, bytes(ROOM + 1))
    # A DigestInfo that the caller made is what the hash's own mechanism makes of its digest.
    digest = hashlib.sha256(b"contract").digest()
    named = member.sign(handle, SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256), digest)
    assert member.sign(handle, RAW_RSA, SHA256_INFO + digest) == named


@pytest.mark.parametrize("curve", list(Curve))
def test_ecdsa_takes_the_leftmost_bits_of_any_digest(member: TokenStore, curve: Curve) -> None:
    made = member.generate(EC[curve])
    handle = member.load(made.blob, EC[curve], {Usage.SIGN})
    order_bytes = min(CURVE_BITS[curve] // 8, 64)
    for length in (1, 16, 20, 28, 31, 32, 33, 48, 63, 64):
        digest = b"\xa5" * length
        signature = member.sign(handle, RAW_ECDSA, digest)
        verify_signature(made.public, RAW_ECDSA, digest, signature)
        with pytest.raises(RefusedError):
            verify_signature(made.public, RAW_ECDSA, b"\x5a" + digest[1:], signature)
        if length > order_bytes:  # FIPS 186-4 §6.4: the rest does not count
            verify_signature(made.public, RAW_ECDSA, digest[:order_bytes], signature)
    signature = member.sign(handle, RAW_ECDSA, bytes(32))
    for wrong in (b"", bytes(65)):
        with pytest.raises(UsageError):
            member.sign(handle, RAW_ECDSA, wrong)
        with pytest.raises(RefusedError):
            verify_signature(made.public, RAW_ECDSA, wrong, signature)


def test_raw_and_hashed_ecdsa_are_one(member: TokenStore) -> None:
    made = member.generate(EC[Curve.P384])
    handle = member.load(made.blob, EC[Curve.P384], {Usage.SIGN})
    for hash_function in HashFunction:
        digest = hashlib.new(hash_function, b"contract").digest()
        named = SignMechanism(SignScheme.ECDSA, hash_function)
        verify_signature(made.public, named, digest, member.sign(handle, RAW_ECDSA, digest))
        verify_signature(made.public, RAW_ECDSA, digest, member.sign(handle, named, digest))


def test_pss_has_any_salt_and_its_hash(member: TokenStore) -> None:
    made = member.generate(RSA)
    handle = member.load(made.blob, RSA, {Usage.SIGN})
    digest = hashlib.sha256(b"contract").digest()
    for salt in (0, 1, 20, 32, 222):
        mechanism = SignMechanism(SignScheme.RSA_PSS, HashFunction.SHA256, salt)
        signature = member.sign(handle, mechanism, digest)
        verify_signature(made.public, mechanism, digest, signature)
    signature = member.sign(handle, RAW_RSA, digest)
    for wrong in (
        SignMechanism(SignScheme.RSA_PSS, HashFunction.SHA256, 223),
        SignMechanism(SignScheme.RSA_PSS, HashFunction.SHA256, -1),
        SignMechanism(SignScheme.RSA_PSS, None, 32),
    ):
        with pytest.raises(UsageError):
            member.sign(handle, wrong, digest)
    with pytest.raises(RefusedError):
        verify_signature(made.public, SignMechanism(SignScheme.RSA_PSS, None), digest, signature)


def test_a_raw_mechanism_wants_its_type_of_key(member: TokenStore) -> None:
    ec_key = member.load(member.generate(EC[Curve.P256]).blob, EC[Curve.P256], {Usage.SIGN})
    rsa_key = member.load(member.generate(RSA).blob, RSA, {Usage.SIGN})
    for handle, mechanism in ((ec_key, RAW_RSA), (rsa_key, RAW_ECDSA)):
        with pytest.raises(RefusedError) as caught:
            member.sign(handle, mechanism, bytes(32))
        assert caught.value.code == "key-type"


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_ecb_is_the_standards(member: TokenStore, bits: int) -> None:
    spec = KeySpec(KeyType.AES, bits)
    handle, value = agreed(member, spec, {Usage.ENCRYPT, Usage.DECRYPT})
    for length in (0, 16, 4096):
        plain = os.urandom(length)
        host = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # noqa: S305  # compared
        sealed = member.encrypt(handle, ECB, plain)
        assert sealed == host.update(plain) + host.finalize()
        assert member.decrypt(handle, ECB, sealed) == plain
    with pytest.raises(UsageError, match="whole blocks"):
        member.encrypt(handle, ECB, bytes(17))
    with pytest.raises(BlobRefusedError):
        member.decrypt(handle, ECB, bytes(17))
    with pytest.raises(UsageError):
        member.encrypt(handle, CipherMechanism(CipherScheme.AES_ECB, IV), bytes(16))


def test_pkcs1_opens_what_the_public_half_sealed(member: TokenStore) -> None:
    made = member.generate(RSA)
    handle = member.load(made.blob, RSA, {Usage.DECRYPT})
    for plain in (b"", b"x", bytes(48), b"y" * ROOM):
        assert member.decrypt(handle, PKCS1, encrypt_pkcs1(made.public, plain)) == plain
        sealed = rsa_public(made.public).encrypt(plain, padding.PKCS1v15())
        assert member.decrypt(handle, PKCS1, sealed) == plain
    with pytest.raises(UsageError, match=f"at most {ROOM} bytes"):
        encrypt_pkcs1(made.public, b"y" * (ROOM + 1))
    with pytest.raises(RefusedError):
        encrypt_pkcs1(member.generate(EC[Curve.P256]).public, b"x")
    with pytest.raises(UsageError):
        member.encrypt(handle, PKCS1, b"x")


def test_bad_pkcs1_padding_says_what_any_failure_says(member: TokenStore) -> None:
    """Bleichenbacher 1998: which check failed must not be told."""
    made = member.generate(RSA)
    handle = member.load(made.blob, RSA, {Usage.DECRYPT})
    numbers = rsa_public(made.public).public_numbers()
    filler = b"\x01" * 253
    wrong = [
        b"\0\1" + filler + b"\0",  # a signature's padding
        b"\1\2" + filler[:252] + b"\0x",  # first byte
        b"\0\2" + filler + b"\x01",  # no end
        b"\0\2" + b"\x01" * 7 + b"\0" + b"x" * 246,  # padding too short
        b"\0" * 255 + b"\1",
    ]
    said = set()
    for padded in wrong:
        assert len(padded) == 256
        sealed = pow(int.from_bytes(padded, "big"), numbers.e, numbers.n).to_bytes(256, "big")
        with pytest.raises(BlobRefusedError) as caught:
            member.decrypt(handle, PKCS1, sealed)
        said.add((caught.value.code, str(caught.value)))
    with pytest.raises(BlobRefusedError) as caught:
        member.decrypt(handle, PKCS1, b"\xff" * 256)  # not below the modulus
    said.add((caught.value.code, str(caught.value)))
    assert len(said) == 1
    assert member.decrypt(handle, PKCS1, encrypt_pkcs1(made.public, b"still")) == b"still"


@pytest.mark.parametrize("tag_bytes", range(12, 17))
def test_gcm_opens_what_others_made(member: TokenStore, tag_bytes: int) -> None:
    handle, value = agreed(member, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    nonce, aad = os.urandom(12), b"aad"
    foreign = CipherMechanism(CipherScheme.AES_GCM, nonce, aad, tag_bytes=tag_bytes)
    for length in (0, 1, 5000):
        plain = os.urandom(length)
        sealed = AESGCM(value).encrypt(nonce, plain, aad)[: length + tag_bytes]
        assert member.decrypt(handle, foreign, sealed) == plain
        own = CipherMechanism(CipherScheme.AES_GCM, aad=aad, tag_bytes=tag_bytes)
        made = member.encrypt(handle, own, plain)
        assert len(made) == 12 + length + tag_bytes
        assert made[12:] == AESGCM(value).encrypt(made[:12], plain, aad)[: length + tag_bytes]
        assert member.decrypt(handle, own, made) == plain
        for bad in (
            sealed[:-1] + bytes([sealed[-1] ^ 1]),
            sealed[:-1],
            sealed + b"\0",
            sealed[:11],
            b"",
        ):
            with pytest.raises(BlobRefusedError):
                member.decrypt(handle, foreign, bad)


def test_nobody_chooses_the_nonce_of_gcm(member: TokenStore) -> None:
    handle, _ = agreed(member, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    with pytest.raises(UsageError, match="draws the nonce"):
        member.encrypt(handle, CipherMechanism(CipherScheme.AES_GCM, bytes(12)), b"x")
    for iv, tag_bytes in ((bytes(11), 16), (bytes(16), 16), (b"", 11), (b"", 17), (b"", 0)):
        wrong = CipherMechanism(CipherScheme.AES_GCM, iv, tag_bytes=tag_bytes)
        with pytest.raises(UsageError):
            member.encrypt(handle, wrong, b"x")
        with pytest.raises(UsageError):
            member.decrypt(handle, wrong, bytes(64))
    for scheme in (CipherScheme.AES_CTR, CipherScheme.AES_ECB, CipherScheme.RSA_PKCS):
        with pytest.raises(UsageError, match="tag"):
            CipherMechanism(scheme, tag_bytes=12).check()


@pytest.mark.parametrize("mechanism", list(MacMechanism))
def test_a_short_mac_counts_where_the_verifier_says_so(
    member: TokenStore, mechanism: MacMechanism
) -> None:
    spec = AES if mechanism is MacMechanism.AES_CMAC else SECRET
    handle = member.load(member.generate(spec).blob, spec, {Usage.SIGN, Usage.VERIFY})
    whole = member.mac(handle, mechanism, b"data")
    assert len(whole) == mechanism.mac_bytes
    for length in (10, 12, len(whole)):
        member.verify_mac(handle, mechanism, b"data", whole[:length], length)
        wrong = whole[: length - 1] + bytes([whole[length - 1] ^ 1])
        for bad in (wrong, whole[: length - 1], whole[:length] + b"\0", b""):
            with pytest.raises(RefusedError):
                member.verify_mac(handle, mechanism, b"data", bad, length)
    for short in (whole[:-1], whole[:10], b""):  # nothing was said: all of it counts
        with pytest.raises(RefusedError):
            member.verify_mac(handle, mechanism, b"data", short)
    for length in (-1, 1, 9, len(whole) + 1):
        with pytest.raises(UsageError):
            member.verify_mac(handle, mechanism, b"data", whole[:length], length)
