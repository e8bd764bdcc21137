"""Keys given in clear, and copies: attributes, owners, sessions; nothing gets more than it had."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from orchestrator.client.balancer import Balancer, Link
from orchestrator.client.session import Session
from orchestrator.client.trust import seal_clear_key
from orchestrator.client.verify import verify_signature
from orchestrator.control.changes import Changes
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.roles import Role
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire import messages as m
from tests.agent.used import AES, EC, SECRET, Used, code_of, draft, pair
from tests.stateful.harness import CLUSTER, PASSWORD, FakeStream

GCM = CipherMechanism(CipherScheme.AES_GCM)
RAW = SignMechanism(SignScheme.ECDSA, None)
VALUE = bytes(range(32))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    made = Used(tmp_path_factory.mktemp("used"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def changes(used: Used) -> Changes:
    return Changes(
        used.cluster.controller, used.session, used.cluster.anchor, list, used.cluster.clock
    )


@pytest.fixture(scope="module")
def other(used: Used) -> Iterator[Session]:
    with another(used) as session:
        yield session


def another(used: Used) -> Session:
    """Return a session of another crypto user."""
    cluster = used.cluster
    admin = cluster.login(Role.ADMIN, "admin")
    cluster.controller.change(
        lambda hsm: m.CreateUser(
            "other",
            Role.CRYPTO_USER,
            cluster.seal(hsm, "new-password", Role.CRYPTO_USER, "other"),
        ),
        ticket=admin,
    )
    source = {x.id: (lambda x=x: FakeStream(x)) for x in cluster.members}
    balancer = Balancer(CLUSTER, cluster.anchor, lambda: source, cluster.clock)
    return Session(balancer, cluster.clock, Role.CRYPTO_USER, "other").login(PASSWORD)


def p256() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# --- clear keys ---


def test_a_clear_key_works_on_every_hsm(used: Used, changes: Changes) -> None:
    report, key = changes.import_clear_key(AES, VALUE, draft(encrypt="true", decrypt="true"))
    assert (report.held, key.ref >> 16) == (3, report.seq)
    sealed = AESGCM(VALUE).encrypt(bytes(12), b"x", None)
    for machine in used.cluster.machines:
        asked = m.Decrypt(used.session.ticket(), 0, key.ref, GCM, bytes(12) + sealed)
        reply = used.session.balancer.call_one(machine.id, lambda _, a=asked: a)  # type: ignore[misc]
        assert isinstance(reply, m.Data)
        assert reply.data == b"x"


def test_a_clear_key_says_that_it_came_from_outside(changes: Changes) -> None:
    _, key = changes.import_clear_key(AES, VALUE, draft(extractable="false", id="0x07"))
    attributes = key.attributes
    assert (key.id, key.owner, key.blob) == (b"\7", "cu", b"")
    assert attributes.sensitive
    assert attributes.private
    assert not attributes.extractable
    assert not attributes.local
    assert not attributes.always_sensitive
    assert not attributes.never_extractable


def test_private_keys_are_imported(used: Used, changes: Changes) -> None:
    private, value = p256()
    spec = EC[Curve.P256]
    _, key = changes.import_clear_key(spec, value, draft(KeyClass.PRIVATE, sign="true"))
    verify_signature(key.public, RAW, VALUE, used.session.sign(key.ref, RAW, VALUE))
    numbers = private.public_key().public_numbers()
    assert numbers.x.to_bytes(32, "big") in key.public


def test_a_clear_key_for_one_session(used: Used) -> None:
    session = used.session
    key = session.session_keys.import_clear(SECRET, VALUE, draft())
    assert key.ref & SESSION_KEY_BIT
    mac = session.mac(key.ref, MacMechanism.HMAC_SHA256, b"x")
    assert mac == hmac.digest(VALUE, b"x", "sha256")
    session.session_keys.drop(key.ref)
    assert code_of(session.mac, key.ref, MacMechanism.HMAC_SHA256, b"x") == "not-found"


def test_a_repeated_import_is_answered_and_not_made_twice(changes: Changes) -> None:
    first = changes.import_clear_key(AES, VALUE, draft(), request="import-1")
    again = changes.import_clear_key(AES, VALUE, draft(), request="import-1")
    assert first == again


def test_what_is_refused_of_clear_keys(used: Used, changes: Changes) -> None:
    _, value = p256()
    spec = EC[Curve.P256]
    for asked, code in (
        ((AES, VALUE, draft(wrap="true", decrypt="true")), "attribute-conflict"),
        ((AES, VALUE, draft(local="true")), "attribute-read-only"),
        ((AES, VALUE, draft(sensitive="false")), "attribute-read-only"),
        ((AES, VALUE, draft(trusted="true")), "attribute-read-only"),
        ((AES, VALUE, draft(nonsense="true")), "attribute-unknown"),
        ((AES, VALUE[1:], draft()), "usage"),
        ((AES, VALUE, draft(KeyClass.PRIVATE)), "usage"),
        ((AES, VALUE, draft(KeyClass.PUBLIC)), "usage"),
        ((spec, value, draft()), "usage"),
        ((spec, VALUE, draft(KeyClass.PRIVATE)), "usage"),
        ((KeySpec(KeyType.AES, 8), b"x", draft()), "key-spec"),
    ):
        assert code_of(changes.import_clear_key, *asked) == code
        assert code_of(used.session.session_keys.import_clear, *asked) == code


def test_a_sealed_value_is_for_one_connection_and_one_kind_of_key(used: Used) -> None:
    """Who stands between cannot have it imported with other attributes, or again."""
    session, meant = used.session, draft(extractable="false")
    first, second = (machine.id for machine in used.cluster.machines[:2])
    kept: list[bytes] = []

    def build(link: Link, name: str = "cu") -> m.Request:
        kept.append(seal_clear_key(link.welcome, link.member, name, AES, meant, VALUE))
        return m.ImportSessionKey(session.ticket(), AES, meant, kept[-1])

    assert isinstance(session.balancer.call_one(first, build), m.KeyPage)
    edited = m.ImportSessionKey(session.ticket(), AES, draft(extractable="true"), kept[0])
    elsewhere = m.ImportSessionKey(session.ticket(), AES, meant, kept[0])
    shorter = m.ImportSessionKey(session.ticket(), SECRET, meant, kept[0])
    for hsm, asked in ((first, edited), (second, elsewhere), (first, shorter)):
        assert code_of(session.balancer.call_one, hsm, lambda _, a=asked: a) == "tampered"
    assert code_of(session.balancer.call_one, first, lambda x: build(x, "other")) == "tampered"
    for garbage in (b"", bytes(80), bytes(200)):
        asked = m.ImportSessionKey(session.ticket(), AES, meant, garbage)
        assert code_of(session.balancer.call_one, first, lambda _, a=asked: a) in {
            "malformed",
            "blob-refused",
        }


# --- copies ---


def test_a_copy_is_the_same_key_under_a_name_of_its_own(used: Used, changes: Changes) -> None:
    session = used.session
    [source] = used.make(AES, draft(encrypt="true", decrypt="true", id="0x01"))
    copy = m.KeyCopy("copy", b"\2", (("encrypt", "false"), ("extractable", "false")))
    report, key = changes.copy_key(source.ref, copy)
    assert key.ref == report.seq << 16 != source.ref
    assert (key.label, key.id, key.owner, key.shared) == ("copy", b"\2", "cu", ())
    assert (key.spec, key.check_value) == (source.spec, source.check_value)
    before, after = source.attributes, key.attributes
    assert (after.encrypt, after.decrypt, after.extractable) == (False, True, False)
    assert (after.local, after.always_sensitive) == (before.local, before.always_sensitive)
    assert not after.never_extractable  # its value could leave once
    assert session.decrypt(key.ref, session.encrypt(source.ref, b"x")) == b"x"
    assert code_of(session.encrypt, key.ref, b"x") == "key-usage"
    plain = changes.copy_key(source.ref, m.KeyCopy())[1]
    assert (plain.label, plain.id) == (source.label, source.id)
    # Each lives and dies by itself.
    changes.delete_key(source.ref)
    assert code_of(session.encrypt, source.ref, b"x") == "not-found"
    assert session.encrypt(plain.ref, b"x")
    assert session.find_key(KeyFilter(ref=key.ref)) == key


def test_both_halves_of_a_pair_are_copied(used: Used, changes: Changes) -> None:
    public, private = used.make(EC[Curve.P256], *pair({"verify": "true"}, {"sign": "true"}))
    for source in (public, private):
        _, key = changes.copy_key(source.ref, m.KeyCopy("copy"))
        assert (key.key_class, key.public) == (source.key_class, source.public)
    _, key = changes.copy_key(private.ref, m.KeyCopy())
    signature = used.session.sign(key.ref, RAW, VALUE)
    verify_signature(public.public, RAW, VALUE, signature)


def test_a_copy_for_one_session(used: Used, changes: Changes) -> None:
    session = used.session
    [source] = used.make(AES, draft(encrypt="true", decrypt="true"))
    key = session.session_keys.copy(source.ref, m.KeyCopy("mine", None, (("decrypt", "false"),)))
    assert key.ref & SESSION_KEY_BIT
    attributes = key.attributes
    assert (attributes.token, attributes.decrypt, attributes.modifiable) == (False, False, False)
    assert session.decrypt(source.ref, session.encrypt(key.ref, b"x")) == b"x"
    assert code_of(session.session_keys.copy, key.ref, m.KeyCopy()) in {"usage", "not-found"}
    assert code_of(changes.copy_key, key.ref, m.KeyCopy()) == "not-found"
    session.session_keys.drop(key.ref)
    assert session.encrypt(source.ref, b"x")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("wrap", "true", "attribute-conflict"),
        ("decrypt", "true", "attribute-conflict"),
        ("sign", "true", "attribute-conflict"),
        ("extractable", "true", "attribute-conflict"),
        ("modifiable", "true", "attribute-conflict"),
        ("destroyable", "true", "attribute-conflict"),
        ("wrap-with-trusted", "false", "attribute-conflict"),
        ("sensitive", "false", "attribute-read-only"),
        ("private", "false", "attribute-read-only"),
        ("local", "false", "attribute-read-only"),
        ("trusted", "true", "attribute-read-only"),
        ("never-extractable", "false", "attribute-read-only"),
        ("always-sensitive", "false", "attribute-read-only"),
        ("class", "secret-key", "attribute-read-only"),
        ("check-value", "0x00", "attribute-read-only"),
        ("nonsense", "true", "attribute-unknown"),
        ("encrypt", "perhaps", "usage"),
    ],
)
def test_a_copy_gets_nothing_that_its_source_has_not(
    used: Used, changes: Changes, name: str, value: str, code: str
) -> None:
    guarded = {
        "sign": "false",
        "verify": "false",
        "extractable": "false",
        "wrap_with_trusted": "true",
        "modifiable": "false",
        "destroyable": "false",
    }
    [source] = used.make(AES, draft(KeyClass.SECRET, **guarded))
    copy = m.KeyCopy(None, None, ((name, value),))
    assert code_of(changes.copy_key, source.ref, copy) == code
    assert code_of(used.session.session_keys.copy, source.ref, copy) == code
    same = (("sensitive", "true"), ("extractable", "false"), ("wrap-with-trusted", "true"))
    kept = used.session.session_keys.copy(source.ref, m.KeyCopy(None, None, same)).attributes
    assert (kept.extractable, kept.wrap_with_trusted, kept.never_extractable) == (False, True, True)


def test_labels_ids_and_attributes_of_a_copy_are_checked(used: Used, changes: Changes) -> None:
    [source] = used.make(AES, draft())
    for copy, code in (
        (m.KeyCopy("x" * 128), "label-rule"),
        (m.KeyCopy("a\nb"), "label-rule"),
        (m.KeyCopy(None, bytes(129)), "usage"),
        (m.KeyCopy(None, None, (("sign", "false"), ("sign", "true"))), "usage"),
    ):
        assert code_of(changes.copy_key, source.ref, copy) == code


def test_only_the_owner_copies(used: Used, other: Session) -> None:
    theirs = Changes(used.cluster.controller, other, used.cluster.anchor, list, used.cluster.clock)
    [secret] = used.make(AES, draft())
    public, _ = used.make(EC[Curve.P256], *pair({}, {}))
    for ref, code in ((secret.ref, "not-found"), (public.ref, "not-owner"), (1, "not-found")):
        assert code_of(theirs.copy_key, ref, m.KeyCopy()) == code
        assert code_of(other.session_keys.copy, ref, m.KeyCopy()) == code


def test_a_key_that_needs_approvals_is_not_copied(
    used: Used, changes: Changes, other: Session
) -> None:
    guarded = m.KeyDraft(KeyClass.SECRET, "key", (), (other.name,), (), (), 2, 2)
    [source] = used.make(AES, guarded)
    assert code_of(changes.copy_key, source.ref, m.KeyCopy()) == "quorum-key"
    assert code_of(used.session.session_keys.copy, source.ref, m.KeyCopy()) == "quorum-key"


def test_changes_answer_with_the_key(used: Used, changes: Changes) -> None:
    _, private = used.make(EC[Curve.P256], *pair({}, {"derive": "true"}))
    peer = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    report, key = changes.derive_key(private.ref, Agreement(point), AES, draft())
    assert key.ref == report.seq << 16
    assert not key.attributes.local
    with pytest.raises(OrchestratorError):
        changes.derive_key(private.ref, Agreement(os.urandom(65)), AES, draft())


# --- copies, and changes of attributes ---


def set_(changes: Changes, key: Key, name: str, value: str) -> None:
    changes.set_attribute(key.ref, name, value)


def test_no_copy_decrypts_what_another_wraps(used: Used, changes: Changes) -> None:
    stays = draft(encrypt="true", decrypt="true", extractable="false")
    [source] = used.make(AES, stays)
    _, copy = changes.copy_key(source.ref, m.KeyCopy())
    set_(changes, source, "decrypt", "false")
    assert code_of(set_, changes, source, "wrap", "true") == "attribute-conflict"
    set_(changes, copy, "decrypt", "false")
    set_(changes, source, "wrap", "true")
    for key in (source, copy):  # for ever, also when it wraps no more
        assert code_of(set_, changes, key, "decrypt", "true") == "attribute-conflict"
    set_(changes, source, "wrap", "false")
    changes.delete_key(source.ref)
    assert code_of(set_, changes, copy, "decrypt", "true") == "attribute-conflict"


def test_a_copy_that_is_late_is_compared_as_well(used: Used, changes: Changes) -> None:
    """Its attributes were taken before its source began to wrap, and its place comes after."""
    cluster = used.cluster
    [source] = used.make(AES, draft(decrypt="true", extractable="false"))
    hsm = cluster.machines[0].id
    asked = m.Prepare(used.session.ticket(), "late-copy", m.CopyKey(source.ref, m.KeyCopy()), 0)
    assert isinstance(cluster.controller.roster.call(hsm, asked), m.Prepared)
    set_(changes, source, "decrypt", "false")
    set_(changes, source, "wrap", "true")
    with pytest.raises(OrchestratorError) as caught:
        cluster.controller.roster.call(hsm, asked)  # the work stands, its place is another now
    assert caught.value.code == "attribute-conflict"


def test_a_copy_of_what_could_leave_never_wraps(used: Used, changes: Changes) -> None:
    [source] = used.make(AES, draft(encrypt="true"))
    _, copy = changes.copy_key(source.ref, m.KeyCopy(None, None, (("extractable", "false"),)))
    assert code_of(set_, changes, copy, "wrap", "true") == "attribute-conflict"
    changes.delete_key(source.ref)
    assert code_of(set_, changes, copy, "wrap", "true") == "attribute-conflict"
    _, again = changes.copy_key(copy.ref, m.KeyCopy())
    assert code_of(set_, changes, again, "wrap", "true") == "attribute-conflict"


def test_a_session_copy_ends_when_a_key_of_its_value_changes(used: Used, changes: Changes) -> None:
    session = used.session
    [source] = used.make(AES, draft(encrypt="true", decrypt="true", extractable="false"))
    _, other_copy = changes.copy_key(source.ref, m.KeyCopy(None, None, (("decrypt", "false"),)))
    temporary = session.session_keys.copy(source.ref, m.KeyCopy())
    for name, value in (("label", "x"), ("decrypt", "false"), ("token", "true")):
        assert code_of(changes.set_attribute, temporary.ref, name, value) == "not-modifiable"
    sealed = session.encrypt(temporary.ref, b"x")
    assert session.decrypt(temporary.ref, sealed) == b"x"
    set_(changes, source, "decrypt", "false")
    assert code_of(session.decrypt, temporary.ref, sealed) == "not-found"
    temporary = session.session_keys.copy(source.ref, m.KeyCopy())
    set_(changes, other_copy, "wrap", "true")
    assert code_of(session.encrypt, temporary.ref, b"x") == "not-found"


def test_a_session_copy_ends_with_the_last_token_key_of_its_value(
    used: Used, changes: Changes
) -> None:
    session = used.session
    [source] = used.make(AES, draft(encrypt="true"))
    [unrelated] = used.make(AES, draft())
    _, other_copy = changes.copy_key(source.ref, m.KeyCopy())
    temporary = session.session_keys.copy(source.ref, m.KeyCopy())
    [own] = session.session_keys.make(AES, (draft(encrypt="true"),))
    for ref in (source.ref, unrelated.ref):
        changes.delete_key(ref)
        assert session.encrypt(temporary.ref, b"x")
    changes.delete_key(other_copy.ref)
    assert code_of(session.encrypt, temporary.ref, b"x") == "not-found"
    assert session.encrypt(own.ref, b"x")


def test_a_session_copy_ends_when_its_source_is_another_users(tmp_path: Path) -> None:
    used = Used(tmp_path)
    session, cluster = used.session, used.cluster
    other = another(used)
    [source] = used.make(AES, draft(encrypt="true"))
    temporary = session.session_keys.copy(source.ref, m.KeyCopy())
    admin = cluster.login(Role.ADMIN, "admin")
    for giver, taker in (("cu", other.name), (other.name, "cu")):
        transfer = m.TransferKeys(giver, taker)
        cluster.controller.change(lambda _, t=transfer: t, ticket=admin)  # type: ignore[misc]
        assert code_of(session.encrypt, temporary.ref, b"x") == "not-found"
    assert session.encrypt(source.ref, b"x")
    other.close()
    used.close()


def test_copies_of_private_keys_follow_their_public_half(used: Used, changes: Changes) -> None:
    rsa = KeySpec(KeyType.RSA, 2048, None, 65537)
    halves = pair({"encrypt": "true"}, {"decrypt": "true", "extractable": "false"})
    public, private = used.make(rsa, *halves)
    _, copy = changes.copy_key(private.ref, m.KeyCopy())
    set_(changes, private, "decrypt", "false")
    assert code_of(set_, changes, public, "wrap", "true") == "attribute-conflict"
    set_(changes, copy, "decrypt", "false")
    set_(changes, public, "wrap", "true")
    assert code_of(set_, changes, copy, "decrypt", "true") == "attribute-conflict"


# --- what is known outside wraps nothing ---


def test_a_clear_key_wraps_once_an_admin_trusts_it(used: Used, changes: Changes) -> None:
    session, kwp = used.session, WrapMechanism(WrapScheme.AES_ZERO_PAD)
    [payload] = used.make(AES, draft())
    wraps = draft(wrap="true", extractable="false")
    for wrapper in (
        changes.import_clear_key(AES, VALUE, wraps)[1],
        session.session_keys.import_clear(AES, VALUE, wraps),
    ):
        assert code_of(session.wrap_key, payload.ref, wrapper.ref, kwp) == "not-trusted"
    _, kept = changes.import_clear_key(AES, os.urandom(32), wraps)
    assert code_of(changes.copy_key, kept.ref, m.KeyCopy()) == "attribute-conflict"
    assert code_of(session.session_keys.copy, kept.ref, m.KeyCopy()) == "attribute-conflict"
    _, copy = changes.copy_key(kept.ref, m.KeyCopy(None, None, (("wrap", "false"),)))
    assert code_of(session.wrap_key, payload.ref, copy.ref, kwp) == "key-usage"
    assert code_of(set_, changes, copy, "decrypt", "true") == "attribute-conflict"


def test_a_copy_leaves_no_easier_than_its_source(used: Used, changes: Changes) -> None:
    session, kwp = used.session, WrapMechanism(WrapScheme.AES_ZERO_PAD)
    [wrapper] = used.make(AES, draft(wrap="true", extractable="false"))
    for attributes, code in (
        ({"extractable": "false"}, "not-extractable"),
        ({"wrap_with_trusted": "true"}, "not-trusted"),
    ):
        [source] = used.make(AES, draft(KeyClass.SECRET, **attributes))
        _, copy = changes.copy_key(source.ref, m.KeyCopy())
        temporary = session.session_keys.copy(source.ref, m.KeyCopy())
        for key in (source, copy, temporary):
            assert code_of(session.wrap_key, key.ref, wrapper.ref, kwp) == code
