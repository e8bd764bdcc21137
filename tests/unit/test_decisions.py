"""What each change does to a state, and every rule that refuses it. Pure: nothing is signed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.model import entries as e
from orchestrator.model.decisions import decide
from orchestrator.model.errors import OrchestratorError, TamperedError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.roles import Role
from orchestrator.model.state import ONLY, EndedLogin, Phase, Secrets, State, Table

CO, CU = e.Actor("admin", Role.ADMIN), e.Actor("cu", Role.CRYPTO_USER)
AES = KeySpec(KeyType.AES, 256)
ASYM = KeySpec(KeyType.RSA, 2048, None, 65537)


def header(state: State, change: e.Change, at: int = 0, cluster: str = "") -> e.Header:
    return e.Header(
        1, cluster or state.meta.cluster, state.seq + 1, state.head, at or state.at,
        e.kind_of(change), "r", state.members()[0].hsm, b"",
    )  # fmt: skip


def do(state: State, change: e.Change, secrets: Secrets | None = None, at: int = 0) -> None:
    head = header(state, change, at)
    state.advance(decide(state, head, change, secrets), seq=head.seq, head=bytes(32), at=head.at)


def refused(state: State, change: e.Change, secrets: Secrets | None = None) -> str:
    with pytest.raises(OrchestratorError) as caught:
        do(state, change, secrets)
    return caught.value.code


def key(owner: str = "cu", **fields: object) -> Key:
    made = Key(0, KeyClass.SECRET, AES, "L", b"", owner, (), Attributes(), b"blob", b"", b"")
    return msgspec.structs.replace(made, **fields)


def user(name: str, role: Role = Role.CRYPTO_USER) -> e.UserCreated:
    return e.UserCreated(CO, name, role, "hash")


def test_users_come_and_go(state: State) -> None:
    do(state, user("new"))
    assert refused(state, user("new")) == "exists"
    assert refused(state, user("UPPER")) == "name-rule"
    assert refused(state, user("app_user")) == "name-rule"
    assert refused(state, user("x", Role.APPLIANCE_USER)) == "role-rule"
    assert refused(state, e.UserCreated(CU, "x", Role.CRYPTO_USER, "h")) == "permission-denied"
    assert refused(
        state, e.UserCreated(e.Actor("gone", Role.ADMIN), "x", Role.CRYPTO_USER, "h")
    ) == ("not-found")
    do(state, e.UserDeleted(CO, "new", Role.CRYPTO_USER))
    assert refused(state, e.UserDeleted(CO, "new", Role.CRYPTO_USER)) == "not-found"
    assert refused(state, e.UserDeleted(CO, "app_user", Role.APPLIANCE_USER)) == "role-rule"
    assert refused(state, e.UserDeleted(CO, "admin", Role.ADMIN)) == "last-admin"
    do(state, user("admin2", Role.ADMIN))
    do(state, e.UserDeleted(CO, "admin2", Role.ADMIN))


def test_an_owner_of_keys_stays(state: State) -> None:
    do(state, e.KeysCreated(CU, (key(),)))
    assert refused(state, e.UserDeleted(CO, "cu", Role.CRYPTO_USER)) == "user-owns-keys"


def test_passwords_and_locks(state: State) -> None:
    before = state.user(Role.CRYPTO_USER, "cu").version
    do(state, e.UserLocked("cu", Role.CRYPTO_USER))
    assert refused(state, e.UserLocked("cu", Role.CRYPTO_USER)) == "exists"
    assert refused(state, e.UserLocked("admin", Role.ADMIN)) == "last-admin"
    assert refused(state, e.UserLocked("app_user", Role.APPLIANCE_USER)) == "role-rule"
    do(state, e.PasswordChanged(CO, "cu", Role.CRYPTO_USER, "h2"))
    now = state.user(Role.CRYPTO_USER, "cu")
    assert (now.locked, now.version, now.password_hash) == (False, before + 1, "h2")
    do(state, e.PasswordChanged(CU, "cu", Role.CRYPTO_USER, "h3"))
    assert refused(state, e.PasswordChanged(CU, "admin", Role.ADMIN, "h")) == "permission-denied"
    assert (
        refused(state, e.PasswordChanged(CO, "app_user", Role.APPLIANCE_USER, "h")) == "role-rule"
    )


def test_keys_come_and_go(state: State) -> None:
    do(state, e.KeysCreated(CU, (key(),)))
    [made] = state.all_keys()
    assert made.ref == state.seq << 16
    for bad, code in (
        (key(owner="other"), "key-rule"),
        (key(ref=3), "key-rule"),
        (key(attributes=Attributes(token=False)), "key-rule"),
        (key(attributes=Attributes(trusted=True)), "key-rule"),
        (key(attributes=Attributes(wrap=True, decrypt=True)), "attribute-conflict"),
        (key(label="x" * 128), "label-rule"),
        (key(label="a\nb"), "label-rule"),
        (key(blob=bytes(20_000)), "key-rule"),
        (key(spec=KeySpec(KeyType.AES, 1)), "key-spec"),
    ):
        assert refused(state, e.KeysCreated(CU, (bad,))) == code
    assert refused(state, e.KeysCreated(CU, ())) == "limit"
    assert refused(state, e.KeysCreated(CU, (key(), key(), key()))) == "limit"
    assert refused(state, e.KeysCreated(CO, (key(),))) == "permission-denied"
    assert refused(state, e.KeyDeleted(CO, made.ref)) == "permission-denied"
    do(state, user("other"))
    assert refused(state, e.KeyDeleted(e.Actor("other", Role.CRYPTO_USER), made.ref)) == "not-found"
    do(state, e.KeyDeleted(CU, made.ref))
    assert refused(state, e.KeyDeleted(CU, made.ref)) == "not-found"


def test_shared_and_indestructible_keys_stay(state: State) -> None:
    do(state, user("friend"))
    do(state, e.KeysCreated(CU, (key(shared=("friend",)),)))
    [made] = state.all_keys()
    assert (
        refused(state, e.KeyDeleted(e.Actor("friend", Role.CRYPTO_USER), made.ref)) == "not-owner"
    )
    do(state, e.KeysCreated(CU, (key(attributes=Attributes(destroyable=False)),)))
    assert refused(state, e.KeyDeleted(CU, state.all_keys()[-1].ref)) == "not-destroyable"


def owned(state: State, **fields: object) -> Key:
    do(state, e.KeysCreated(CU, (msgspec.structs.replace(key(), **fields),)))
    return state.all_keys()[-1]


def test_a_share_is_the_owners_and_ends_with_the_user(state: State) -> None:
    do(state, user("friend"))
    do(state, user("other"))
    friend, other = (e.Actor(n, Role.CRYPTO_USER) for n in ("friend", "other"))
    ref = owned(state).ref
    assert refused(state, e.KeyShared(CU, ref, "nobody")) == "not-found"
    assert refused(state, e.KeyShared(CU, ref, "admin")) == "not-found"  # no crypto user
    assert refused(state, e.KeyShared(CU, ref, "cu")) == "share-rule"
    assert refused(state, e.KeyShared(other, ref, "friend")) == "not-found"
    assert refused(state, e.KeyShared(CO, ref, "friend")) == "permission-denied"
    assert refused(state, e.KeyUnshared(CU, ref, "friend")) == "not-found"
    do(state, e.KeyShared(CU, ref, "friend"))
    assert state.key(ref).shared == ("friend",)
    assert refused(state, e.KeyShared(CU, ref, "friend")) == "exists"
    for change in (
        e.KeyShared(friend, ref, "other"),
        e.KeyUnshared(friend, ref, "friend"),
        e.KeyChanged(friend, ref, "label", "x"),
        e.KeyDeleted(friend, ref),
    ):
        assert refused(state, change) == "not-owner"
    do(state, e.KeyShared(CU, ref, "other"))
    do(state, e.KeyUnshared(CU, ref, "other"))
    assert not state.key(ref).usable_by("other")
    before = state.seq
    do(state, e.UserDeleted(CO, "friend", Role.CRYPTO_USER))
    assert (state.seq, state.key(ref).shared) == (before + 1, ())
    do(state, user("friend"))
    assert not state.key(ref).usable_by("friend")


def test_keys_are_born_shared_with_crypto_users_alone(state: State) -> None:
    do(state, user("friend"))
    assert owned(state, shared=("friend",)).usable_by("friend")
    for shared, code in (
        (("nobody",), "not-found"),
        (("cu",), "share-rule"),
        (("friend", "friend"), "share-rule"),
    ):
        assert refused(state, e.KeysCreated(CU, (key(shared=shared),))) == code


def test_attributes_are_the_owners_and_trust_is_the_admins(state: State) -> None:
    ref = owned(state, attributes=Attributes(extractable=False)).ref
    do(state, e.KeyChanged(CU, ref, "label", "new"))
    assert (state.key(ref).label, state.key(ref).ref) == ("new", ref)
    assert refused(state, e.KeyChanged(CU, ref, "trusted", "true")) == "permission-denied"
    assert refused(state, e.KeyChanged(CO, ref, "label", "x")) == "permission-denied"
    assert refused(state, e.KeyChanged(CU, 5, "label", "x")) == "not-found"
    do(state, e.KeyChanged(CO, ref, "trusted", "true"))
    assert state.key(ref).attributes.trusted
    assert refused(state, e.KeyChanged(CU, ref, "decrypt", "true")) == "attribute-conflict"
    do(state, e.KeyChanged(CU, ref, "modifiable", "false"))
    for actor, name in ((CO, "trusted"), (CU, "label"), (CU, "sign")):
        assert refused(state, e.KeyChanged(actor, ref, name, "false")) == "not-modifiable"


def test_a_change_of_one_half_marks_the_other(state: State) -> None:
    pair = (
        key(key_class=KeyClass.PUBLIC, spec=ASYM, public=b"spki"),
        key(
            key_class=KeyClass.PRIVATE,
            spec=ASYM,
            public=b"spki",
            attributes=Attributes(extractable=False),
        ),
    )
    do(state, e.KeysCreated(CU, pair))
    public, private = state.all_keys()
    assert public.guards.half_stays
    do(state, e.KeyChanged(CU, public.ref, "wrap", "true"))
    do(state, e.KeyDeleted(CU, public.ref))
    assert refused(state, e.KeyChanged(CU, private.ref, "decrypt", "true")) == "attribute-conflict"
    # A public half that came alone finds its private one in the cluster.
    do(state, e.KeysCreated(CU, (key(key_class=KeyClass.PRIVATE, spec=ASYM, public=b"other"),)))
    private = state.all_keys()[-1]
    do(state, e.KeyChanged(CU, private.ref, "decrypt", "true"))
    alone = key(
        key_class=KeyClass.PUBLIC, spec=ASYM, public=b"other", attributes=Attributes(wrap=True)
    )
    assert refused(state, e.KeysCreated(CU, (alone,))) == "attribute-conflict"
    assert refused(state, e.KeysCreated(CU, (pair[1], pair[0]))) == "key-rule"
    assert refused(state, e.KeysCreated(CU, (pair[0], alone))) == "key-rule"


def test_limits(state: State) -> None:
    limits = msgspec.structs.replace(state.meta.limits, users=4, keys=3, asymmetric_keys=2)
    state.tables[Table.META][ONLY] = msgspec.structs.replace(state.meta, limits=limits)
    do(state, user("fourth"))
    assert refused(state, user("fifth")) == "limit"
    pair = key(key_class=KeyClass.PUBLIC, spec=ASYM), key(key_class=KeyClass.PRIVATE, spec=ASYM)
    do(state, e.KeysCreated(CU, pair))
    assert refused(state, e.KeysCreated(CU, pair)) == "limit"
    do(state, e.KeysCreated(CU, (key(),)))
    assert refused(state, e.KeysCreated(CU, (key(),))) == "limit"


def test_asymmetric_keys_have_a_limit_of_their_own(state: State) -> None:
    limits = msgspec.structs.replace(state.meta.limits, asymmetric_keys=1)
    state.tables[Table.META][ONLY] = msgspec.structs.replace(state.meta, limits=limits)
    pair = key(key_class=KeyClass.PUBLIC, spec=ASYM), key(key_class=KeyClass.PRIVATE, spec=ASYM)
    assert refused(state, e.KeysCreated(CU, pair)) == "limit"


def test_hosts(state: State) -> None:
    do(state, e.HostAdmitted(CO, "host-x", bytes(32)))
    assert refused(state, e.HostAdmitted(CO, "", bytes(32))) == "host-rule"
    assert refused(state, e.HostAdmitted(CO, "h", bytes(31))) == "host-rule"
    assert refused(state, e.HostAdmitted(CU, "h", bytes(32))) == "permission-denied"
    do(state, e.HostExpelled(CO, "host-x"))
    assert refused(state, e.HostExpelled(CO, "host-x")) == "not-found"


def test_removal_gives_new_secrets_to_those_who_stay(state: State) -> None:
    gone, *staying = [member.hsm for member in state.members()]
    epoch = state.secrets.epoch
    boxes = tuple((hsm, b"") for hsm in staying)
    fresh = Secrets(epoch + 1, b"n" * 32, b"t" * 32)
    rekey = e.Rekey(epoch + 1, boxes)
    assert refused(state, e.HsmRemoved("hsm-none", rekey, compromised=False), fresh) == "not-found"
    assert refused(state, e.HsmRemoved(gone, e.Rekey(epoch + 1, ()), compromised=False), fresh) == (
        "rekey"
    )
    assert refused(state, e.HsmRemoved(gone, rekey, compromised=False)) == "tampered"
    skips = Secrets(epoch + 2, b"", b"")
    wrong = e.HsmRemoved(gone, e.Rekey(epoch + 2, boxes), compromised=False)
    assert refused(state, wrong, skips) == "epoch"
    do(state, e.HsmRemoved(gone, rekey, compromised=False), fresh)
    assert [old.epoch for old in state.secrets.old] == [epoch]
    last, other = staying
    again = e.Rekey(epoch + 2, ((last, b""),))
    do(state, e.HsmRemoved(other, again, compromised=True), Secrets(epoch + 2, b"", b""))
    assert state.secrets.old == ()
    alone = e.HsmRemoved(last, e.Rekey(epoch + 3, ()), compromised=False)
    assert refused(state, alone, Secrets(epoch + 3, b"", b"")) == "last-hsm"


def test_ended_logins_are_forgotten_in_time(state: State) -> None:
    do(state, e.LoginEnded(CU, "login-1", state.at + 1000))
    assert isinstance(state.tables[Table.LOGINS]["login-1"], EndedLogin)
    do(state, e.LoginEnded(CU, "login-2", state.at + 9000), at=state.at + 2000)
    assert set(state.tables[Table.LOGINS]) == {"login-2"}


def test_recovery_keys(state: State) -> None:
    point = (
        ec.derive_private_key(7, ec.SECP384R1())
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    do(state, e.RecoveryKeySet(CO, point, 3, 5))
    assert state.meta.recovery_threshold == 3
    for wrong, threshold, shares in (
        (bytes(65), 3, 5),
        (b"\4" + bytes(96), 3, 5),
        (point[:33], 3, 5),
        (point, 1, 5),
        (point, 6, 5),
    ):
        assert refused(state, e.RecoveryKeySet(CO, wrong, threshold, shares)) == "recovery-rule"


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (
            lambda s: e.ClusterInitialized(s.meta.certificate, s.meta.trust_anchor),
            "not-uninitialized",
        ),
        (lambda _: e.ClusterActivated("h", "host", bytes(32), b"", b""), "not-initialized"),
        (lambda s: _created(s), "exists"),  # noqa: PLW0108  # defined below
    ],
)
def test_the_ceremony_happens_once(
    state: State, build: Callable[[State], e.Change], code: str
) -> None:
    assert refused(state, build(state)) == code


def _created(state: State) -> e.ClusterCreated:
    row = state.tables[Table.MEMBERS][state.members()[0].hsm]
    meta = state.meta
    return e.ClusterCreated(
        meta.hsm_type, meta.mode, meta.limits, meta.csr, meta.cluster_public,
        meta.certificate_key, row.credential, e.Rekey(1, ()),  # type: ignore[union-attr]
    )  # fmt: skip


def test_nothing_but_the_ceremony_before_activation(state: State) -> None:
    state.tables[Table.META][ONLY] = msgspec.structs.replace(state.meta, phase=Phase.INITIALIZED)
    assert refused(state, user("x")) == "not-active"
    assert refused(state, e.KeysCreated(CU, (key(),))) == "not-active"


def test_a_restore_is_of_the_very_backup(state: State) -> None:
    row = state.tables[Table.MEMBERS][state.members()[0].hsm]
    credential = row.credential  # type: ignore[union-attr]
    secrets = Secrets(state.secrets.epoch + 1, b"", b"")

    def restored(source: str, digest: bytes) -> e.ClusterRestored:
        return e.ClusterRestored(
            source, "b", digest, credential, bytes(32), e.Rekey(secrets.epoch, ())
        )

    good = state.meta.cluster
    assert refused(state, restored("cluster-other", state.digest()), secrets) == "source"
    assert refused(state, restored(good, state.digest()), secrets) == "source"  # needs a new id
    change = restored(good, bytes(32))
    head = header(state, change, cluster="cluster-newcluster")
    with pytest.raises(TamperedError, match="not the one that the backup names"):
        decide(state, head, change, secrets)
