"""What SoftHSM leaves out is refused by profile and mechanism, and never made up for in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.verify import encrypt_oaep
from orchestrator.control.profiles import load_profiles
from orchestrator.model.errors import MechanismUnavailableError
from orchestrator.model.key_spec import (
    CURVE_BITS,
    DIGEST_BYTES,
    Agreement,
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
from orchestrator.model.profile import (
    CIPHER_MECHANISMS,
    MAC_MECHANISMS,
    SIGN_MECHANISMS,
    WRAP_MECHANISMS,
    FirmwareProfile,
    Mechanism,
    generation_mechanism,
)
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.tokens.softhsm import SoftHsmStore
from orchestrator.tokens.store import BlobRefusedError, WrappingKey
from tests.fakes.foreign_keys import wrap_outside

pytestmark = pytest.mark.softhsm
PROFILE = load_profiles()["hsm2m.medium"]
AES = KeySpec(KeyType.AES, 256)
EC = KeySpec(KeyType.EC, 256, Curve.P256)
RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
SECRET = KeySpec(KeyType.GENERIC_SECRET, 512)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SoftHsmStore]:
    made = SoftHsmStore.create(tmp_path / "token", PROFILE)
    made.create_masking_key()
    yield made
    made.close()


def peer(curve: ec.EllipticCurve) -> Agreement:
    public = ec.generate_private_key(curve).public_key()
    return Agreement(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def unavailable(what: str) -> str:
    return re.escape(f"profile hsm2m.medium has no mechanism {what}")


def test_the_profiles_mechanisms_are_all_there(store: SoftHsmStore) -> None:
    assert store._mechanisms == frozenset(PROFILE.mechanisms) == frozenset(Mechanism)
    for curve, bits in CURVE_BITS.items():
        assert store.generate(KeySpec(KeyType.EC, bits, curve)).public


@pytest.mark.parametrize("hash_function", sorted(set(HashFunction) - {HashFunction.SHA1}))
def test_oaep_is_sha1_alone(store: SoftHsmStore, hash_function: HashFunction) -> None:
    made = store.generate(RSA)
    handle = store.load(made.blob, RSA, {Usage.DECRYPT})
    mechanism = CipherMechanism(CipherScheme.RSA_OAEP, hash=hash_function)
    sealed = encrypt_oaep(made.public, mechanism, b"x")
    wanted = unavailable(f"CKM_RSA_PKCS_OAEP with {hash_function}")
    with pytest.raises(MechanismUnavailableError, match=wanted):
        store.decrypt(handle, mechanism, sealed)


@pytest.mark.parametrize("mechanism", sorted(set(MacMechanism) - {MacMechanism.AES_CMAC}))
def test_hmac_takes_keys_as_long_as_the_digest(
    store: SoftHsmStore, mechanism: MacMechanism
) -> None:
    digest_bytes = DIGEST_BYTES[HashFunction(mechanism.removeprefix("hmac-"))]
    name = {"hmac-sha1": "CKM_SHA_1_HMAC"}.get(mechanism, f"CKM_{mechanism[5:].upper()}_HMAC")
    for spare, is_offered in ((0, True), (1, False)):
        spec = KeySpec(KeyType.GENERIC_SECRET, (digest_bytes - spare) * 8)
        handle = store.load(store.generate(spec).blob, spec, {Usage.SIGN, Usage.VERIFY})
        if is_offered:
            store.verify_mac(handle, mechanism, b"x", store.mac(handle, mechanism, b"x"))
            continue
        wanted = unavailable(f"{name} with a key of {digest_bytes - 1} bytes")
        with pytest.raises(MechanismUnavailableError, match=wanted):
            store.mac(handle, mechanism, b"x")
        with pytest.raises(MechanismUnavailableError, match=wanted):
            store.verify_mac(handle, mechanism, b"x", bytes(digest_bytes))


def test_the_longest_generic_secret_makes_every_hmac(store: SoftHsmStore) -> None:
    spec = KeySpec(KeyType.GENERIC_SECRET, 6400)
    handle = store.load(store.generate(spec).blob, spec, {Usage.SIGN})
    for mechanism in set(MacMechanism) - {MacMechanism.AES_CMAC}:
        assert store.mac(handle, mechanism, b"x")


def test_no_key_is_derived_that_wrapping_would_change(store: SoftHsmStore) -> None:
    curve = KeySpec(KeyType.EC, 521, Curve.P521)
    base = store.load(store.generate(curve).blob, curve, {Usage.DERIVE})
    for length in (1, 33, 66):
        wanted = unavailable(f"CKM_ECDH1_DERIVE to {length} bytes; it takes multiples of 8")
        with pytest.raises(MechanismUnavailableError, match=wanted):
            store.derive(base, peer(ec.SECP521R1()), KeySpec(KeyType.GENERIC_SECRET, length * 8))


def test_deriving_leaves_nothing_in_the_token(store: SoftHsmStore) -> None:
    base = store.load(store.generate(EC).blob, EC, {Usage.DERIVE})

    def held() -> int:
        with store._sessions.borrow() as session:
            return len(list(session.get_objects()))

    before = held()
    store.derive(base, peer(ec.SECP256R1()), AES)
    store.derive(base, peer(ec.SECP256R1()), KeySpec(KeyType.GENERIC_SECRET, 256))
    assert held() == before


@pytest.mark.parametrize("left_out", list(Mechanism))
def test_what_a_profile_leaves_out_is_named(tmp_path: Path, left_out: Mechanism) -> None:
    kept = tuple(m for m in PROFILE.mechanisms if m is not left_out)
    profile: FirmwareProfile = msgspec.structs.replace(PROFILE, mechanisms=kept)
    store = SoftHsmStore.create(tmp_path / "token", profile)
    try:
        store.create_masking_key()
        with pytest.raises(MechanismUnavailableError, match=unavailable(left_out) + "$"):
            _use(store, left_out)
    finally:
        store.close()


def _use(store: SoftHsmStore, mechanism: Mechanism) -> None:
    making = {generation_mechanism(spec): spec for spec in (AES, SECRET, RSA, EC)}
    ciphers = {named: scheme for scheme, named in CIPHER_MECHANISMS.items()}
    macs = {named: scheme for scheme, named in MAC_MECHANISMS.items()}
    signing = {named: scheme for scheme, named in SIGN_MECHANISMS.items()}
    wrapping = {named[0]: scheme for scheme, named in WRAP_MECHANISMS.items()}
    if mechanism in making:
        store.generate(making[mechanism])
    elif mechanism in signing:
        spec = EC if mechanism is Mechanism.ECDSA else RSA
        key = store.load(store.generate(spec).blob, spec, {Usage.SIGN})
        store.sign(key, SignMechanism(signing[mechanism], HashFunction.SHA256), bytes(32))
    elif mechanism is Mechanism.RSA_PKCS_OAEP:
        rsa = store.load(store.generate(RSA).blob, RSA, {Usage.DECRYPT})
        oaep = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
        store.decrypt(rsa, oaep, bytes(256))
    elif mechanism in ciphers:
        aes = store.load(store.generate(AES).blob, AES, {Usage.ENCRYPT})
        store.encrypt(aes, CipherMechanism(ciphers[mechanism]), bytes(16))
    elif mechanism in macs:
        spec = AES if mechanism is Mechanism.AES_CMAC else SECRET
        store.mac(store.load(store.generate(spec).blob, spec, {Usage.SIGN}), macs[mechanism], b"x")
    elif mechanism in wrapping:
        scheme = wrapping[mechanism]
        hashed = HashFunction.SHA1 if scheme is WrapScheme.RSA_AES else None
        pair, payload = store.generate(RSA), store.generate(AES)
        by_rsa = WrappingKey(RSA, public=pair.public)
        wrapper = by_rsa if hashed else WrappingKey(AES, store.generate(AES).blob)
        store.wrap(wrapper, WrapMechanism(scheme, hashed), payload.blob, AES)
    else:
        assert mechanism is Mechanism.ECDH1_DERIVE
        base = store.load(store.generate(EC).blob, EC, {Usage.DERIVE})
        store.derive(base, peer(ec.SECP256R1()), AES)


def test_secrets_that_would_get_zeros_behind_them_neither_leave_nor_come_in(
    store: SoftHsmStore,
) -> None:
    kwp = WrapMechanism(WrapScheme.AES_ZERO_PAD)
    rsa_aes = WrapMechanism(WrapScheme.RSA_AES, HashFunction.SHA1)
    odd = KeySpec(KeyType.GENERIC_SECRET, 160)
    made, kek, pair = store.generate(odd), store.generate(AES), store.generate(RSA)
    for wrapper, mechanism in (
        (WrappingKey(AES, kek.blob), kwp),
        (WrappingKey(RSA, public=pair.public), rsa_aes),
    ):
        with pytest.raises(MechanismUnavailableError, match="of 20 bytes; it takes multiples"):
            store.wrap(wrapper, mechanism, made.blob, odd)
    public = load_der_public_key(pair.public)
    assert isinstance(public, rsa.RSAPublicKey)
    for mechanism in (rsa_aes, WrapMechanism(WrapScheme.RSA_OAEP, HashFunction.SHA1)):
        wrapped = wrap_outside(public, mechanism, bytes(20))
        own = WrappingKey(RSA, pair.blob)
        with pytest.raises(MechanismUnavailableError, match="no multiple of 8 bytes"):
            store.unwrap(own, mechanism, wrapped, KeyType.GENERIC_SECRET)
        with pytest.raises(BlobRefusedError):
            store.unwrap(own, mechanism, wrapped, KeyType.AES)


@pytest.mark.parametrize("scheme", [WrapScheme.RSA_OAEP, WrapScheme.RSA_AES])
@pytest.mark.parametrize("hash_function", sorted(set(HashFunction) - {HashFunction.SHA1}))
def test_oaep_wraps_with_sha1_alone(
    store: SoftHsmStore, scheme: WrapScheme, hash_function: HashFunction
) -> None:
    made, pair = store.generate(AES), store.generate(RSA)
    mechanism = WrapMechanism(scheme, hash_function)
    said = unavailable(f"CKM_RSA_PKCS_OAEP with {hash_function}")
    with pytest.raises(MechanismUnavailableError, match=said):
        store.wrap(WrappingKey(RSA, public=pair.public), mechanism, made.blob, AES)
    with pytest.raises(MechanismUnavailableError, match=said):
        store.unwrap(WrappingKey(RSA, pair.blob), mechanism, bytes(296), KeyType.AES)


@pytest.mark.parametrize(
    "missing", sorted({m for needed in WRAP_MECHANISMS.values() for m in needed})
)
def test_what_a_profile_leaves_out_wraps_nothing(tmp_path: Path, missing: Mechanism) -> None:
    fewer = tuple(m for m in PROFILE.mechanisms if m is not missing)
    made = SoftHsmStore.create(tmp_path / "t", msgspec.structs.replace(PROFILE, mechanisms=fewer))
    made.create_masking_key()
    try:
        for scheme, needed in WRAP_MECHANISMS.items():
            if missing not in needed:
                continue
            hashed = scheme in {WrapScheme.RSA_AES, WrapScheme.RSA_OAEP}
            mechanism = WrapMechanism(scheme, HashFunction.SHA1 if hashed else None)
            spec = RSA if mechanism.key_type is KeyType.RSA else AES
            with pytest.raises(MechanismUnavailableError, match=unavailable(missing)):
                made.wrap(WrappingKey(spec, b"blob"), mechanism, b"blob", AES)
    finally:
        made.close()


def test_wrapping_leaves_nothing_in_the_token(store: SoftHsmStore) -> None:
    def objects() -> int:
        with store._sessions.borrow() as session:
            return len(list(session.get_objects()))

    before = objects()
    made, pair = store.generate(AES), store.generate(RSA)
    rsa_aes = WrapMechanism(WrapScheme.RSA_AES, HashFunction.SHA1)
    wrapped = store.wrap(WrappingKey(RSA, public=pair.public), rsa_aes, made.blob, AES)
    own = WrappingKey(RSA, pair.blob)
    store.unwrap(own, rsa_aes, wrapped, KeyType.AES)
    for bad in (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), bytes(256) + wrapped[256:]):
        with pytest.raises(BlobRefusedError):
            store.unwrap(own, rsa_aes, bad, KeyType.AES)
    assert objects() == before
