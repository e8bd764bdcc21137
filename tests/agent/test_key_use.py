"""Keys in use, from a client's session to the token: attributes, session keys, ECDH, FIPS mode."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.session import Session
from orchestrator.client.verify import verify_signature
from orchestrator.model.errors import RemoteError
from orchestrator.model.fips import CURVE_STRENGTH_BITS, HASH_STRENGTH_BITS
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    Kdf,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.roles import Role
from orchestrator.model.state import ONLY, Table
from orchestrator.wire import messages as m
from tests.agent.used import AES, EC, RSA, SECRET, Used, code_of, draft, pair
from tests.stateful.harness import PASSWORD


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    made = Used(tmp_path_factory.mktemp("used"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def base(used: Used) -> Key:
    """An EC private key that may derive."""
    return used.make(EC[Curve.P256], *pair({}, {"derive": "true"}))[1]


def peer_of(key: Key) -> tuple[Agreement, bytes]:
    """Return a peer's point, and the secret that it shares with `key`."""
    public = load_der_public_key(key.public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    own = ec.generate_private_key(public.curve)
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return Agreement(point), own.exchange(ec.ECDH(), public)


# --- attributes decide ---


def test_each_use_needs_its_attribute(used: Used) -> None:
    session = used.session
    [mute] = used.make(AES, draft(sign="false", verify="false"))
    [secret] = used.make(SECRET, draft(sign="false", verify="false"))
    public, private = used.make(RSA, *pair({"encrypt": "true"}, {}))
    cmac, sha256 = MacMechanism.AES_CMAC, MacMechanism.HMAC_SHA256
    for scheme in set(CipherScheme) - {CipherScheme.RSA_OAEP}:
        mechanism = CipherMechanism(scheme)
        assert code_of(session.encrypt, mute.ref, bytes(16), mechanism=mechanism) == "key-usage"
        assert code_of(session.decrypt, mute.ref, bytes(64), mechanism=mechanism) == "key-usage"
    assert code_of(session.mac, mute.ref, cmac, b"x") == "key-usage"
    assert code_of(session.mac, secret.ref, sha256, b"x") == "key-usage"
    assert code_of(session.verify_mac, mute.ref, cmac, b"x", bytes(16)) == "key-usage"
    assert code_of(session.verify_mac, secret.ref, sha256, b"x", bytes(32)) == "key-usage"
    oaep = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
    sealed = session.encrypt(public.ref, b"x", mechanism=oaep)
    for key in (public, private):
        assert code_of(session.decrypt, key.ref, sealed, mechanism=oaep) == "key-usage"


def test_oaep_is_sealed_by_the_client_and_opened_by_the_hsm(used: Used) -> None:
    session = used.session
    public, private = used.make(RSA, *pair({"encrypt": "true"}, {"decrypt": "true"}))
    oaep = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
    before = session.statistics.requests
    sealed = session.encrypt(public.ref, b"to the HSM", mechanism=oaep)
    assert session.statistics.requests == before + 1  # that asked for the public half
    assert session.decrypt(private.ref, sealed, mechanism=oaep) == b"to the HSM"
    assert code_of(session.encrypt, private.ref, b"x", b"aad", mechanism=oaep) == "usage"
    asked = m.Encrypt(session.ticket(), 0, public.ref, oaep, b"x")
    assert code_of(session.balancer.call, lambda _: asked) == "key-usage"
    [aes] = used.make(AES, draft())
    assert code_of(session.encrypt, aes.ref, b"x", mechanism=oaep) == "key-usage"


def test_simple_calls_are_gcm(used: Used) -> None:
    session = used.session
    [key] = used.make(AES, draft(encrypt="true", decrypt="true"))
    sealed = session.encrypt(key.ref, b"x", b"aad")
    assert len(sealed) == 12 + 1 + 16
    same = CipherMechanism(CipherScheme.AES_GCM, aad=b"aad")
    assert session.decrypt(key.ref, sealed, mechanism=same) == b"x"
    assert code_of(session.decrypt, key.ref, sealed, b"other") == "blob-refused"
    padded = CipherMechanism(CipherScheme.AES_CBC_PAD)
    sealed = session.encrypt(key.ref, b"x", mechanism=padded)
    assert session.decrypt(key.ref, sealed, mechanism=padded) == b"x"


def test_macs_are_made_by_default_and_verified_in_the_hsm(used: Used) -> None:
    session = used.session
    for spec, mechanism in ((AES, MacMechanism.AES_CMAC), (SECRET, MacMechanism.HMAC_SHA256)):
        [key] = used.make(spec, draft())
        mac = session.mac(key.ref, mechanism, b"data")
        session.verify_mac(key.ref, mechanism, b"data", mac)
        bad = bytes([mac[0] ^ 1]) + mac[1:]
        assert code_of(session.verify_mac, key.ref, mechanism, b"data", bad) == "signature-invalid"
        [verifier] = used.make(spec, draft(sign="false"))
        assert code_of(session.mac, verifier.ref, mechanism, b"data") == "key-usage"


# --- changed and shared ---


def changed(used: Used, key: Key, name: str, value: str) -> None:
    used.change(m.ChangeKey(key.ref, name, value))


def test_a_changed_attribute_holds_for_a_loaded_key(used: Used) -> None:
    session = used.session
    [key] = used.make(AES, draft(encrypt="true", decrypt="true"))
    sealed = session.encrypt(key.ref, b"x")
    changed(used, key, "encrypt", "false")
    for machine in used.cluster.machines:
        assert code_of(session.encrypt, key.ref, b"x") == "key-usage", machine.id
    assert session.decrypt(key.ref, sealed) == b"x"
    changed(used, key, "encrypt", "true")
    assert session.decrypt(key.ref, session.encrypt(key.ref, b"y")) == b"y"
    conflict = m.ChangeKey(key.ref, "wrap", "true")
    assert code_of(used.change, conflict) == "attribute-conflict"
    changed(used, key, "label", "renamed")
    assert session.key("renamed", "secret-key").ref == key.ref


def test_a_pair_made_to_wrap_stays_and_never_decrypts(used: Used) -> None:
    public, private = used.make(RSA, *pair({"wrap": "true"}, {"unwrap": "true"}))
    assert public.guards.half_stays
    assert not private.attributes.extractable
    conflict = m.ChangeKey(private.ref, "decrypt", "true")
    assert code_of(used.change, conflict) == "attribute-conflict"
    for given in ({"decrypt": "true"}, {"extractable": "true"}):
        assert code_of(used.make, RSA, *pair({"wrap": "true"}, given)) == "attribute-conflict"
        assert code_of(
            used.session.session_keys.make, RSA, pair({"wrap": "true"}, given)
        ) == "attribute-conflict"  # fmt: skip


def test_a_session_key_changes_where_it_lives(used: Used) -> None:
    session = used.session
    [key] = session.session_keys.make(AES, (draft(encrypt="true"),))
    session.session_keys.change(key.ref, "encrypt", "false")
    assert code_of(session.encrypt, key.ref, b"x") == "key-usage"
    session.session_keys.change(key.ref, "label", "mine")
    assert session.find_key(KeyFilter(ref=key.ref)).label == "mine"
    for name in ("trusted", "local", "private"):
        assert (
            code_of(session.session_keys.change, key.ref, name, "true") == "attribute-read-only"
        ), name
    assert code_of(session.session_keys.change, key.ref, "token", "true") == "usage"
    assert code_of(session.session_keys.change, 1 << 63, "label", "x") == "not-found"
    public, private = session.session_keys.make(EC[Curve.P256], pair({}, {"extractable": "false"}))
    session.session_keys.change(public.ref, "wrap", "true")
    assert (
        code_of(session.session_keys.change, private.ref, "decrypt", "true") == "attribute-conflict"
    )


def test_a_session_key_becomes_a_token_key(used: Used) -> None:
    session = used.session
    [key] = session.session_keys.make(AES, (draft(encrypt="true", decrypt="true"),))
    sealed = session.encrypt(key.ref, b"x")
    home = session.session_keys.home_of(key.ref)
    keep = m.KeepSessionKey(key.ref)
    other = next(x.id for x in used.cluster.members if x.id != home)
    change = used.cluster.controller.change
    with pytest.raises(RemoteError) as caught:
        change(lambda _: keep, ticket=session.ticket(), author=other)
    assert caught.value.code == "not-found"
    stranger = used.cluster.login(Role.CRYPTO_USER, "cu")
    with pytest.raises(RemoteError) as caught:
        change(lambda _: keep, ticket=stranger, author=home)  # the same user, another login
    assert caught.value.code == "not-found"
    [kept] = change(lambda _: keep, ticket=session.ticket(), author=home).keys
    assert not kept.ref & SESSION_KEY_BIT
    assert kept.attributes.token
    assert session.decrypt(kept.ref, sealed) == b"x"
    assert code_of(session.decrypt, key.ref, sealed) == "not-found"
    assert code_of(used.change, m.KeepSessionKey(kept.ref)) == "usage"


def test_who_shares_a_key_uses_it_and_no_more(used: Used) -> None:
    admin = used.cluster.login(Role.ADMIN, "admin")
    used.cluster.controller.change(
        lambda hsm: m.CreateUser(
            "friend",
            Role.CRYPTO_USER,
            used.cluster.seal(hsm, "new-password", Role.CRYPTO_USER, "friend"),
        ),
        ticket=admin,
    )
    balancer = used.session.balancer
    friend = Session(balancer, used.cluster.clock, Role.CRYPTO_USER, "friend").login(PASSWORD)
    public, private = used.make(EC[Curve.P256], *pair({}, {"derive": "true"}))
    used.change(m.ShareKey(private.ref, "friend"))
    agreement, _ = peer_of(public)
    assert code_of(friend.session_keys.derive, private.ref, agreement, AES, draft()) == "not-owner"
    [key] = used.make(AES, draft(encrypt="true", decrypt="true"))
    assert code_of(friend.encrypt, key.ref, b"x") == "not-found"
    used.change(m.ShareKey(key.ref, "friend"))
    assert used.session.decrypt(key.ref, friend.encrypt(key.ref, b"x")) == b"x"
    assert friend.find_key(KeyFilter(ref=key.ref)).shared == ("friend",)
    for change in (m.ChangeKey(key.ref, "label", "x"), m.DeleteKey(key.ref)):
        with pytest.raises(RemoteError) as caught:
            used.cluster.controller.change(lambda _, c=change: c, ticket=friend.ticket())  # type: ignore[misc]
        assert caught.value.code == "not-owner"
    used.change(m.UnshareKey(key.ref, "friend"))
    assert code_of(friend.encrypt, key.ref, b"x") == "not-found"
    born = m.KeyDraft(KeyClass.SECRET, "born", (("encrypt", "true"),), shared=("FRIEND",))
    [key] = used.make(AES, born)
    assert friend.encrypt(key.ref, b"x")
    assert code_of(used.session.session_keys.make, AES, (born,)) == "session-key"


# --- ECDH ---


def test_a_derived_token_key_is_its_peers(used: Used, base: Key) -> None:
    agreement, secret = peer_of(base)
    wanted = draft(encrypt="true", decrypt="true")
    one, other = (used.change(m.DeriveKeys(base.ref, agreement, AES, wanted))[0] for _ in range(2))
    assert one.ref != other.ref
    assert one.check_value == other.check_value
    sealed = used.session.encrypt(one.ref, b"x")
    assert used.session.decrypt(other.ref, sealed) == b"x"
    assert AESGCM(secret).decrypt(sealed[:12], sealed[12:], None) == b"x"
    for machine in used.cluster.machines:
        assert machine.hsm is not None
        assert machine.hsm.core.state.key(one.ref).blob


def test_a_derived_session_key_lives_where_it_was_made(used: Used, base: Key) -> None:
    session = used.session
    agreement, secret = peer_of(base)
    key = session.session_keys.derive(base.ref, agreement, SECRET, draft(sign="true"))
    assert key.ref & SESSION_KEY_BIT
    assert (key.attributes.token, key.attributes.local, key.blob) == (False, False, b"")
    expected = hmac.digest(secret, b"x", "sha256")
    assert session.mac(key.ref, MacMechanism.HMAC_SHA256, b"x") == expected
    # A session key may itself be the base of one; it is found where it lives.
    _, private = session.session_keys.make(EC[Curve.P521], pair({}, {"derive": "true"}))
    agreement, secret = peer_of(private)
    key = session.session_keys.derive(private.ref, agreement, AES, draft(sign="true"))
    mac = session.mac(key.ref, MacMechanism.AES_CMAC, b"x")
    again = session.session_keys.derive(private.ref, agreement, AES, draft(verify="true"))
    session.verify_mac(again.ref, MacMechanism.AES_CMAC, b"x", mac)
    change = m.DeriveKeys(private.ref, agreement, AES, draft())
    assert code_of(used.change, change) == "not-found"  # no ledger knows it


def test_a_derived_key_is_guarded_as_its_base_is(used: Used, base: Key) -> None:
    agreement, _ = peer_of(base)
    loose = used.change(m.DeriveKeys(base.ref, agreement, AES, draft()))[0].attributes
    assert (loose.extractable, loose.never_extractable, loose.local) == (True, False, False)
    assert (loose.sensitive, loose.always_sensitive) == (True, True)
    assert (loose.sign, loose.verify, loose.encrypt) == (False, False, False)
    kept = used.change(m.DeriveKeys(base.ref, agreement, AES, draft(extractable="false")))[0]
    assert (kept.attributes.extractable, kept.attributes.never_extractable) == (False, False)
    guarded = {"derive": "true", "extractable": "false", "wrap_with_trusted": "true"}
    strict = used.make(EC[Curve.P256], *pair({}, guarded))[1]
    bound = used.change(m.DeriveKeys(strict.ref, agreement, AES, draft()))[0].attributes
    assert (bound.extractable, bound.never_extractable, bound.wrap_with_trusted) == (
        False, True, True,
    )  # fmt: skip
    for asked in (draft(extractable="true"), draft(wrap_with_trusted="false")):
        change = m.DeriveKeys(strict.ref, agreement, AES, asked)
        assert code_of(used.change, change) == "attribute-conflict"


def test_deriving_is_refused_by_name(used: Used, base: Key) -> None:
    agreement, _ = peer_of(base)
    point = agreement.point
    public, mute = used.make(EC[Curve.P256], *pair({}, {}))
    [secret] = used.make(AES, draft(derive="true"))
    good = draft()
    refused = {
        "key-usage": [(public.ref, agreement, AES, good), (mute.ref, agreement, AES, good)],
        "key-spec": [(base.ref, agreement, KeySpec(KeyType.GENERIC_SECRET, 264), good),
                     (base.ref, agreement, RSA, good)],
        "blob-refused": [(base.ref, Agreement(point[:-1]), AES, good)],
        "mechanism-unavailable": [(base.ref, Agreement(point, Kdf.SHA256), AES, good)],
        "not-found": [(1, agreement, AES, good)],
        "usage": [(base.ref, agreement, AES, draft(KeyClass.PUBLIC))],
        "attribute-read-only": [(base.ref, agreement, AES, draft(local="true"))],
    }  # fmt: skip
    assert code_of(used.change, m.DeriveKeys(secret.ref, agreement, AES, good)) == "key-usage"
    for code, asked in refused.items():
        for ref, with_peer, spec, shape in asked:
            change = m.DeriveKeys(ref, with_peer, spec, shape)
            assert code_of(used.change, change) == code
            derive = used.session.session_keys.derive
            assert code_of(derive, ref, with_peer, spec, shape) == code


# --- FIPS mode ---


@pytest.mark.parametrize("curve", list(Curve))
def test_fips_mode_bars_hashes_weaker_than_the_curve(used: Used, curve: Curve) -> None:
    """The cluster is in FIPS mode; verification is never barred."""
    session = used.session
    public, private = used.make(EC[curve], *pair({"verify": "true"}, {"sign": "true"}))
    strength, barred = CURVE_STRENGTH_BITS[curve], []
    for hash_function in HashFunction:
        asked = (private, b"x", SignScheme.ECDSA, hash_function)
        if HASH_STRENGTH_BITS[hash_function] < strength:
            with pytest.raises(RemoteError, match=r"NON_FIPS clusters of hsm2m\.medium") as caught:
                session.sign_data(*asked)
            assert caught.value.code == "fips-mode"
            barred.append(hash_function)
        else:
            signature = session.sign_data(*asked)
            session.verify_data(public, b"x", signature, SignScheme.ECDSA, hash_function)
    assert barred == list(HashFunction)[: {128: 2, 192: 3, 256: 4}[strength]]


def test_fips_mode_judges_a_raw_digest_by_its_length(used: Used) -> None:
    session, raw = used.session, SignMechanism(SignScheme.ECDSA, None)
    public, private = used.make(EC[Curve.P256], *pair({"verify": "true"}, {"sign": "true"}))
    for length in (20, 28, 31):
        assert code_of(session.sign, private.ref, raw, bytes(length)) == "fips-mode"
    for length in (32, 64):
        signature = session.sign(private.ref, raw, bytes(length))
        verify_signature(public.public, raw, bytes(length), signature)
    for length in (0, 65):
        assert code_of(session.sign, private.ref, raw, bytes(length)) == "usage"


def test_fips_mode_decrypts_nothing_with_pkcs1(used: Used) -> None:
    session, pkcs1 = used.session, CipherMechanism(CipherScheme.RSA_PKCS)
    public, private = used.make(RSA, *pair({"encrypt": "true"}, {"decrypt": "true"}))
    sealed = session.encrypt(public.ref, b"x", mechanism=pkcs1)
    assert len(sealed) == 256
    assert code_of(session.decrypt, private.ref, sealed, mechanism=pkcs1) == "fips-mode"


def test_pkcs1_decrypts_in_a_cluster_of_the_other_mode(tmp_path: Path) -> None:
    used = Used(tmp_path)
    for machine in used.cluster.machines:
        assert machine.hsm is not None
        state = machine.hsm.core.state
        meta = msgspec.structs.replace(state.meta, mode="NON_FIPS")
        state.tables[Table.META][ONLY] = meta
    pkcs1 = CipherMechanism(CipherScheme.RSA_PKCS)
    public, private = used.make(RSA, *pair({"encrypt": "true"}, {"decrypt": "true"}))
    sealed = used.session.encrypt(public.ref, b"x", mechanism=pkcs1)
    assert used.session.decrypt(private.ref, sealed, mechanism=pkcs1) == b"x"
    for bad in (bytes(256), sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", sealed + b"x"):
        assert code_of(used.session.decrypt, private.ref, bad, mechanism=pkcs1) == "blob-refused"
    used.close()


def test_short_macs_and_foreign_ciphertexts(used: Used) -> None:
    session = used.session
    [secret] = used.make(SECRET, draft())
    sha256 = MacMechanism.HMAC_SHA256
    whole = session.mac(secret.ref, sha256, b"x")
    assert session.mac(secret.ref, sha256, b"x", 16) == whole[:16]
    session.verify_mac(secret.ref, sha256, b"x", whole[:16], 16)
    assert code_of(session.verify_mac, secret.ref, sha256, b"x", whole[:16]) == "signature-invalid"
    assert code_of(session.verify_mac, secret.ref, sha256, b"x", b"", 1) == "usage"
    assert code_of(session.mac, secret.ref, sha256, b"x", 9) == "usage"
    [key] = used.make(AES, draft(encrypt="true", decrypt="true"))
    sealed = session.encrypt(key.ref, b"x", b"aad")
    foreign = CipherMechanism(CipherScheme.AES_GCM, sealed[:12], b"aad")
    assert session.decrypt(key.ref, sealed[12:], mechanism=foreign) == b"x"
    assert code_of(session.encrypt, key.ref, b"x", mechanism=foreign) == "usage"


def test_fips_mode_bars_no_more_than_the_original(used: Used) -> None:
    _, private = used.make(RSA, *pair({}, {"sign": "true"}))
    digest = hashlib.sha1(b"x", usedforsecurity=False).digest()
    mechanism = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA1)
    assert used.session.sign(private.ref, mechanism, digest)
    [short] = used.make(KeySpec(KeyType.GENERIC_SECRET, 104), draft())
    assert used.session.mac(short.ref, MacMechanism.HMAC_SHA1, b"x")
