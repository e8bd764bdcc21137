"""What keys can do, for every token store.

No key can be put into a token, and none read out of it. So the values to compare with come from
ECDH: who holds the peer's private key knows the derived key, and computes on the host what the
token computes with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Set as AbstractSet

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.verify import encrypt_oaep, verify_signature
from orchestrator.model.errors import (
    MechanismUnavailableError,
    OrchestratorError,
    RefusedError,
    UsageError,
)
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    Kdf,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
    Usage,
    coordinate_bytes,
)
from orchestrator.tokens.store import BlobRefusedError, Handle, TokenStore
from tests.fakes.token_store import FakeTokenStore

CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.SECP256K1: ec.SECP256K1(),
}
EC = {curve: KeySpec(KeyType.EC, bits, curve) for curve, bits in CURVE_BITS.items()}
AES = KeySpec(KeyType.AES, 256)
SECRET = KeySpec(KeyType.GENERIC_SECRET, 512)
OAEP = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
GCM = CipherMechanism(CipherScheme.AES_GCM)
CBC = CipherMechanism(CipherScheme.AES_CBC)
CBC_PAD = CipherMechanism(CipherScheme.AES_CBC_PAD)
CTR = CipherMechanism(CipherScheme.AES_CTR)
IV = bytes(range(16))
LENGTHS = (0, 1, 15, 16, 17, 48, 5000)


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def x_of(own: ec.EllipticCurvePrivateKey, public: bytes) -> bytes:
    """Return what the peer computes: the x coordinate."""
    theirs = load_der_public_key(public)
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    return own.exchange(ec.ECDH(), theirs)


def agreed(
    member: TokenStore, spec: KeySpec, usages: AbstractSet[Usage], curve: Curve = Curve.P256
) -> tuple[Handle, bytes]:
    """Return a loaded key, and its value as only the peer can know it."""
    made, peer = member.generate(EC[curve]), ec.generate_private_key(CURVES[curve])
    base = member.load(made.blob, EC[curve], {Usage.DERIVE})
    derived = member.derive(base, Agreement(point_of(peer)), spec)
    assert derived.public == b""
    return member.load(derived.blob, spec, usages), x_of(peer, made.public)[-spec.bits // 8 :]


def cmac(key: bytes, data: bytes) -> bytes:
    made = CMAC(algorithms.AES(key))
    made.update(data)
    return made.finalize()


def by_host(mechanism: CipherMechanism, key: bytes, iv: bytes, data: bytes) -> bytes:
    """Return a ciphertext of CBC or CTR as the host computes it."""
    if mechanism.scheme is CipherScheme.AES_CBC_PAD:
        padder = PKCS7(128).padder()
        data = padder.update(data) + padder.finalize()
    mode = modes.CTR(iv) if mechanism.scheme is CipherScheme.AES_CTR else modes.CBC(iv)
    encryptor = Cipher(algorithms.AES(key), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


# --- signing ---


@pytest.mark.parametrize("hash_function", list(HashFunction))
@pytest.mark.parametrize("curve", list(Curve))
def test_every_curve_signs(member: TokenStore, curve: Curve, hash_function: HashFunction) -> None:
    made = member.generate(EC[curve])
    handle = member.load(made.blob, EC[curve], {Usage.SIGN})
    mechanism = SignMechanism(SignScheme.ECDSA, hash_function)
    digest = hashlib.new(hash_function, b"contract").digest()
    signature = member.sign(handle, mechanism, digest)
    half = coordinate_bytes(curve)
    assert len(signature) == 2 * half
    public = load_der_public_key(made.public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == CURVES[curve].name
    verify_signature(made.public, mechanism, digest, signature)
    r, s = signature[:half], signature[half:]
    for wrong in (s + r, b"\0" + r + b"\0" + s, signature[:-1], b""):
        with pytest.raises(RefusedError, match="verification failed"):
            verify_signature(made.public, mechanism, digest, wrong)


@pytest.mark.parametrize("bits", [3072, 4096])
def test_long_rsa_keys_sign_and_decrypt(member: TokenStore, bits: int) -> None:
    spec = KeySpec(KeyType.RSA, bits, None, 65537)
    made = member.generate(spec)
    handle = member.load(made.blob, spec, {Usage.SIGN, Usage.DECRYPT})
    digest = hashlib.sha512(b"contract").digest()
    for scheme in (SignScheme.RSA_PKCS, SignScheme.RSA_PSS):
        mechanism = SignMechanism(scheme, HashFunction.SHA512, 64)
        signature = member.sign(handle, mechanism, digest)
        assert len(signature) == bits // 8
        verify_signature(made.public, mechanism, digest, signature)
    sealed = encrypt_oaep(made.public, OAEP, b"x" * 100)
    assert member.decrypt(handle, OAEP, sealed) == b"x" * 100


# --- ECDH ---


@pytest.mark.parametrize("curve", list(Curve))
def test_ecdh_gives_the_last_bytes_of_x(member: TokenStore, curve: Curve) -> None:
    """A key shorter than x has lost bytes at its leading end."""
    for bits in (128, 192, 256):
        aes = KeySpec(KeyType.AES, bits)
        handle, value = agreed(member, aes, {Usage.ENCRYPT, Usage.SIGN}, curve)
        assert len(value) == bits // 8
        assert member.mac(handle, MacMechanism.AES_CMAC, b"data") == cmac(value, b"data")
    full = KeySpec(KeyType.GENERIC_SECRET, coordinate_bytes(curve) // 8 * 64)
    handle, value = agreed(member, full, {Usage.SIGN}, curve)
    assert len(value) in {32, 48, 64}
    expected = hmac.digest(value, b"data", "sha256")
    assert member.mac(handle, MacMechanism.HMAC_SHA256, b"data") == expected


def test_a_derived_key_is_the_same_everywhere(member: TokenStore) -> None:
    made, peer = member.generate(EC[Curve.P384]), ec.generate_private_key(ec.SECP384R1())
    base = member.load(made.blob, EC[Curve.P384], {Usage.DERIVE})
    twice = [member.derive(base, Agreement(point_of(peer)), AES) for _ in range(2)]
    value = x_of(peer, made.public)[-32:]
    ecb = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # noqa: S305  # a check value
    assert {key.check_value for key in twice} == {ecb.update(bytes(16))[:3]}
    one = member.load(twice[0].blob, AES, {Usage.ENCRYPT})
    other = member.load(twice[1].blob, AES, {Usage.DECRYPT})
    assert member.decrypt(other, GCM, member.encrypt(one, GCM, b"x")) == b"x"
    joiner = FakeTokenStore()
    joiner.accept_masking_key(member.wrap_masking_key(joiner.transport_open()))
    theirs = joiner.load(twice[0].blob, AES, {Usage.DECRYPT})
    assert joiner.decrypt(theirs, GCM, member.encrypt(one, GCM, b"x")) == b"x"


def test_ecdh_refuses_bad_points_keys_and_sizes(member: TokenStore) -> None:
    made = member.generate(EC[Curve.P256])
    base = member.load(made.blob, EC[Curve.P256], {Usage.DERIVE})
    good = point_of(ec.generate_private_key(ec.SECP256R1()))
    off_curve = good[:-1] + bytes([good[-1] ^ 1])
    foreign = point_of(ec.generate_private_key(ec.SECP256K1()))
    longer = point_of(ec.generate_private_key(ec.SECP384R1()))
    compressed = bytes([2 + (good[-1] & 1)]) + good[1:33]
    for bad in (off_curve, foreign, longer, compressed, b"", b"\x04", b"\0"):
        with pytest.raises(BlobRefusedError):
            member.derive(base, Agreement(bad), AES)
    too_long = KeySpec(KeyType.GENERIC_SECRET, 33 * 8)
    for spec in (too_long, EC[Curve.P256], KeySpec(KeyType.AES, 100)):
        with pytest.raises(RefusedError):
            member.derive(base, Agreement(good), spec)
    assert member.derive(base, Agreement(good), AES).blob


def test_deriving_shows_no_secret(member: TokenStore) -> None:
    """`agree` gives x to the HSM's own code; a user's key is loaded for `derive` alone."""
    made = member.generate(EC[Curve.P256])
    good = point_of(ec.generate_private_key(ec.SECP256R1()))
    for usage in (Usage.DERIVE, Usage.SIGN):
        handle = member.load(made.blob, EC[Curve.P256], {usage})
        with pytest.raises(RefusedError):
            member.agree(handle, good)
    for usage in (Usage.AGREE, Usage.SIGN):
        handle = member.load(made.blob, EC[Curve.P256], {usage})
        with pytest.raises(RefusedError):
            member.derive(handle, Agreement(good), AES)


@pytest.mark.parametrize("kdf", [kdf for kdf in Kdf if kdf is not Kdf.NULL])
def test_another_kdf_is_unavailable(member: TokenStore, kdf: Kdf) -> None:
    made = member.generate(EC[Curve.P256])
    base = member.load(made.blob, EC[Curve.P256], {Usage.DERIVE})
    good = point_of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(MechanismUnavailableError, match=f"CKM_ECDH1_DERIVE with {kdf}"):
        member.derive(base, Agreement(good, kdf), AES)


# --- encryption ---


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("mechanism", [CBC, CBC_PAD, CTR])
def test_cbc_and_ctr_are_the_standards(
    member: TokenStore, mechanism: CipherMechanism, bits: int
) -> None:
    spec = KeySpec(KeyType.AES, bits)
    handle, value = agreed(member, spec, {Usage.ENCRYPT, Usage.DECRYPT})
    given = CipherMechanism(mechanism.scheme, IV)
    for length in LENGTHS:
        plain = bytes(i % 251 for i in range(length))
        if mechanism is CBC and length % 16:
            for asked in (CBC, given):
                with pytest.raises(UsageError):
                    member.encrypt(handle, asked, plain)
            continue
        # The caller's own IV: neither put first nor looked for.
        sealed = member.encrypt(handle, given, plain)
        assert sealed == by_host(mechanism, value, IV, plain)
        assert member.decrypt(handle, given, sealed) == plain
        # None: drawn anew and put first.
        sealed, again = (member.encrypt(handle, mechanism, plain) for _ in range(2))
        assert sealed[:16] != again[:16]
        assert sealed[16:] == by_host(mechanism, value, sealed[:16], plain)
        assert member.decrypt(handle, mechanism, sealed) == plain
        found = CipherMechanism(mechanism.scheme, sealed[:16])
        assert member.decrypt(handle, found, sealed[16:]) == plain


def test_gcm_is_the_standards(member: TokenStore) -> None:
    handle, value = agreed(member, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    mechanism = CipherMechanism(CipherScheme.AES_GCM, aad=b"aad")
    for length in LENGTHS:
        sealed = member.encrypt(handle, mechanism, bytes(length))
        assert AESGCM(value).decrypt(sealed[:12], sealed[12:], b"aad") == bytes(length)
        sealed = IV[:12] + AESGCM(value).encrypt(IV[:12], bytes(length), b"aad")
        assert member.decrypt(handle, mechanism, sealed) == bytes(length)


def test_the_counter_does_not_pass_its_end(member: TokenStore) -> None:
    handle, value = agreed(member, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    last_two = CipherMechanism(CipherScheme.AES_CTR, b"\xff" * 15 + b"\xfe")
    assert member.encrypt(handle, last_two, bytes(32)) == by_host(
        CTR, value, last_two.iv, bytes(32)
    )
    with pytest.raises(UsageError, match="counter"):
        member.encrypt(handle, last_two, bytes(33))


def test_bad_padding_says_what_any_failure_says(member: TokenStore) -> None:
    handle, value = agreed(member, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    said = set()
    blocks = [bytes(15) + b"\x00", bytes(15) + b"\x11", bytes(14) + b"\x01\x02", b"\x0f" * 16]
    broken = [by_host(CBC, value, IV, block) for block in blocks]
    broken[3] = broken[3][:-1] + bytes([broken[3][-1] ^ 1])
    for sealed in (*broken, bytes(7), b"", bytes(17)):
        with pytest.raises(BlobRefusedError) as caught:
            member.decrypt(handle, CipherMechanism(CipherScheme.AES_CBC_PAD, IV), sealed)
        said.add((caught.value.code, str(caught.value)))
    assert len(said) == 1
    sealed = member.encrypt(handle, CBC_PAD, b"and the key still works")
    assert member.decrypt(handle, CBC_PAD, sealed) == b"and the key still works"


def test_oaep_opens_what_the_public_half_sealed(member: TokenStore) -> None:
    spec = KeySpec(KeyType.RSA, 2048, None, 65537)
    made = member.generate(spec)
    handle = member.load(made.blob, spec, {Usage.DECRYPT})
    room = 256 - 2 * 20 - 2
    for plain in (b"", b"x", b"y" * room):
        sealed = encrypt_oaep(made.public, OAEP, plain)
        assert member.decrypt(handle, OAEP, sealed) == plain
    with pytest.raises(UsageError, match=f"at most {room} bytes"):
        encrypt_oaep(made.public, OAEP, b"y" * (room + 1))
    said = set()
    sealed = encrypt_oaep(made.public, OAEP, b"x")
    other = encrypt_oaep(member.generate(spec).public, OAEP, b"x")
    for bad in (sealed[:-1] + bytes([sealed[-1] ^ 1]), other, bytes(256)):
        with pytest.raises(BlobRefusedError) as caught:
            member.decrypt(handle, OAEP, bad)
        said.add(str(caught.value))
    assert len(said) == 1
    for short in (b"", sealed[1:], sealed + b"\0"):
        with pytest.raises(BlobRefusedError):
            member.decrypt(handle, OAEP, short)


@pytest.mark.parametrize(
    "mechanism",
    [
        CipherMechanism(CipherScheme.AES_GCM, IV),
        CipherMechanism(CipherScheme.AES_CBC, IV[:8]),
        CipherMechanism(CipherScheme.AES_CTR, IV + b"\0"),
        CipherMechanism(CipherScheme.AES_CBC_PAD, aad=b"x"),
        CipherMechanism(CipherScheme.AES_CTR, hash=HashFunction.SHA256),
        CipherMechanism(CipherScheme.RSA_OAEP),
        CipherMechanism(CipherScheme.RSA_OAEP, aad=b"label", hash=HashFunction.SHA1),
    ],
)
def test_parameters_of_another_scheme_are_refused(
    member: TokenStore, mechanism: CipherMechanism
) -> None:
    handle = member.load(member.generate(AES).blob, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    with pytest.raises(UsageError):
        member.encrypt(handle, mechanism, bytes(16))
    with pytest.raises(UsageError):
        member.decrypt(handle, mechanism, bytes(64))


# --- MACs ---


def test_macs_are_the_standards(member: TokenStore) -> None:
    both = {Usage.SIGN, Usage.VERIFY}
    for bits in (128, 192, 256):
        handle, value = agreed(member, KeySpec(KeyType.AES, bits), both)
        for length in LENGTHS:
            right = cmac(value, bytes(length))
            assert member.mac(handle, MacMechanism.AES_CMAC, bytes(length)) == right
            member.verify_mac(handle, MacMechanism.AES_CMAC, bytes(length), right)
    handle, value = agreed(member, SECRET, both, Curve.P521)
    for mechanism in set(MacMechanism) - {MacMechanism.AES_CMAC}:
        for length in LENGTHS:
            right = hmac.digest(value, bytes(length), mechanism.removeprefix("hmac-"))
            assert member.mac(handle, mechanism, bytes(length)) == right
            member.verify_mac(handle, mechanism, bytes(length), right)


@pytest.mark.parametrize("mechanism", list(MacMechanism))
def test_a_wrong_mac_is_refused(member: TokenStore, mechanism: MacMechanism) -> None:
    spec = AES if mechanism is MacMechanism.AES_CMAC else SECRET
    made = member.generate(spec)
    handle = member.load(made.blob, spec, {Usage.SIGN, Usage.VERIFY})
    right = member.mac(handle, mechanism, b"data")
    flipped = [bytes([right[0] ^ 1]) + right[1:], right[:-1] + bytes([right[-1] ^ 1])]
    for wrong in (*flipped, right[:-1], right + b"\0", b"", member.mac(handle, mechanism, b"")):
        with pytest.raises(RefusedError) as caught:
            member.verify_mac(handle, mechanism, b"data", wrong)
        assert caught.value.code == "signature-invalid"
    member.verify_mac(handle, mechanism, b"data", right)


@pytest.mark.parametrize("mechanism", [MacMechanism.AES_CMAC, MacMechanism.HMAC_SHA256])
def test_who_may_verify_makes_no_mac(member: TokenStore, mechanism: MacMechanism) -> None:
    spec = AES if mechanism is MacMechanism.AES_CMAC else SECRET
    made = member.generate(spec)
    signs = member.load(made.blob, spec, {Usage.SIGN})
    verifies = member.load(made.blob, spec, {Usage.VERIFY})
    right = member.mac(signs, mechanism, b"data")
    member.verify_mac(verifies, mechanism, b"data", right)
    with pytest.raises(RefusedError):
        member.mac(verifies, mechanism, b"data")
    with pytest.raises(RefusedError) as caught:
        member.verify_mac(signs, mechanism, b"data", right)
    assert caught.value.code == "key-usage"
    unfit = AES if spec is SECRET else SECRET
    other = member.load(member.generate(unfit).blob, unfit, {Usage.SIGN, Usage.VERIFY})
    with pytest.raises(RefusedError):
        member.mac(other, mechanism, b"data")


def test_a_key_of_one_use_has_no_other(member: TokenStore) -> None:
    spec = KeySpec(KeyType.RSA, 2048, None, 65537)
    made = member.generate(spec)
    signs = member.load(made.blob, spec, {Usage.SIGN})
    with pytest.raises(OrchestratorError):
        member.decrypt(signs, OAEP, encrypt_oaep(made.public, OAEP, b"x"))
    decrypts = member.load(made.blob, spec, {Usage.DECRYPT})
    with pytest.raises(OrchestratorError):
        member.sign(decrypts, SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256), bytes(32))
    macs = member.load(member.generate(AES).blob, AES, {Usage.SIGN})
    for mechanism in (GCM, CBC, CBC_PAD, CTR):
        with pytest.raises(RefusedError):
            member.encrypt(macs, mechanism, bytes(16))
        with pytest.raises(RefusedError):
            member.decrypt(macs, mechanism, bytes(64))
