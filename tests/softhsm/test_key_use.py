"""Every mechanism through every layer: a client's session, HSM processes, real tokens."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.session import Session
from orchestrator.control.backups import Backups
from orchestrator.control.membership import Membership
from orchestrator.control.replication import Replication
from orchestrator.lab import demo, lab
from orchestrator.model.errors import RemoteError
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    SignScheme,
)
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.roles import Role
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire import messages as m

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
AES = KeySpec(KeyType.AES, 256)
EC = KeySpec(KeyType.EC, 256, Curve.P256)
SECRET = KeySpec(KeyType.GENERIC_SECRET, 512)
WRAP_PAD = WrapMechanism(WrapScheme.AES_ZERO_PAD)
RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
# As long as the curve is strong: the cluster is in FIPS mode.
HASHES = {
    Curve.P256: HashFunction.SHA256,
    Curve.P384: HashFunction.SHA384,
    Curve.P521: HashFunction.SHA512,
    Curve.SECP256K1: HashFunction.SHA256,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    """An active cluster of three HSMs with users."""
    made = demo.Demo(tmp_path_factory.mktemp("lab") / "home", lambda _: None, lambda _: None)
    try:
        for step in (made.up, made.create, made.ceremony, made.join, made.users):
            step()
        yield made
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)


@pytest.fixture(scope="module")
def session(job: demo.Demo) -> Session:
    return job._login(Role.CRYPTO_USER, "cu1")


def draft(key_class: KeyClass = KeyClass.SECRET, **attributes: str) -> m.KeyDraft:
    return m.KeyDraft(key_class, "key", tuple(attributes.items()))


def make(job: demo.Demo, session: Session, spec: KeySpec, *drafts: m.KeyDraft) -> tuple[Key, ...]:
    return job.plane.changes(job.cluster, session).generate_keys(spec, drafts)[1]


@pytest.mark.parametrize("curve", list(Curve))
def test_every_curve(job: demo.Demo, session: Session, curve: Curve) -> None:
    spec = KeySpec(KeyType.EC, CURVE_BITS[curve], curve)
    halves = (draft(KeyClass.PUBLIC), draft(KeyClass.PRIVATE, sign="true", derive="true"))
    public, private = make(job, session, spec, *halves)
    signature = session.sign_data(private, b"data", SignScheme.ECDSA, HASHES[curve])
    session.verify_data(public, b"data", signature, SignScheme.ECDSA, HASHES[curve])

    theirs = load_der_public_key(public.public)
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    own = ec.generate_private_key(theirs.curve)
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    value = own.exchange(ec.ECDH(), theirs)[-32:]
    change = m.DeriveKeys(private.ref, Agreement(point), AES, draft(encrypt="true", decrypt="true"))
    outcome = job.plane.controller(job.cluster).change(lambda _: change, ticket=session.ticket())
    [derived] = outcome.keys
    session.heard(outcome.report.seq)
    sealed = AESGCM(value).encrypt(bytes(12), b"from the peer", None)
    assert session.decrypt(derived.ref, bytes(12) + sealed) == b"from the peer"
    agreement = Agreement(point)
    temporary = session.session_keys.derive(private.ref, agreement, AES, draft(encrypt="true"))
    assert session.decrypt(derived.ref, session.encrypt(temporary.ref, b"x")) == b"x"


def test_ciphers_and_macs(job: demo.Demo, session: Session) -> None:
    [aes] = make(job, session, AES, draft(encrypt="true", decrypt="true"))
    for scheme in set(CipherScheme) - {CipherScheme.RSA_OAEP, CipherScheme.RSA_PKCS}:
        mechanism = CipherMechanism(scheme)
        sealed = session.encrypt(aes.ref, b"p" * 32, mechanism=mechanism)
        assert session.decrypt(aes.ref, sealed, mechanism=mechanism) == b"p" * 32
    big = bytes(m.PLAINTEXT_BYTES_MAX)
    padded = CipherMechanism(CipherScheme.AES_CBC_PAD)
    sealed = session.encrypt(aes.ref, big, mechanism=padded)
    assert session.decrypt(aes.ref, sealed, mechanism=padded) == big
    [secret] = make(job, session, SECRET, draft())
    for mac_mechanism in MacMechanism:
        key = aes if mac_mechanism is MacMechanism.AES_CMAC else secret
        mac = session.mac(key.ref, mac_mechanism, b"data")
        session.verify_mac(key.ref, mac_mechanism, b"data", mac)
        with pytest.raises(RemoteError) as caught:
            session.verify_mac(key.ref, mac_mechanism, b"other", mac)
        assert (caught.value.code, caught.value.exit_status) == ("signature-invalid", 1)


def test_keys_wrapped_by_one_hsm_come_in_at_another(job: demo.Demo, session: Session) -> None:
    changes = job.plane.changes(job.cluster, session)
    [kek] = make(job, session, AES, draft(wrap="true", unwrap="true"))
    halves = (draft(KeyClass.PUBLIC, wrap="true"), draft(KeyClass.PRIVATE, unwrap="true"))
    public, private = make(job, session, RSA, *halves)
    [payload] = make(job, session, AES, draft(encrypt="true"))
    sealed = session.encrypt(payload.ref, b"x")
    sha1 = HashFunction.SHA1
    for wrapper, unwrapper, mechanism in (
        (kek, kek, WrapMechanism(WrapScheme.AES_ZERO_PAD)),
        (kek, kek, WrapMechanism(WrapScheme.AES_NO_PAD)),
        (public, private, WrapMechanism(WrapScheme.RSA_OAEP, sha1)),
        (public, private, WrapMechanism(WrapScheme.RSA_AES, sha1)),
    ):
        wrapped = session.wrap_key(payload.ref, wrapper.ref, mechanism)
        wanted = draft(decrypt="true")
        _, back = changes.unwrap_key(unwrapper.ref, mechanism, wrapped, KeyType.AES, wanted)
        assert (back.check_value, back.attributes.local) == (payload.check_value, False)
        assert session.decrypt(back.ref, sealed) == b"x"
    spec = KeySpec(KeyType.EC, 521, Curve.P521)
    _, signer = make(job, session, spec, draft(KeyClass.PUBLIC), draft(KeyClass.PRIVATE))
    rsa_aes = WrapMechanism(WrapScheme.RSA_AES, sha1)
    wrapped = session.wrap_key(signer.ref, public.ref, rsa_aes)
    wanted = draft(KeyClass.PRIVATE, sign="true")
    _, back = changes.unwrap_key(private.ref, rsa_aes, wrapped, KeyType.EC, wanted)
    assert (back.spec, back.public) == (spec, signer.public)
    signature = session.sign_data(back, b"data", SignScheme.ECDSA, HashFunction.SHA512)
    session.verify_data(back, b"data", signature, SignScheme.ECDSA, HashFunction.SHA512)
    [session_kek] = session.session_keys.make(AES, (draft(wrap="true"),))
    assert len(session.wrap_key(payload.ref, session_kek.ref, WRAP_PAD)) == 40
    report, ref = changes.set_attribute(session_kek.ref, "token", "true")
    assert report is not None
    assert not ref & SESSION_KEY_BIT
    assert len(session.wrap_key(payload.ref, ref, WRAP_PAD)) == 40


def test_a_key_goes_to_a_clone(job: demo.Demo, session: Session) -> None:
    admin = job._login(Role.ADMIN, "admin")
    backup = Backups(job.plane).create(job.cluster).backup_id
    clone = job.plane.create_cluster("hsm2m.medium", (), None, backup).cluster_id
    Membership(job.plane).create(clone, "lab-1a")
    there = job.plane.login(clone, Role.CRYPTO_USER, "cu1", job.passwords["cu1"])
    with there:
        _, private = make(
            job, session, EC, draft(KeyClass.PUBLIC), draft(KeyClass.PRIVATE, sign="true")
        )
        change = job.plane.changes(job.cluster, session)
        change.share_key(private.ref, "cu2")
        replication = Replication(session, job.plane.controller(clone), there)
        _, copy = replication.replicate_key(private.ref)
        assert (copy.shared, copy.public) == (("cu2",), private.public)
        signature = there.sign_data(copy, b"data", SignScheme.ECDSA, HashFunction.SHA256)
        session.verify_data(private, b"data", signature, SignScheme.ECDSA, HashFunction.SHA256)
        with pytest.raises(RemoteError) as caught:
            replication.replicate_key(private.ref)
        assert caught.value.code == "exists"
    job.plane.changes(job.cluster, admin).create_user("late", Role.CRYPTO_USER, b"password-late")
    with job.plane.login(clone, Role.ADMIN, "admin", job.passwords["admin"]) as officer:
        Replication(admin, job.plane.controller(clone), officer).replicate_user(
            "late", Role.CRYPTO_USER
        )
    with job.plane.login(clone, Role.CRYPTO_USER, "late", b"password-late") as late:
        assert late.random(8)


def test_oaep_and_its_limit(job: demo.Demo, session: Session) -> None:
    halves = (draft(KeyClass.PUBLIC, encrypt="true"), draft(KeyClass.PRIVATE, decrypt="true"))
    public, private = make(job, session, RSA, *halves)
    sha1 = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
    sealed = session.encrypt(public.ref, b"x", mechanism=sha1)
    assert session.decrypt(private.ref, sealed, mechanism=sha1) == b"x"
    sha256 = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA256)
    sealed = session.encrypt(public.ref, b"x", mechanism=sha256)
    wanted = r"profile hsm2m\.medium has no mechanism CKM_RSA_PKCS_OAEP with sha256"
    with pytest.raises(RemoteError, match=wanted) as caught:
        session.decrypt(private.ref, sealed, mechanism=sha256)
    assert caught.value.code == "mechanism-unavailable"


def test_hmac_with_an_agreed_key(session: Session) -> None:
    spec = KeySpec(KeyType.EC, 384, Curve.P384)
    halves = (draft(KeyClass.PUBLIC), draft(KeyClass.PRIVATE, derive="true"))
    public, private = session.session_keys.make(spec, halves)
    theirs = load_der_public_key(public.public)
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    own = ec.generate_private_key(ec.SECP384R1())
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shorter = KeySpec(KeyType.GENERIC_SECRET, 256)
    key = session.session_keys.derive(private.ref, Agreement(point), shorter, draft(sign="true"))
    value = own.exchange(ec.ECDH(), theirs)[-32:]
    mac = session.mac(key.ref, MacMechanism.HMAC_SHA256, b"data")
    assert mac == hmac.digest(value, b"data", "sha256")
