"""Keys and users between clones: what comes is what was there, and nobody else's work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.client.balancer import Balancer
from orchestrator.client.session import Session
from orchestrator.control.replication import Replication
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import Curve, KeyClass
from orchestrator.model.keys import Key
from orchestrator.model.quorum import QuorumPolicy, UseGrant, use_digest
from orchestrator.model.replication import replica_digest
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.signatures import low_s
from orchestrator.model.state import ONLY, MemberRow, Table, User
from orchestrator.sealed.box import seal_box
from orchestrator.wire import messages as m
from tests.agent.used import AES, EC, Used, code_of, draft, pair
from tests.stateful.harness import PASSWORD, FakeStream, LocalCluster, Machine
from tests.unit.approvers import Approver

BACKUP = "backup-aaaaaaaaaaa"
CLONE = "cluster-replicatest"
CU, CO = Role.CRYPTO_USER, Role.ADMIN


class Clone(LocalCluster):
    """A cluster of one HSM, restored from a backup of another that lives."""

    def __init__(self, directory: Path, source: LocalCluster) -> None:
        self._source = source
        super().__init__(directory, name=CLONE, clock=source.clock)

    def _bootstrap(self) -> None:
        source = self._source
        self.machines = self.members = [Machine(self, 3)]
        [first], roster = self.machines, self.controller.roster
        assert first.hsm is not None
        own = first.hsm.core.store
        own.accept_masking_key(source.machines[0].store.wrap_masking_key(own.transport_open()))
        theirs = source.controller.roster
        giver = source.machines[0].id
        made = theirs.call(giver, m.TakeSnapshot(BACKUP))
        assert isinstance(made, m.BlobReady)
        roster.upload(first.id, BACKUP, theirs.download(giver, made.blob))
        prepared = roster.call(
            first.id, m.Prepare(b"", "restore", m.RestoreCluster(self.name, BACKUP), 0)
        )
        assert isinstance(prepared, m.Prepared)
        self.ledger.commit(prepared.entry, is_base=True)
        self.controller.offer(first.id, [prepared.entry], 0)
        self.anchor = source.anchor
        self.ticket = self.login(CU, "cu")


class Family:
    """A cluster, a clone of it, a stranger's cluster, and log-ins at each."""

    def __init__(self, directory: Path) -> None:
        for name in ("here", "there", "stranger"):
            (directory / name).mkdir()
        self.here = Used(directory / "here")
        self.admin = self.session(self.here.cluster, CO, "admin")
        self.create(self.here.cluster, "both")
        self.backed_up = self.here.make(AES, draft(encrypt="true"))[0]
        self.public = self.here.make(EC[Curve.P256], *pair({}, {}))[0]
        self.there = Used(directory / "there", Clone(directory / "there", self.here.cluster))
        self.clone_admin = self.session(self.there.cluster, CO, "admin")
        self.stranger = Used(directory / "stranger")
        self.create(self.here.cluster, "new")
        self.owner = self.replication(self.here.session, self.there.session)
        self.admins = self.replication(self.admin, self.clone_admin)

    def session(self, cluster: LocalCluster, role: Role, name: str) -> Session:
        source = {x.id: (lambda x=x: FakeStream(x)) for x in cluster.members}
        balancer = Balancer(cluster.name, cluster.anchor, lambda: source, cluster.clock)
        return Session(balancer, cluster.clock, role, name).login(PASSWORD)

    def create(self, cluster: LocalCluster, name: str) -> None:
        cluster.controller.change(
            lambda hsm: m.CreateUser(name, CU, cluster.seal(hsm, "new-password", CU, name)),
            ticket=cluster.login(CO, "admin"),
        )

    def replication(self, source: Session, destination: Session) -> Replication:
        cluster = self.there.cluster
        return Replication(source, cluster.controller, destination)

    def close(self) -> None:
        for used in (self.here, self.there, self.stranger):
            used.close()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    made = Family(tmp_path_factory.mktemp("family"))
    yield made
    made.close()


def new_key(family: Family, **attributes: str) -> Key:
    [key] = family.here.make(AES, draft(encrypt="true", decrypt="true", **attributes))  # type: ignore[arg-type]
    return key


def test_a_key_comes_as_it_is(family: Family) -> None:
    key = new_key(family, wrap_with_trusted="true")
    family.here.change(m.ShareKey(key.ref, "both"))
    sealed = family.here.session.encrypt(key.ref, b"x")
    _, copy = family.owner.replicate_key(key.ref)
    assert family.there.session.decrypt(copy.ref, sealed) == b"x"
    same = ("key_class", "spec", "label", "id", "owner", "attributes", "public", "check_value")
    assert all(getattr(copy, name) == getattr(key, name) for name in same)
    assert copy.shared == ("both",)
    assert code_of(family.owner.replicate_key, key.ref) == "exists"
    assert code_of(family.admins.replicate_key, key.ref) == "exists"


def test_what_came_does_not_go_back_to_where_it_is(family: Family) -> None:
    key = new_key(family)
    _, copy = family.owner.replicate_key(key.ref)
    back = Replication(family.there.session, family.here.cluster.controller, family.here.session)
    assert code_of(back.replicate_key, copy.ref) == "exists"
    family.here.change(m.DeleteKey(key.ref))
    _, again = back.replicate_key(copy.ref)
    sealed = family.here.session.encrypt(again.ref, b"x")
    assert family.there.session.decrypt(copy.ref, sealed) == b"x"
    assert code_of(family.owner.replicate_key, again.ref) == "exists"


def test_both_halves_come_one_by_one(family: Family) -> None:
    public, private = family.here.make(EC[Curve.P384], *pair({}, {"sign": "true"}))
    for key in (public, private):
        _, copy = family.owner.replicate_key(key.ref)
        assert (copy.public, copy.key_class) == (key.public, key.key_class)
        assert code_of(family.owner.replicate_key, key.ref) == "exists"


def test_what_the_backup_brought_is_there_already(family: Family) -> None:
    for key in (family.backed_up, family.public):
        assert code_of(family.admins.replicate_key, key.ref) == "exists"


def test_owner_and_shares_must_be_there(family: Family) -> None:
    key = new_key(family)
    family.here.change(m.ShareKey(key.ref, "new"))
    assert code_of(family.owner.replicate_key, key.ref) == "not-found"
    family.admins.replicate_user("new", CU)
    _, copy = family.owner.replicate_key(key.ref)
    assert copy.shared == ("new",)
    news = family.session(family.there.cluster, CU, "new")  # with the password of the source
    assert news.find_key(KeyFilter(ref=copy.ref)).owner == "cu"


def test_only_owner_and_admins_replicate(family: Family) -> None:
    key = new_key(family)
    both = family.session(family.here.cluster, CU, "both")
    there = family.there.session
    assert code_of(family.replication(both, there).replicate_key, key.ref) == "not-found"
    family.here.change(m.ShareKey(key.ref, "both"))
    assert code_of(family.replication(both, there).replicate_key, key.ref) == "not-owner"
    theirs = family.session(family.there.cluster, CU, "both")  # the owner here, another there
    mixed = family.replication(family.here.session, theirs)
    assert code_of(mixed.replicate_key, key.ref) == "not-owner"
    users = family.replication(family.here.session, there)
    assert code_of(users.replicate_user, "both", CU) == "permission-denied"
    assert family.admins.replicate_key(key.ref)[1].owner == "cu"
    [session_key] = family.here.session.session_keys.make(AES, (draft(),))
    assert code_of(family.owner.replicate_key, session_key.ref) == "not-found"


def test_strangers_give_and_take_nothing(family: Family) -> None:
    key, stranger = new_key(family), family.stranger
    away = Replication(family.here.session, stranger.cluster.controller, stranger.session)
    with pytest.raises(OrchestratorError, match="is no clone of"):
        # Both test clusters have the one id: the clone stands in for a name of its own.
        family.here.session.seal_key(key.ref, CLONE, away._proof_of(stranger.cluster.members[0].id))
    proof = family.owner._proof_of(family.there.cluster.members[0].id)
    assert code_of(family.here.session.seal_key, key.ref, "cluster-x", proof) == "not-a-clone"
    own = family.here.cluster.name
    assert code_of(family.here.session.seal_key, key.ref, own, proof) == "same-cluster"
    strangers = stranger.make(AES, draft())[0]
    stolen = code_of(stranger.session.seal_key, strangers.ref, CLONE, proof)
    assert stolen == "not-a-clone"


# --- on the way ---


def take(family: Family, sealed: bytes, *, of_user: bool = False) -> str:
    change = m.TakeReplica(family.here.cluster.name, sealed, of_user=of_user)
    return code_of(
        family.there.cluster.controller.change,
        lambda _: change,
        ticket=family.clone_admin.ticket(),
    )


def signed_by(family: Family, used: Used, **fields: object) -> bytes:
    """Seal to the clone what one of a cluster's HSMs signs, whatever it says."""
    [there] = family.there.cluster.machines
    hsm = used.cluster.machines[0].hsm
    assert hsm is not None
    assert there.hsm is not None
    core, target = hsm.core, there.hsm.core
    row = core.state.tables[Table.MEMBERS][core.config.hsm]
    assert isinstance(row, MemberRow)
    here = family.here.cluster
    true = e.Replica(here.name, core.config.hsm, CLONE, there.id, here.clock.now_ms())
    replica = e.encode(msgspec.structs.replace(true, **fields))
    signature = low_s(core.store.identity_sign(replica_digest(replica)))
    signed = e.encode(e.SignedReplica(replica, signature, row.credential))
    info = m.replica_info(here.name, CLONE, there.id)
    return seal_box(target.store.box_public(), signed, info)


def row_of(family: Family, key: Key) -> bytes:
    hsm = family.here.cluster.machines[0].hsm
    assert hsm is not None
    return e.encode(hsm.core.state.key(key.ref))


def test_what_is_changed_or_carried_elsewhere_is_refused(family: Family) -> None:
    key = new_key(family)
    proof = family.owner._proof_of(family.there.cluster.members[0].id)
    sealed = family.admin.seal_key(key.ref, CLONE, proof)
    assert key.check_value not in sealed
    for at in (0, 80, len(sealed) - 1):
        edited = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        assert take(family, edited) in {"tampered", "blob-refused"}, at
    assert take(family, sealed, of_user=True) == "tampered"
    row = row_of(family, key)
    for fields, code in (
        ({"key": row, "destination_cluster": "cluster-x"}, "tampered"),
        ({"key": row, "destination": "hsm-x"}, "tampered"),
        ({"key": row, "source": CLONE}, "not-a-clone"),
        ({"key": row, "hsm": "hsm-x"}, "tampered"),
        ({"key": row, "at": 0}, "replica-expired"),
        ({"key": b"no key"}, "malformed"),
        ({}, "tampered"),
    ):
        assert take(family, signed_by(family, family.here, **fields)) == code, fields
    forged = signed_by(family, family.stranger, key=row)
    assert take(family, forged) == "not-a-clone"
    family.here.cluster.clock.ms += 11 * 60 * 1000
    assert take(family, sealed) == "replica-expired"


def test_rows_that_no_hsm_has_are_refused(family: Family) -> None:
    [key] = family.here.make(AES, draft())
    row = e.decode(Key, row_of(family, key), "key")
    both = msgspec.structs.replace(row.attributes, wrap=True, decrypt=True, extractable=False)
    for bad, code in (
        (msgspec.structs.replace(row, attributes=both), "attribute-conflict"),
        (msgspec.structs.replace(row, owner="nobody"), "not-found"),
        (msgspec.structs.replace(row, shared=("cu",)), "share-rule"),
        (
            msgspec.structs.replace(
                row, attributes=msgspec.structs.replace(row.attributes, token=False)
            ),
            "key-rule",
        ),
    ):
        assert take(family, signed_by(family, family.here, key=e.encode(bad))) == code
    appliance = e.encode(User("app_user", Role.APPLIANCE_USER, "", 1))
    sealed = signed_by(family, family.here, user=appliance)
    assert take(family, sealed, of_user=True) == "role-rule"


# --- users ---


def test_users_who_differ_are_inconsistent(family: Family) -> None:
    family.create(family.here.cluster, "twin")
    family.admins.replicate_user("twin", CU)
    family.admins.replicate_user("twin", CU)  # equal but for the password: taken again
    for hsm in [x.hsm for x in family.there.cluster.machines]:
        assert hsm is not None
        rows = hsm.core.state.tables[Table.USERS]
        before = hsm.core.state.user(CU, "twin")
        for change in (
            {"locked": True},
            {"disabled": True},
            {"quorum_key": b"k"},
            {"mfa_key": b"k"},
        ):
            rows["crypto-user/twin"] = msgspec.structs.replace(before, **change)
            with pytest.raises(OrchestratorError) as caught:
                family.admins.replicate_user("twin", CU)
            assert caught.value.code == "user-inconsistent"
            assert str(caught.value) == "Specified user is inconsistent across the cluster"
        rows["crypto-user/twin"] = before
    family.create(family.there.cluster, "other")
    family.here.cluster.controller.change(
        lambda hsm: m.CreateUser(
            "other", CO, family.here.cluster.seal(hsm, "new-password", CO, "other")
        ),
        ticket=family.admin.ticket(),
    )
    assert code_of(family.admins.replicate_user, "other", CO) == "user-inconsistent"
    assert code_of(family.admins.replicate_user, "nobody", CU) == "not-found"


def test_a_quorum_of_admins_is_not_passed_by_through_a_clone(family: Family) -> None:
    """Where one admin rules, anybody can be made: he must not come over to where two decide."""
    family.create(family.here.cluster, "smuggled")
    tables = [x.hsm.core.state.tables for x in family.there.cluster.machines if x.hsm is not None]
    for rows in tables:
        rows[Table.QUORUM][ONLY] = QuorumPolicy(((Service.USER, 2),))
    assert code_of(family.admins.replicate_user, "smuggled", CU) == "quorum-approval"
    assert code_of(family.admins.replicate_user, "both", CU) == "quorum-approval"
    for rows in tables:
        del rows[Table.QUORUM][ONLY]
    family.admins.replicate_user("smuggled", CU)


def test_a_key_under_a_quorum_goes_over_with_its_approval_alone(family: Family) -> None:
    """The clone's users are its admins' to make: there nobody of here is asked any more."""
    for use, manage in ((2, 0), (0, 2)):
        guarded = m.KeyDraft(
            KeyClass.SECRET, "guarded", shared=("both",), use_quorum=use, manage_quorum=manage
        )
        [key] = family.here.make(AES, guarded)
        assert code_of(family.owner.replicate_key, key.ref) == "quorum-failed"
        assert code_of(family.admins.replicate_key, key.ref) == "quorum-key"
        request = use_digest("replicate", key.ref, "cu", None, CLONE.encode())
        for machine in family.here.cluster.machines:  # as an approved `KeyUseApproved` leaves it
            assert machine.hsm is not None
            grant = UseGrant(key.ref, "cu", family.here.cluster.clock.ms + 60_000)
            machine.hsm.core.state.tables[Table.GRANTS][request.hex()] = grant
        _, copy = family.owner.replicate_key(key.ref)
        assert (copy.use_quorum, copy.manage_quorum) == (key.use_quorum, key.manage_quorum)


def test_one_key_does_not_come_in_under_a_second_name(family: Family) -> None:
    cluster, approver = family.there.cluster, Approver("dup", CU)
    family.create(cluster, "dup")
    for rows in [x.hsm.core.state.tables for x in cluster.machines if x.hsm is not None]:
        held = rows[Table.USERS]["crypto-user/dup"]
        assert isinstance(held, User)
        rows[Table.USERS]["crypto-user/dup"] = msgspec.structs.replace(
            held, quorum_key=approver.public
        )
    for field in ("quorum_key", "mfa_key"):
        row = User("second", CU, "hash", 1, **{field: approver.public})  # type: ignore[arg-type]
        sealed = signed_by(family, family.here, user=e.encode(row))
        assert take(family, sealed, of_user=True) == "key-taken"


def test_a_public_key_is_not_found_by_reference_alone(family: Family) -> None:
    """References are each cluster's own: another key's place says nothing of this one."""
    [public, _] = family.here.make(EC[Curve.P256], *pair({}, {}))
    assert public.key_class is KeyClass.PUBLIC
    _, copy = family.owner.replicate_key(public.ref)
    assert copy.public == public.public
