"""Wrapping, one suite for every token store; the other side is `cryptography`, outside."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.client.verify import verify_signature
from orchestrator.model.errors import (
    MechanismUnavailableError,
    OrchestratorError,
    RefusedError,
    UsageError,
)
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
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.tokens.store import BlobRefusedError, TokenStore, UnwrappedKey, WrappingKey
from tests.fakes.foreign_keys import load_padded, pkcs8, unwrap_outside, wrap_outside
from tests.fakes.token_store import FakeTokenStore

AES = KeySpec(KeyType.AES, 256)
RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
EC = {curve: KeySpec(KeyType.EC, bits, curve) for curve, bits in CURVE_BITS.items()}
SHA1 = HashFunction.SHA1
KWP, KW = WrapMechanism(WrapScheme.AES_ZERO_PAD), WrapMechanism(WrapScheme.AES_NO_PAD)
OAEP, RSA_AES = WrapMechanism(WrapScheme.RSA_OAEP, SHA1), WrapMechanism(WrapScheme.RSA_AES, SHA1)
PKCS1 = WrapMechanism(WrapScheme.RSA_PKCS)
GCM = CipherMechanism(CipherScheme.AES_GCM)
SHA256_RSA = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)
SHA256_EC = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
DIGEST = hashlib.sha256(b"wrapping").digest()
OUTSIDE = rsa.generate_private_key(65537, 2048)


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def to_outside() -> WrappingKey:
    return WrappingKey(RSA, public=spki(OUTSIDE))


def kek_of(store: TokenStore, bits: int = 256) -> tuple[WrappingKey, bytes]:
    """An AES key in the store whose bytes the test knows, because it brought them in."""
    value = os.urandom(bits // 8)
    made = store.generate(RSA)
    public = load_der_public_key(made.public)
    assert isinstance(public, rsa.RSAPublicKey)
    opened = store.unwrap(
        WrappingKey(RSA, made.blob), OAEP, wrap_outside(public, OAEP, value), KeyType.AES
    )
    assert opened.spec == KeySpec(KeyType.AES, bits)
    return WrappingKey(opened.spec, opened.key.blob), value


def code_of(store: TokenStore, *given_: object) -> str:
    with pytest.raises(OrchestratorError) as caught:
        store.unwrap(*given_)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_what_was_wrapped_outside_is_used_inside(member: TokenStore, bits: int) -> None:
    kek, value = kek_of(member, bits)
    for mechanism in (KWP, KW):
        for length in (16, 24, 32):
            plain = os.urandom(length)
            wrapped = wrap_outside(value, mechanism, plain)
            opened = member.unwrap(kek, mechanism, wrapped, KeyType.AES)
            assert opened.spec == KeySpec(KeyType.AES, length * 8)
            assert opened.key.public == b""
            assert len(opened.key.check_value) == 3
            handle = member.load(opened.key.blob, opened.spec, {Usage.ENCRYPT})
            sealed = member.encrypt(handle, GCM, b"x")
            assert AESGCM(plain).decrypt(sealed[:12], sealed[12:], None) == b"x"
        plain = os.urandom(64)
        opened = member.unwrap(
            kek, mechanism, wrap_outside(value, mechanism, plain), KeyType.GENERIC_SECRET
        )
        assert (opened.spec.bits, opened.key.check_value) == (512, b"")
        handle = member.load(opened.key.blob, opened.spec, {Usage.SIGN})
        mac = member.mac(handle, MacMechanism.HMAC_SHA256, b"x")
        assert mac == hmac.digest(plain, b"x", "sha256")


def check_signs(store: TokenStore, opened: UnwrappedKey, public: bytes) -> None:
    assert opened.key.public == public
    assert opened.key.check_value == hashlib.sha1(public, usedforsecurity=False).digest()[:3]
    handle = store.load(opened.key.blob, opened.spec, {Usage.SIGN})
    mechanism = SHA256_RSA if opened.spec.type is KeyType.RSA else SHA256_EC
    verify_signature(public, mechanism, DIGEST, store.sign(handle, mechanism, DIGEST))


@pytest.mark.parametrize("curve", list(Curve))
def test_private_keys_come_in_with_their_public_half(member: TokenStore, curve: Curve) -> None:
    kek, value = kek_of(member)
    curves: dict[Curve, ec.EllipticCurve] = {
        Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1(), Curve.P521: ec.SECP521R1(),
        Curve.SECP256K1: ec.SECP256K1(),
    }  # fmt: skip
    for _ in range(4):  # both signs of y, and an x that starts with zero now and then
        key = ec.generate_private_key(curves[curve])
        opened = member.unwrap(kek, KWP, wrap_outside(value, KWP, pkcs8(key)), KeyType.EC)
        assert opened.spec == EC[curve]
        check_signs(member, opened, spki(key))
    opened = member.unwrap(kek, KWP, wrap_outside(value, KWP, pkcs8(OUTSIDE)), KeyType.RSA)
    assert opened.spec == RSA
    check_signs(member, opened, spki(OUTSIDE))


def test_rsa_unwraps_every_kind(member: TokenStore) -> None:
    made = member.generate(RSA)
    public = load_der_public_key(made.public)
    assert isinstance(public, rsa.RSAPublicKey)
    own = WrappingKey(RSA, made.blob)
    for mechanism in (OAEP, PKCS1, RSA_AES):
        wrapped = wrap_outside(public, mechanism, bytes(32))
        opened = member.unwrap(own, mechanism, wrapped, KeyType.AES)
        assert opened.spec == AES
        assert opened.key.check_value == bytes.fromhex("dc95c0")
    key = ec.generate_private_key(ec.SECP384R1())
    opened = member.unwrap(own, RSA_AES, wrap_outside(public, RSA_AES, pkcs8(key)), KeyType.EC)
    check_signs(member, opened, spki(key))
    for mechanism in (OAEP, PKCS1):
        wrapped = wrap_outside(public, mechanism, bytes(138))
        assert code_of(member, own, mechanism, wrapped, KeyType.EC) in {"payload", "blob-refused"}


def test_what_is_wrapped_inside_opens_outside(member: TokenStore) -> None:
    kek, value = kek_of(member)
    keys: list[tuple[WrappingKey, bytes | rsa.RSAPrivateKey, WrapMechanism]] = [
        (kek, value, KWP),
        (kek, value, KW),
        (to_outside(), OUTSIDE, OAEP),
        (to_outside(), OUTSIDE, PKCS1),
        (to_outside(), OUTSIDE, RSA_AES),
    ]
    for wrapper, opener, mechanism in keys:
        made = member.generate(AES)
        plain = unwrap_outside(opener, mechanism, member.wrap(wrapper, mechanism, made.blob, AES))
        assert len(plain) == 32
        handle = member.load(made.blob, AES, {Usage.ENCRYPT})
        sealed = member.encrypt(handle, GCM, b"x")
        assert AESGCM(plain).decrypt(sealed[:12], sealed[12:], None) == b"x"
    for wrapper, opener, mechanism in (keys[0], keys[4]):
        for spec in (RSA, *EC.values()):
            made = member.generate(spec)
            wrapped = member.wrap(wrapper, mechanism, made.blob, spec)
            assert spki(load_padded(unwrap_outside(opener, mechanism, wrapped))) == made.public


def test_a_round_trip_through_the_outside_changes_nothing(member: TokenStore) -> None:
    kek, value = kek_of(member)

    @settings(max_examples=40, deadline=None)
    @given(words=st.integers(1, 100), scheme=st.sampled_from([KWP, KW]))
    def trip(words: int, scheme: WrapMechanism) -> None:
        assume(scheme is KWP or words > 1)  # RFC 3394 §2: at least two blocks
        plain = os.urandom(words * 8)
        wrapped = wrap_outside(value, scheme, plain)
        opened = member.unwrap(kek, scheme, wrapped, KeyType.GENERIC_SECRET)
        assert opened.spec.bits == words * 64
        back = member.wrap(kek, scheme, opened.key.blob, opened.spec)
        assert unwrap_outside(value, scheme, back) == plain
        over = member.wrap(to_outside(), RSA_AES, opened.key.blob, opened.spec)
        assert unwrap_outside(OUTSIDE, RSA_AES, over) == plain

    trip()


def test_each_ephemeral_key_is_new(member: TokenStore) -> None:
    made = member.generate(AES)
    one, other = (member.wrap(to_outside(), RSA_AES, made.blob, AES) for _ in range(2))
    assert one[:256] != other[:256]
    assert one[256:] != other[256:]


def test_what_does_not_unwrap_says_one_thing(member: TokenStore) -> None:
    kek, value = kek_of(member)
    good = wrap_outside(value, KWP, os.urandom(32))
    said = set()
    broken = [
        (KWP, good[:-1] + bytes([good[-1] ^ 1]), KeyType.AES),
        (KW, good, KeyType.AES),
        (KWP, wrap_outside(os.urandom(32), KWP, os.urandom(32)), KeyType.AES),
        (KWP, wrap_outside(value, KWP, os.urandom(20)), KeyType.AES),
        (KWP, wrap_outside(value, KWP, os.urandom(40)), KeyType.RSA),
        (KWP, wrap_outside(value, KWP, pkcs8(OUTSIDE)), KeyType.EC),
        (KWP, wrap_outside(value, KWP, os.urandom(138)), KeyType.EC),
    ]
    for mechanism, wrapped, key_type in broken:
        with pytest.raises(BlobRefusedError) as caught:
            member.unwrap(kek, mechanism, wrapped, key_type)
        said.add((caught.value.code, str(caught.value)))
    assert len(said) == 1
    for short in (b"", bytes(8), good[:-1], good + b"\0", bytes(20_000)):
        assert code_of(member, kek, KWP, short, KeyType.AES) == "blob-refused"
    opened = member.unwrap(kek, KWP, good, KeyType.AES)  # and the key still works
    assert opened.spec == AES


def test_what_no_hsm_makes_none_takes_in(member: TokenStore) -> None:
    kek, value = kek_of(member)
    for key, key_type in (
        (rsa.generate_private_key(65537, 1024), KeyType.RSA),  # noqa: S505  # to be refused
        (rsa.generate_private_key(3, 2048), KeyType.RSA),
        (ec.generate_private_key(ec.SECP224R1()), KeyType.EC),  # to be refused
    ):
        wrapped = wrap_outside(value, KWP, pkcs8(key))
        assert code_of(member, kek, KWP, wrapped, key_type) == "key-spec"
    wrapped = wrap_outside(value, KWP, os.urandom(808))
    assert code_of(member, kek, KWP, wrapped, KeyType.GENERIC_SECRET) == "key-spec"


def test_a_private_key_that_lies_about_its_public_half_is_refused(member: TokenStore) -> None:
    kek, value = kek_of(member)
    der = pkcs8(OUTSIDE)
    modulus = OUTSIDE.public_key().public_numbers().n.to_bytes(256, "big")
    at = der.index(modulus)
    lying = der[:at] + modulus[:100] + bytes([modulus[100] ^ 1]) + modulus[101:] + der[at + 256 :]
    with pytest.raises(OrchestratorError):
        member.unwrap(kek, KWP, wrap_outside(value, KWP, lying), KeyType.RSA)


@pytest.mark.parametrize(
    "mechanism",
    [
        WrapMechanism(WrapScheme.AES_GCM, tag_bits=128),
        WrapMechanism(WrapScheme.CLOUDHSM_AES_GCM, tag_bits=128),
        WrapMechanism(WrapScheme.AES_PKCS5_PAD),
    ],
)
def test_what_is_not_done_inside_is_not_done(member: TokenStore, mechanism: WrapMechanism) -> None:
    made, kek = member.generate(AES), WrappingKey(AES, member.generate(AES).blob)
    with pytest.raises(MechanismUnavailableError, match=mechanism.scheme):
        member.wrap(kek, mechanism, made.blob, AES)
    with pytest.raises(MechanismUnavailableError, match=mechanism.scheme):
        member.unwrap(kek, mechanism, bytes(40), KeyType.AES)


@pytest.mark.parametrize(
    ("wrapper", "mechanism", "spec"),
    [
        ("kek", KW, RSA),
        ("kek", KW, KeySpec(KeyType.GENERIC_SECRET, 64)),
        ("kek", KW, KeySpec(KeyType.GENERIC_SECRET, 160)),
        ("outside", OAEP, EC[Curve.P256]),
        ("outside", PKCS1, RSA),
        ("outside", OAEP, KeySpec(KeyType.GENERIC_SECRET, 215 * 8)),
        ("outside", PKCS1, KeySpec(KeyType.GENERIC_SECRET, 246 * 8)),
    ],
)
def test_unfit_payloads_are_refused(
    member: TokenStore, wrapper: str, mechanism: WrapMechanism, spec: KeySpec
) -> None:
    made = member.generate(spec)
    key = to_outside() if wrapper == "outside" else WrappingKey(AES, member.generate(AES).blob)
    with pytest.raises(RefusedError) as caught:
        member.wrap(key, mechanism, made.blob, spec)
    assert caught.value.code == "payload"


def test_types_and_parameters_must_fit(member: TokenStore) -> None:
    made, kek = member.generate(AES), WrappingKey(AES, member.generate(AES).blob)
    for key, mechanism in ((kek, OAEP), (to_outside(), KWP)):
        with pytest.raises(RefusedError):
            member.wrap(key, mechanism, made.blob, AES)
    for bad in (
        WrapMechanism(WrapScheme.AES_ZERO_PAD, SHA1),
        WrapMechanism(WrapScheme.AES_ZERO_PAD, aad=b"x"),
        WrapMechanism(WrapScheme.AES_NO_PAD, iv=bytes(8)),
        WrapMechanism(WrapScheme.RSA_OAEP),
        WrapMechanism(WrapScheme.RSA_PKCS, tag_bits=96),
    ):
        with pytest.raises(UsageError):
            member.wrap(kek, bad, made.blob, AES)
        with pytest.raises(UsageError):
            member.unwrap(kek, bad, bytes(40), KeyType.AES)


def test_strangers_blobs_are_refused(member: TokenStore) -> None:
    stranger = FakeTokenStore()
    stranger.create_masking_key()
    foreign, own = stranger.generate(AES).blob, member.generate(AES).blob
    for wrapper, payload in ((foreign, own), (own, foreign)):
        with pytest.raises(BlobRefusedError):
            member.wrap(WrappingKey(AES, wrapper), KWP, payload, AES)
    with pytest.raises(BlobRefusedError):
        member.unwrap(WrappingKey(AES, foreign), KWP, bytes(40), KeyType.AES)
