"""What a gateway does for applications, on real tokens: log-ins, changes, objects, passwords."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from orchestrator.client.clear_keys import ec_private_key, rsa_private_key
from orchestrator.client.session import Session
from orchestrator.client.verify import der_signature
from orchestrator.control.application import Application
from orchestrator.control.inspection import Inspection
from orchestrator.lab import demo, lab
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import (
    CipherMechanism,
    CipherScheme,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit, ObjectFilter
from orchestrator.wire import messages as m

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
AES = KeySpec(KeyType.AES, 256)
P256_PARAMS = bytes.fromhex("06082a8648ce3d030107")
DIGEST = bytes(range(32))


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


@pytest.fixture
def application(job: demo.Demo) -> Iterator[Application]:
    opened = Application.open(job.home)
    yield opened
    opened.close()


@pytest.fixture
def session(job: demo.Demo, application: Application) -> Iterator[Session]:
    with application.login("cu1", job.passwords["cu1"]) as login:
        yield login


def code_of(action: Callable[..., object], *given: object) -> str:
    with pytest.raises(OrchestratorError) as caught:
        action(*given)
    return caught.value.code


def draft(key_class: KeyClass, **attributes: str) -> m.KeyDraft:
    return m.KeyDraft(key_class, "key", tuple(attributes.items()))


def octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def test_logging_in_opens_no_database(job: demo.Demo, application: Application) -> None:
    away = job.home / "elsewhere.db"
    (job.home / "control.db").rename(away)
    try:
        with application.login("cu1", job.passwords["cu1"]) as session:
            assert len(session.random(8)) == 8
            assert code_of(application.changes, session) == "unavailable"
            assert not (job.home / "control.db").exists()
            away.rename(job.home / "control.db")
            changes = application.changes(session)
            assert changes.generate_keys(AES, (draft(KeyClass.SECRET),))[0].held == 3
    finally:
        if away.exists():
            away.rename(job.home / "control.db")


def test_it_knows_the_only_cluster_and_no_other(job: demo.Demo, application: Application) -> None:
    assert application.cluster == job.cluster
    assert code_of(Application.open, job.home, "cluster-none") == "not-found"
    assert code_of(application.login, "cu1", b"not-this-one") == "login-failed"
    assert code_of(application.login, "admin", job.passwords["admin"]) == "login-failed"


def test_rsa_and_ec_in_clear(application: Application, session: Session) -> None:
    changes = application.changes(session)
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    spec, value = rsa_private_key(octets(numbers.public_numbers.n), b"\1\0\1", octets(numbers.d))
    _, key = changes.import_clear_key(spec, value, draft(KeyClass.PRIVATE, sign="true"))
    data = b"any data, no DigestInfo"
    signature = session.sign(key.ref, SignMechanism(SignScheme.RSA_PKCS, None), data)
    public = numbers.public_numbers.public_key()
    assert public.recover_data_from_signature(signature, padding.PKCS1v15(), None) == data
    own = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    spec, value = ec_private_key(P256_PARAMS, octets(own.private_value))
    temporary = session.session_keys.import_clear(spec, value, draft(KeyClass.PRIVATE, sign="true"))
    raw = SignMechanism(SignScheme.ECDSA, None)
    signature = der_signature(session.sign(temporary.ref, raw, DIGEST))
    own.public_numbers.public_key().verify(signature, DIGEST, ec.ECDSA(Prehashed(SHA256())))
    loaded = load_der_public_key(temporary.public)
    assert loaded == own.public_numbers.public_key()


def test_secrets_in_clear_and_copies(application: Application, session: Session) -> None:
    changes = application.changes(session)
    value = os.urandom(20)
    secret = KeySpec(KeyType.GENERIC_SECRET, 160)
    _, key = changes.import_clear_key(secret, value, draft(KeyClass.SECRET))
    sha1 = MacMechanism.HMAC_SHA1
    expected = hmac.digest(value, b"x", "sha1")
    assert session.mac(key.ref, sha1, b"x") == expected
    _, copy = changes.copy_key(key.ref, m.KeyCopy("verifier", None, (("sign", "false"),)))
    session.verify_mac(copy.ref, sha1, b"x", expected)
    assert code_of(session.mac, copy.ref, sha1, b"x") == "key-usage"
    temporary = session.session_keys.copy(key.ref, m.KeyCopy())
    assert session.mac(temporary.ref, sha1, b"x", 12) == expected[:12]
    odd = KeySpec(KeyType.GENERIC_SECRET, 65 * 8)
    assert (
        code_of(changes.import_clear_key, odd, bytes(65), draft(KeyClass.SECRET))
        == "mechanism-unavailable"
    )


def test_ecb_through_every_layer(application: Application, session: Session) -> None:
    attributes = draft(KeyClass.SECRET, encrypt="true", decrypt="true")
    _, [key] = application.changes(session).generate_keys(AES, (attributes,))
    ecb = CipherMechanism(CipherScheme.AES_ECB)
    sealed = session.encrypt(key.ref, bytes(32), mechanism=ecb)
    assert sealed[:16] == sealed[16:]
    assert sealed[:3] == key.check_value
    assert session.decrypt(key.ref, sealed, mechanism=ecb) == bytes(32)


def test_objects(job: demo.Demo, application: Application, session: Session) -> None:
    changes = application.changes(session)
    shown = ObjectDraft(
        object_class=ObjectClass.CERTIFICATE, label="shown", value=b"\x30\x00", private=False
    )
    hidden = ObjectDraft(object_class=ObjectClass.DATA, label="hidden", value=b"v")
    _, public = changes.put_object(shown)
    _, private = changes.put_object(hidden)
    changes.change_object(private, ObjectEdit(label="renamed", value=b"w"))
    assert [x.label for x in application.public_objects(ObjectFilter()).objects] == ["shown"]
    [found] = session.list_objects(ObjectFilter(label="renamed")).objects
    assert (found.ref, found.value) == (private, b"w")
    with application.login("cu2", job.passwords["cu2"]) as other:
        assert [x.label for x in other.list_objects(ObjectFilter()).objects] == ["shown"]
        theirs = application.changes(other)
        assert code_of(theirs.delete_object, public) == "not-owner"
        assert code_of(theirs.delete_object, private) == "not-found"
    for ref in (public, private):
        changes.delete_object(ref)
    assert session.list_objects(ObjectFilter()).total == 0
    assert Inspection(job.plane).verify(job.cluster).is_consistent


def test_a_new_password_needs_the_old_one(job: demo.Demo, application: Application) -> None:
    old, new = job.passwords["cu2"], b"another-password"
    with application.login("cu2", old) as session:
        assert code_of(application.set_password, session, b"not-this-one", new) == "login-failed"
        assert code_of(application.set_password, session, old, b"short") == "password-rule"
        assert session.random(8)
        with application.set_password(session, old, new) as after:
            assert after.random(8)
        assert code_of(session.random, 8) == "ticket-refused"
    assert code_of(application.login, "cu2", old) == "login-failed"
    with application.login("cu2", new) as session, application.set_password(session, new, old):
        pass


def test_a_clear_value_is_in_no_file(
    job: demo.Demo, application: Application, session: Session
) -> None:
    value = os.urandom(32)
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    changes = application.changes(session)
    spec, pkcs8 = ec_private_key(P256_PARAMS, octets(number))
    changes.import_clear_key(AES, value, draft(KeyClass.SECRET))
    changes.import_clear_key(spec, pkcs8, draft(KeyClass.PRIVATE, sign="true"))
    session.session_keys.import_clear(AES, value, draft(KeyClass.SECRET))
    searched = 0
    for path in job.home.rglob("*"):
        if path.is_file():
            content, searched = path.read_bytes(), searched + 1
            for secret in (value, number.to_bytes(32, "big")):
                for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:40]):
                    assert form not in content, path
    assert searched > 10


def test_many_threads_change_through_one_application(
    application: Application, session: Session
) -> None:
    def make(number: int) -> int:
        label = f"thread-{number}"
        changes = application.changes(session)
        _, keys = changes.generate_keys(
            AES, (m.KeyDraft(KeyClass.SECRET, label),), request=f"{session.login_id}-{number}"
        )
        return keys[0].ref

    with ThreadPoolExecutor(6) as pool:
        refs = list(pool.map(make, range(12)))
        assert len(set(refs)) == 12
        assert list(pool.map(make, range(12))) == refs  # asked again: the same answers
