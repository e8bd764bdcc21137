"""Keys that leave and come in, from a client's session to the token: every rule and refusal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.session import Session
from orchestrator.model.entries import decode
from orchestrator.model.errors import RemoteError
from orchestrator.model.key_spec import (
    CipherMechanism,
    CipherScheme,
    HashFunction,
    KeyClass,
    KeyType,
)
from orchestrator.model.keys import SESSION_KEY_BIT, Guards, Key
from orchestrator.model.quorum import UseGrant, use_digest
from orchestrator.model.roles import Role
from orchestrator.model.state import Table, key_row
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire import messages as m
from tests.agent.used import AES, EC, RSA, SECRET, Used, code_of, draft, pair
from tests.fakes.foreign_keys import pkcs8, unwrap_outside, wrap_outside
from tests.stateful.harness import PASSWORD

KWP = WrapMechanism(WrapScheme.AES_ZERO_PAD)
OAEP = WrapMechanism(WrapScheme.RSA_OAEP, HashFunction.SHA1)
RSA_AES = WrapMechanism(WrapScheme.RSA_AES, HashFunction.SHA1)
PKCS1 = WrapMechanism(WrapScheme.RSA_PKCS)
OUTSIDE = rsa.generate_private_key(65537, 2048)
SECRET_DRAFT = draft(encrypt="true")


class Wrapped(Used):
    """With an admin, another user, and short words for what is done often."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.admin = self.cluster.login(Role.ADMIN, "admin")
        self.cluster.controller.change(
            lambda hsm: m.CreateUser(
                "friend",
                Role.CRYPTO_USER,
                self.cluster.seal(hsm, "new-password", Role.CRYPTO_USER, "friend"),
            ),
            ticket=self.admin,
        )
        clock = self.cluster.clock
        self.friend = Session(self.session.balancer, clock, Role.CRYPTO_USER, "friend")
        self.friend.login(PASSWORD)

    def trust(self, key: Key, value: str = "true") -> None:
        change = m.ChangeKey(key.ref, "trusted", value)
        self.cluster.controller.change(lambda _: change, ticket=self.admin)

    def set(self, key: Key, name: str, value: str) -> None:
        self.change(m.ChangeKey(key.ref, name, value))

    def kek(self) -> Key:
        [key] = self.make(AES, draft(wrap="true", unwrap="true"))
        return key

    def unwrap(self, by: Key, wrapped: bytes, draft_: m.KeyDraft = SECRET_DRAFT) -> Key:
        [key] = self.change(m.UnwrapKey(by.ref, KWP, wrapped, KeyType.AES, draft_))
        return key


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wrapped]:
    made = Wrapped(tmp_path_factory.mktemp("wrapped"))
    yield made
    made.close()


def wrap_code(used: Wrapped, payload: Key, wrapper: Key, by: WrapMechanism = KWP) -> str:
    return code_of(used.session.wrap_key, payload.ref, wrapper.ref, by)


def audit_events(used: Wrapped) -> list[tuple[str, str]]:
    events = []
    for machine in used.cluster.machines:
        assert machine.hsm is not None
        lines, _ = machine.hsm.core.vault.audit_lines(0, 2000)
        records = [decode(m.AuditRecord, line, "line") for line in lines]
        events += [(record.event, record.subject) for record in records]
    return events


def test_a_key_leaves_and_comes_back_less_trusted(used: Wrapped) -> None:
    kek = used.kek()
    assert not kek.attributes.extractable  # a wrapping key stays, without being asked to
    [key] = used.make(AES, draft(encrypt="true", decrypt="true"))
    wrapped = used.session.wrap_key(key.ref, kek.ref, KWP)
    assert len(wrapped) == 40
    subject = f"0x{key.ref:016x} under 0x{kek.ref:016x} by aes-zero-pad"
    assert ("key-wrapped", subject) in audit_events(used)
    back = used.unwrap(kek, wrapped, draft(decrypt="true", id="0x01"))
    a = back.attributes
    assert (a.local, a.always_sensitive, a.never_extractable, a.sensitive) == (
        False, False, False, True,
    )  # fmt: skip
    assert (back.spec, back.check_value, back.id) == (AES, key.check_value, b"\1")
    assert used.session.decrypt(back.ref, used.session.encrypt(key.ref, b"x")) == b"x"
    never = used.unwrap(kek, wrapped, draft(extractable="false"))
    assert not never.attributes.never_extractable  # it was outside


def test_session_keys_wrap_and_unwrap_where_they_live(used: Wrapped) -> None:
    session = used.session
    [kek] = session.session_keys.make(AES, (draft(wrap="true", unwrap="true"),))
    [token] = used.make(AES, SECRET_DRAFT)
    wrapped = session.wrap_key(token.ref, kek.ref, KWP)
    key = session.session_keys.unwrap(kek.ref, KWP, wrapped, KeyType.AES, draft(decrypt="true"))
    assert key.ref & SESSION_KEY_BIT
    assert not key.attributes.token
    assert session.decrypt(key.ref, session.encrypt(token.ref, b"x")) == b"x"
    change = m.UnwrapKey(kek.ref, KWP, wrapped, KeyType.AES, SECRET_DRAFT)
    home = session.session_keys.home_of(kek.ref)
    outcome = used.cluster.controller.change(lambda _: change, ticket=session.ticket(), author=home)
    assert not outcome.keys[0].ref & SESSION_KEY_BIT
    with pytest.raises(RemoteError) as caught:  # another login's session key is nobody's
        used.cluster.controller.change(lambda _: change, ticket=used.friend.ticket(), author=home)
    assert caught.value.code == "not-found"


@pytest.mark.parametrize("spec", [RSA, *EC.values()])
def test_private_keys_keep_their_public_half(used: Wrapped, spec: object) -> None:
    kek = used.kek()
    assert isinstance(spec, type(RSA))
    _, private = used.make(spec, *pair({}, {"sign": "true"}))
    wrapped = used.session.wrap_key(private.ref, kek.ref, KWP)
    asked = m.UnwrapKey(kek.ref, KWP, wrapped, spec.type, draft(KeyClass.PRIVATE, sign="true"))
    [back] = used.change(asked)
    assert (back.spec, back.public, back.check_value) == (
        spec, private.public, private.check_value,
    )  # fmt: skip
    wrong = m.UnwrapKey(kek.ref, KWP, wrapped, KeyType.AES, SECRET_DRAFT)
    assert code_of(used.change, wrong) == "blob-refused"
    classless = m.UnwrapKey(kek.ref, KWP, wrapped, spec.type, SECRET_DRAFT)
    assert code_of(used.change, classless) == "usage"


def test_each_wrapping_needs_its_attributes(used: Wrapped) -> None:
    kek = used.kek()
    [key] = used.make(AES, draft())
    [stays] = used.make(AES, draft(extractable="false"))
    assert wrap_code(used, stays, kek) == "not-extractable"
    assert wrap_code(used, key, stays) == "key-usage"
    [unwraps] = used.make(AES, draft(unwrap="true"))
    assert wrap_code(used, key, unwraps) == "key-usage"
    wrapped = used.session.wrap_key(key.ref, kek.ref, KWP)
    [only] = used.make(AES, draft(wrap="true"))
    refused = m.UnwrapKey(only.ref, KWP, wrapped, KeyType.AES, SECRET_DRAFT)
    assert code_of(used.change, refused) == "key-usage"
    public, private = used.make(RSA, *pair({"wrap": "true"}, {"unwrap": "true"}))
    assert wrap_code(used, public, kek) == "key-type"  # a public key is no secret
    assert wrap_code(used, key, private, OAEP) == "key-type"
    assert wrap_code(used, key, kek, OAEP) == "key-type"
    assert wrap_code(used, key, public) == "key-type"
    [secret] = used.make(SECRET, draft(wrap="true"))
    assert wrap_code(used, key, secret) == "key-type"
    assert used.session.wrap_key(key.ref, public.ref, OAEP)
    by_public = m.UnwrapKey(public.ref, OAEP, bytes(256), KeyType.AES, SECRET_DRAFT)
    assert code_of(used.change, by_public) == "key-type"


def test_the_owner_wraps_and_a_share_does_not(used: Wrapped) -> None:
    kek, friend = used.kek(), used.friend
    [key] = used.make(AES, draft())
    assert code_of(friend.wrap_key, key.ref, kek.ref, KWP) == "not-found"
    used.change(m.ShareKey(key.ref, "friend"))
    used.change(m.ShareKey(kek.ref, "friend"))
    assert code_of(friend.wrap_key, key.ref, kek.ref, KWP) == "not-owner"
    [own] = friend.session_keys.make(AES, (draft(),))
    assert code_of(friend.wrap_key, own.ref, kek.ref, KWP) == "not-owner"
    wrapped = used.session.wrap_key(key.ref, kek.ref, KWP)
    asked = (kek.ref, KWP, wrapped, KeyType.AES, draft())
    assert code_of(friend.session_keys.unwrap, *asked) == "not-owner"
    used.trust(kek)  # a trusted key is there to be shared
    wrapped = friend.wrap_key(own.ref, kek.ref, KWP)
    assert friend.session_keys.unwrap(kek.ref, KWP, wrapped, KeyType.AES, draft()).ref
    assert code_of(friend.wrap_key, key.ref, kek.ref, KWP) == "not-owner"


Outside = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def public_pem(key: Outside) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_what_came_from_outside_wraps_once_it_is_trusted(used: Wrapped) -> None:
    """Clulow's trojan keys: one whose private half, or value, an attacker knows."""
    [key] = used.make(AES, draft())
    [known] = used.change(
        m.ImportPublicKey(public_pem(OUTSIDE), draft(KeyClass.PUBLIC, wrap="true"))
    )
    for mechanism in (OAEP, RSA_AES):
        assert wrap_code(used, key, known, mechanism) == "not-trusted"
    used.trust(known)
    for mechanism in (OAEP, RSA_AES):
        wrapped = used.session.wrap_key(key.ref, known.ref, mechanism)
        assert len(unwrap_outside(OUTSIDE, mechanism, wrapped)) == 32
    used.trust(known, "false")
    assert wrap_code(used, key, known, OAEP) == "not-trusted"
    _, private = used.make(RSA, *pair({}, {"unwrap": "true"}))
    public = load_der_public_key(private.public)
    assert isinstance(public, rsa.RSAPublicKey)
    wanted = draft(wrap="true", extractable="false")
    wrapped = wrap_outside(public, OAEP, os.urandom(32))
    [trojan] = used.change(m.UnwrapKey(private.ref, OAEP, wrapped, KeyType.AES, wanted))
    assert wrap_code(used, key, trojan) == "not-trusted"
    used.trust(trojan)
    assert used.session.wrap_key(key.ref, trojan.ref, KWP)


def test_a_pair_whose_private_half_may_leave_wraps_once_trusted(used: Wrapped) -> None:
    public, private = used.make(RSA, *pair({}, {"unwrap": "true"}))
    used.set(public, "wrap", "true")
    [key] = used.make(AES, draft())
    assert private.attributes.extractable
    assert wrap_code(used, key, public, OAEP) == "not-trusted"


def test_guarded_keys_leave_under_trusted_keys_alone(used: Wrapped) -> None:
    kek, trusted = used.kek(), used.kek()
    used.trust(trusted)
    [key] = used.make(AES, draft(wrap_with_trusted="true"))
    assert wrap_code(used, key, kek) == "not-trusted"
    wrapped = used.session.wrap_key(key.ref, trusted.ref, KWP)
    back = used.unwrap(trusted, wrapped, draft())
    assert back.attributes.wrap_with_trusted  # no downgrade by way of unwrapping
    assert wrap_code(used, back, kek) == "not-trusted"
    downgrade = m.UnwrapKey(
        trusted.ref, KWP, wrapped, KeyType.AES, draft(wrap_with_trusted="false")
    )
    assert code_of(used.change, downgrade) == "template-conflict"
    used.trust(trusted, "false")  # what it has wrapped while trusted stays guarded
    assert used.unwrap(trusted, wrapped).attributes.wrap_with_trusted
    assert wrap_code(used, key, trusted) == "not-trusted"


def test_a_trusted_pairs_private_half_gives_out_guarded_keys(used: Wrapped) -> None:
    public, private = used.make(RSA, *pair({"wrap": "true"}, {"unwrap": "true"}))
    used.trust(public)
    [key] = used.make(AES, draft(wrap_with_trusted="true"))
    wrapped = used.session.wrap_key(key.ref, public.ref, OAEP)
    used.change(m.DeleteKey(public.ref))
    change = m.UnwrapKey(private.ref, OAEP, wrapped, KeyType.AES, draft())
    assert used.change(change)[0].attributes.wrap_with_trusted
    decrypts = m.ChangeKey(private.ref, "decrypt", "true")
    assert code_of(used.change, decrypts) == "attribute-conflict"


def test_wrap_then_decrypt_by_any_way_round_is_refused(used: Wrapped) -> None:
    """Clulow 2003, and Tookan's a1 and a2: the wrapped key is never anybody's ciphertext."""
    kek = used.kek()
    used.set(kek, "wrap", "false")
    assert code_of(used.set, kek, "decrypt", "true") == "attribute-conflict"
    public, private = used.make(RSA, *pair({"wrap": "true"}, {"unwrap": "true"}))
    used.change(m.DeleteKey(public.ref))
    assert code_of(used.set, private, "decrypt", "true") == "attribute-conflict"
    # The same public half, brought in from outside, finds its private one in the cluster.
    _, opens = used.make(RSA, *pair({}, {"decrypt": "true"}))
    twin = m.ImportPublicKey(opens.public, draft(KeyClass.PUBLIC, wrap="true"))
    assert code_of(used.change, twin) == "attribute-conflict"
    # And a wrapping key of an old cluster, which kept no such rules, is refused at its use.
    [key] = used.make(AES, draft())
    old = msgspec.structs.replace(
        kek,
        attributes=msgspec.structs.replace(kek.attributes, wrap=True, decrypt=True),
        guards=Guards(),
    )
    for machine in used.cluster.machines:
        assert machine.hsm is not None
        rows = machine.hsm.core.state.tables[Table.KEYS]
        rows[key_row(kek.ref)] = msgspec.structs.replace(old, blob=rows[key_row(kek.ref)].blob)  # type: ignore[union-attr]
    assert wrap_code(used, key, kek) == "attribute-conflict"


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Wrapped]:
    """A cluster in which no RSA key was there before: the fake token has but a few to give."""
    made = Wrapped(tmp_path)
    yield made
    made.close()


def test_a_pair_split_over_session_and_ledger_counts_as_one(fresh: Wrapped) -> None:
    used, session, cluster = fresh, fresh.session, fresh.cluster

    def keep(key: Key) -> Key:
        change = m.KeepSessionKey(key.ref)
        home = session.session_keys.home_of(key.ref)
        outcome = cluster.controller.change(lambda _: change, ticket=session.ticket(), author=home)
        return outcome.keys[0]

    halves = pair({}, {"unwrap": "true", "extractable": "false"})
    public, private = session.session_keys.make(RSA, halves)
    kept = keep(private)  # the public half is in this connection alone
    wraps = ("wrap", "true")
    assert code_of(session.session_keys.change, public.ref, *wraps) == "attribute-conflict"
    used.set(kept, "decrypt", "true")
    assert code_of(session.session_keys.change, public.ref, *wraps) == "attribute-conflict"
    # The other way round: what the ledger's half was allowed to do, the session's half notes.
    public, private = session.session_keys.make(RSA, halves)
    kept = keep(public)
    used.set(kept, "wrap", "true")
    [key] = used.make(AES, draft())
    wrapped = session.wrap_key(key.ref, kept.ref, OAEP)
    used.change(m.DeleteKey(kept.ref))
    decrypts = ("decrypt", "true")
    assert code_of(session.session_keys.change, private.ref, *decrypts) == "attribute-conflict"
    assert session.session_keys.unwrap(private.ref, OAEP, wrapped, KeyType.AES, draft()).ref
    # And one that decrypts already ends when its public half may wrap.
    public, private = session.session_keys.make(RSA, pair({}, {"decrypt": "true"}))
    kept = keep(public)
    used.set(kept, "wrap", "true")
    oaep = CipherMechanism(CipherScheme.RSA_OAEP, hash=HashFunction.SHA1)
    sealed = session.encrypt(kept.ref, b"x", mechanism=oaep)
    assert code_of(session.decrypt, private.ref, sealed, mechanism=oaep) == "not-found"


def test_templates_are_kept_and_enforced(used: Wrapped) -> None:
    terms = (("key-type", "aes"), ("encrypt", "true"))
    demands = (("wrap-with-trusted", "true"), ("extractable", "true"), ("sensitive", "true"),
               ("label", "labelled"), ("key-type", "aes"))  # fmt: skip
    given = (("wrap", "true"), ("unwrap", "true"))
    [kek] = used.make(AES, m.KeyDraft(KeyClass.SECRET, "kek", given, (), terms, demands))
    assert (kek.guards.wrap_template, kek.guards.unwrap_template) == (terms, demands)
    [fits] = used.make(AES, draft(encrypt="true"))
    [unfit] = used.make(AES, draft())
    [other] = used.make(SECRET, draft())
    wrapped = used.session.wrap_key(fits.ref, kek.ref, KWP)
    for key in (unfit, other):
        assert wrap_code(used, key, kek) == "template-conflict"
    unlabelled = m.KeyDraft(KeyClass.SECRET, "")
    back = used.unwrap(kek, wrapped, unlabelled)
    assert (back.label, back.attributes.wrap_with_trusted) == ("labelled", True)
    for bad in (
        m.KeyDraft(KeyClass.SECRET, "another"),
        m.KeyDraft(KeyClass.SECRET, "", (("extractable", "false"),)),
        m.KeyDraft(KeyClass.SECRET, "", (("wrap-with-trusted", "false"),)),
    ):
        asked = m.UnwrapKey(kek.ref, KWP, wrapped, KeyType.AES, bad)
        assert code_of(used.change, asked) == "template-conflict", bad
    as_secret = m.UnwrapKey(kek.ref, KWP, wrapped, KeyType.GENERIC_SECRET, unlabelled)
    assert code_of(used.change, as_secret) == "template-conflict"


def test_fips_mode_bars_pkcs1(used: Wrapped) -> None:
    public, private = used.make(RSA, *pair({"wrap": "true"}, {"unwrap": "true"}))
    [key] = used.make(AES, draft())
    assert wrap_code(used, key, public, PKCS1) == "fips-mode"
    asked = m.UnwrapKey(private.ref, PKCS1, bytes(256), KeyType.AES, SECRET_DRAFT)
    assert code_of(used.change, asked) == "fips-mode"


def test_what_no_token_does_inside_is_named(used: Wrapped) -> None:
    kek = used.kek()
    [key] = used.make(AES, draft())
    for scheme in (WrapScheme.AES_GCM, WrapScheme.CLOUDHSM_AES_GCM, WrapScheme.AES_PKCS5_PAD):
        assert wrap_code(used, key, kek, WrapMechanism(scheme)) == "mechanism-unavailable"


# --- public keys of others ---


def test_public_keys_are_imported_as_they_are(used: Wrapped) -> None:
    for key in (OUTSIDE, ec.generate_private_key(ec.SECP384R1())):
        wanted = draft(KeyClass.PUBLIC, verify="true")
        one, other = (used.change(m.ImportPublicKey(public_pem(key), wanted))[0] for _ in range(2))
        assert one.ref != other.ref  # as in CloudHSM, the same key may be there twice
        assert (one.public, one.check_value, one.blob) == (other.public, other.check_value, b"")
        assert not one.attributes.local
    der = OUTSIDE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert used.change(m.ImportPublicKey(der, draft(KeyClass.PUBLIC)))[0].public == der
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
    edwards = ed25519.Ed25519PrivateKey.generate()
    p224 = ec.generate_private_key(ec.SECP224R1())  # to be refused
    for bad, code in (
        (public_pem(small), "key-spec"),
        (public_pem(edwards), "key-spec"),
        (public_pem(p224), "key-spec"),
        (pkcs8(OUTSIDE), "usage"),
        (b"", "usage"),
        (b"-----BEGIN PUBLIC KEY-----", "usage"),
        (bytes(9000), "usage"),
    ):
        assert code_of(used.change, m.ImportPublicKey(bad, draft(KeyClass.PUBLIC))) == code
    assert code_of(used.change, m.ImportPublicKey(der, draft())) == "usage"
    private_only = m.ImportPublicKey(der, draft(KeyClass.PUBLIC, sign="true"))
    assert code_of(used.change, private_only) == "attribute-read-only"


# --- quorum ---


@pytest.mark.parametrize("values", [(0, 2), (2, 0), (2, 2)])
def test_what_a_quorum_guards_leaves_with_its_approval_alone(
    used: Wrapped, values: tuple[int, int]
) -> None:
    kek = used.kek()
    manage, use = values
    guarded = m.KeyDraft(
        KeyClass.SECRET, "guarded", shared=("friend",), manage_quorum=manage, use_quorum=use
    )
    [key] = used.make(AES, guarded)
    assert wrap_code(used, key, kek) == "quorum-failed"
    assert ("key-use-refused", f"0x{key.ref:016x} wrap") in audit_events(used)
    request = use_digest("wrap", key.ref, "cu", KWP, kek.ref.to_bytes(8, "big"))
    for machine in used.cluster.machines:  # as an approved `KeyUseApproved` leaves it
        assert machine.hsm is not None
        grant = UseGrant(key.ref, "cu", used.cluster.clock.ms + 60_000)
        machine.hsm.core.state.tables[Table.GRANTS][request.hex()] = grant
    assert len(used.session.wrap_key(key.ref, kek.ref, KWP)) == 40
    assert wrap_code(used, key, used.kek()) == "quorum-failed"  # under this key alone
    relabel = m.ChangeKey(key.ref, "label", "x")
    if manage:
        assert code_of(used.change, relabel) == "quorum-approval"
    else:
        used.change(relabel)


def test_no_mac_is_made_of_what_is_not_guarded(used: Wrapped) -> None:
    """CMAC is AES-ECB over a few blocks, and AES-CTR shows the same either way it is run."""
    guarded = m.KeyDraft(
        KeyClass.SECRET, "guarded", (("encrypt", "true"), ("decrypt", "true")), shared=("friend",),
        use_quorum=2,
    )  # fmt: skip
    [key] = used.make(AES, guarded)
    ecb = CipherMechanism(CipherScheme.AES_ECB)
    ctr = CipherMechanism(CipherScheme.AES_CTR, bytes(16))
    for session in (used.session, used.friend):
        for act, name, mechanism in (
            (session.encrypt, "encrypt", ecb),
            (session.encrypt, "encrypt", ctr),
            (session.decrypt, "decrypt", ctr),
        ):
            assert code_of(act, key.ref, bytes(16), mechanism=mechanism) == "quorum-failed"
            request = use_digest(name, key.ref, session.name, mechanism, bytes(16))
            for machine in used.cluster.machines:
                assert machine.hsm is not None
                grant = UseGrant(key.ref, session.name, used.cluster.clock.ms + 60_000)
                machine.hsm.core.state.tables[Table.GRANTS][request.hex()] = grant
            assert len(act(key.ref, bytes(16), mechanism=mechanism)) == 16
