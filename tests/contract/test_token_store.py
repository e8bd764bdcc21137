"""One suite for every token store; the other side of a transport is always the fake."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.client.verify import verify_signature
from orchestrator.model.errors import OrchestratorError, RefusedError
from orchestrator.model.key_spec import (
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
    Usage,
)
from orchestrator.model.signatures import check_ecdsa
from orchestrator.sealed.recovery import point_of, recovery_key, send_recovery_key
from orchestrator.tokens.store import (
    BlobRefusedError,
    NoMaskingKeyError,
    TokenError,
    TokenFullError,
    TokenStore,
    Transport,
)
from tests.contract.conftest import Reopen
from tests.fakes.token_store import FakeTokenStore

RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
EC = KeySpec(KeyType.EC, 256, Curve.P256)
AES = KeySpec(KeyType.AES, 256)
DIGEST = hashlib.sha256(b"contract").digest()
CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.SECP256K1: ec.SECP256K1(),
}


def gcm(aad: bytes = b"") -> CipherMechanism:
    return CipherMechanism(CipherScheme.AES_GCM, aad=aad)


def test_identity_signs_and_box_agrees(store: TokenStore) -> None:
    check_ecdsa(store.identity_public(), DIGEST, store.identity_sign(DIGEST), "identity")
    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    own = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), store.box_public())
    assert store.box_agree(point) == other.exchange(ec.ECDH(), own)
    with pytest.raises(BlobRefusedError):
        store.box_agree(b"\x04" + bytes(64))


def test_state_is_sealed_to_place_and_token(store: TokenStore) -> None:
    sealed = store.seal(b"state", b"place")
    assert store.unseal(sealed, b"place") == b"state"
    for broken, place in ((sealed, b"other"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"place")):
        with pytest.raises(BlobRefusedError):
            store.unseal(broken, place)
    with pytest.raises(BlobRefusedError):
        FakeTokenStore().unseal(sealed, b"place")


def test_there_is_one_masking_key(member: TokenStore) -> None:
    with pytest.raises(TokenFullError):
        member.create_masking_key()
    member.transport_open()
    with pytest.raises(TokenFullError):
        member.accept_masking_key(Transport(point_of(recovery_key(bytes(32))), bytes(40)))


def test_without_a_masking_key_there_are_no_keys(store: TokenStore) -> None:
    with pytest.raises(NoMaskingKeyError):
        store.generate(AES)
    with pytest.raises(NoMaskingKeyError):
        store.wrap_masking_key(point_of(recovery_key(bytes(32))))


def test_a_joiner_uses_what_a_member_made(member: TokenStore) -> None:
    joiner = FakeTokenStore()
    joiner.accept_masking_key(member.wrap_masking_key(joiner.transport_open()))
    made = member.generate(AES)
    ours = member.load(made.blob, AES, {Usage.ENCRYPT})
    theirs = joiner.load(made.blob, AES, {Usage.DECRYPT})
    assert joiner.decrypt(theirs, gcm(b"y"), member.encrypt(ours, gcm(b"y"), b"x")) == b"x"


def test_a_store_joins_a_member(store: TokenStore) -> None:
    donor = FakeTokenStore()
    donor.create_masking_key()
    stale = donor.wrap_masking_key(store.transport_open())
    point = store.transport_open()
    with pytest.raises(BlobRefusedError):
        store.accept_masking_key(stale)
    store.accept_masking_key(donor.wrap_masking_key(point))
    made = donor.generate(AES)
    assert store.load(made.blob, AES, {Usage.ENCRYPT})


def test_recovery_opens_the_envelope_inside(member: TokenStore) -> None:
    key = recovery_key(b"s" * 32)
    envelope = member.wrap_masking_key(point_of(key))
    made = member.generate(AES)
    fresh = FakeTokenStore()
    sent = send_recovery_key(key, fresh.transport_open())
    fresh.accept_recovered(Transport(sent.point, sent.wrapped), envelope)
    assert fresh.load(made.blob, AES, {Usage.DECRYPT})


def test_a_store_recovers_from_an_envelope(store: TokenStore) -> None:
    lost = FakeTokenStore()
    lost.create_masking_key()
    key, other = recovery_key(b"s" * 32), recovery_key(b"t" * 32)
    envelope = lost.wrap_masking_key(point_of(key))
    wrong = send_recovery_key(other, store.transport_open())
    with pytest.raises(BlobRefusedError):
        store.accept_recovered(Transport(wrong.point, wrong.wrapped), envelope)
    sent = send_recovery_key(key, store.transport_open())
    store.accept_recovered(Transport(sent.point, sent.wrapped), envelope)
    made = lost.generate(AES)
    assert store.load(made.blob, AES, {Usage.DECRYPT})


@pytest.mark.parametrize("hash_function", list(HashFunction))
def test_every_signature_verifies(member: TokenStore, hash_function: HashFunction) -> None:
    digest = hashlib.new(hash_function, b"contract").digest()
    for spec, scheme in (
        (RSA, SignScheme.RSA_PKCS),
        (RSA, SignScheme.RSA_PSS),
        (EC, SignScheme.ECDSA),
    ):
        made = member.generate(spec)
        handle = member.load(made.blob, spec, {Usage.SIGN})
        mechanism = SignMechanism(scheme, hash_function, len(digest))
        signature = member.sign(handle, mechanism, digest)
        verify_signature(made.public, mechanism, digest, signature)
        assert len(made.check_value) == 3
        with pytest.raises(RefusedError):
            verify_signature(made.public, mechanism, bytes([digest[0] ^ 1]) + digest[1:], signature)


def test_encryption_is_authenticated(member: TokenStore) -> None:
    made = member.generate(AES)
    handle = member.load(made.blob, AES, {Usage.ENCRYPT, Usage.DECRYPT})
    sealed = member.encrypt(handle, gcm(b"aad"), b"plain")
    assert len(sealed) == 12 + 5 + 16
    assert member.decrypt(handle, gcm(b"aad"), sealed) == b"plain"
    with pytest.raises(BlobRefusedError):
        member.decrypt(handle, gcm(b"other"), sealed)


def test_a_key_does_only_what_it_was_loaded_for(member: TokenStore) -> None:
    made, secret = member.generate(EC), member.generate(AES)
    mute = member.load(made.blob, EC, set())
    with pytest.raises(OrchestratorError):
        member.sign(mute, SignMechanism(SignScheme.ECDSA, HashFunction.SHA256), DIGEST)
    encrypts = member.load(secret.blob, AES, {Usage.ENCRYPT})
    with pytest.raises(OrchestratorError):
        member.decrypt(encrypts, gcm(), member.encrypt(encrypts, gcm(), b"x"))


def test_foreign_and_flipped_blobs_are_refused(member: TokenStore) -> None:
    stranger = FakeTokenStore()
    stranger.create_masking_key()
    with pytest.raises(BlobRefusedError):
        member.load(stranger.generate(AES).blob, AES, {Usage.ENCRYPT})
    blob = bytearray(member.generate(EC).blob)
    blob[20] ^= 1
    with pytest.raises(BlobRefusedError):
        member.load(bytes(blob), EC, {Usage.SIGN})


def test_an_unloaded_handle_is_dead(member: TokenStore) -> None:
    handle = member.load(member.generate(AES).blob, AES, {Usage.ENCRYPT})
    member.unload(handle)
    with pytest.raises(TokenError):
        member.encrypt(handle, gcm(), b"x")


def test_long_lived_keys_outlive_a_crash(pair: tuple[TokenStore, Reopen]) -> None:
    store, reopen = pair
    store.create_masking_key()
    identity, box = store.identity_public(), store.box_public()
    sealed, made = store.seal(b"x", b"y"), store.generate(EC)
    again = reopen(store)
    assert (again.identity_public(), again.box_public()) == (identity, box)
    assert again.unseal(sealed, b"y") == b"x"
    assert again.has_masking_key()
    assert again.load(made.blob, EC, {Usage.SIGN})


def test_random_is_bounded(store: TokenStore) -> None:
    assert store.random(32) != store.random(32)
    for count in (0, 65_537):
        with pytest.raises(OrchestratorError):
            store.random(count)


def test_threads_share_a_key(member: TokenStore) -> None:
    made = member.generate(EC)
    handle = member.load(made.blob, EC, {Usage.SIGN})
    mechanism = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)

    def sign(number: int) -> None:
        digest = hashlib.sha256(bytes([number])).digest()
        verify_signature(made.public, mechanism, digest, member.sign(handle, mechanism, digest))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sign, range(64)))


def test_erase_leaves_no_masking_key(member: TokenStore) -> None:
    member.erase()
    assert not member.has_masking_key()
