"""The life of a cluster on real tokens, badly as well as well."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.client.directory import read_anchor
from orchestrator.client.session import Session
from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.views import ChangeReport
from orchestrator.lab import demo, lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.errors import OrchestratorError, RefusedError
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectFilter
from orchestrator.model.roles import Role
from tests.lab.harness import eventually

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


def code_of(action: Callable[[], object]) -> str:
    """Return the code that an action is refused with."""
    with pytest.raises(OrchestratorError) as caught:
        action()
    return caught.value.code


@pytest.fixture
def job(tmp_path: Path) -> Iterator[demo.Demo]:
    """A lab in which nothing is yet."""
    made = demo.Demo(tmp_path / "home", lambda _: None, lambda _: None)
    try:
        made.up()
        yield made
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)


@pytest.fixture
def active(job: demo.Demo) -> demo.Demo:
    """An active cluster of three HSMs with users."""
    for step in (job.create, job.ceremony, job.join, job.users):
        step()
    return job


def session(job: demo.Demo, role: Role, name: str) -> Session:
    return job._login(role, name)


def test_there_is_one_hsm_until_activation(job: demo.Demo) -> None:
    job.create()
    plane, cluster = job.plane, job.cluster
    assert code_of(lambda: Membership(plane).create(cluster, "lab-1b")) == "not-activated"
    assert code_of(lambda: Membership(plane).create(cluster, "lab-9z")) == "not-found"
    assert code_of(lambda: plane.delete_cluster(cluster)) == "has-hsms"
    assert code_of(lambda: plane.activate(cluster, b"password-1")) == "not-found"  # no anchor
    job.ceremony()
    assert code_of(lambda: plane.activate(cluster, b"password-2")) == "not-initialized"
    assert code_of(lambda: plane.create_cluster("hsm9.large", (), None, None)) == "not-found"
    assert code_of(lambda: plane.create_cluster("hsm1.medium", (), "NON_FIPS", None)) == "mode"


def test_a_removed_hsm_takes_no_login_with_it(active: demo.Demo) -> None:
    running = session(active, Role.CRYPTO_USER, "cu1")
    plane, cluster = active.plane, active.cluster
    gone, *staying = [hsm.hsm_id for hsm in plane.hsms(cluster)]
    directory = plane.infrastructure.hsm_directory("host-1a", gone)
    Membership(plane).delete(cluster, gone, force=False)
    assert not directory.exists()
    assert [hsm.hsm_id for hsm in plane.hsms(cluster)] == staying
    assert len(running.random(8)) == 8  # its ticket is of an earlier secret
    assert session(active, Role.CRYPTO_USER, "cu1").random(8)
    assert Inspection(plane).verify(cluster).is_consistent


def test_a_dead_hsm_of_two_is_removed_and_replaced(active: demo.Demo) -> None:
    plane, cluster = active.plane, active.cluster
    first, second, dead = [hsm.hsm_id for hsm in plane.hsms(cluster)]
    Membership(plane).delete(cluster, first, force=False)
    lab.kill(active.home, dead)
    changes = plane.changes(cluster, session(active, Role.ADMIN, "admin"))

    def create() -> ChangeReport:
        return changes.create_user("late", Role.CRYPTO_USER, b"password-1")

    assert code_of(create) == "unavailable"  # one holder would be too few
    Membership(plane).delete(cluster, dead, force=False)
    assert [hsm.hsm_id for hsm in plane.hsms(cluster)] == [second]
    assert create().held == 1
    Membership(plane).create(cluster, "lab-1c")
    assert Inspection(plane).verify(cluster).is_consistent


def test_the_last_hsm_is_not_lost_by_mistake(active: demo.Demo) -> None:
    plane, cluster = active.plane, active.cluster
    first, second, last = [hsm.hsm_id for hsm in plane.hsms(cluster)]
    Membership(plane).delete(cluster, first, force=False)
    Membership(plane).delete(cluster, second, force=False)
    assert code_of(lambda: Membership(plane).delete(cluster, last, force=False)) == "last-hsm"
    changes = plane.changes(cluster, session(active, Role.ADMIN, "admin"))
    changes.create_recovery_key(2, 3)
    Membership(plane).delete(cluster, last, force=False)
    assert Backups(plane).list()[-1].users == 4
    assert code_of(lambda: Membership(plane).create(cluster, "lab-1a")) == "no-living-hsm"


def test_a_backup_becomes_a_clone_while_the_family_lives(active: demo.Demo) -> None:
    plane = active.plane
    active.keys()
    stored = ObjectDraft(object_class=ObjectClass.CERTIFICATE, label="web", value=b"\x30\x00")
    with session(active, Role.CRYPTO_USER, "cu1") as owner:
        _, ref = plane.changes(active.cluster, owner).put_object(stored)
    backup = Backups(plane).create(active.cluster).backup_id
    clone = plane.create_cluster("hsm2m.medium", (), None, backup).cluster_id
    Membership(plane).create(clone, "lab-1c")
    with plane.login(clone, Role.CRYPTO_USER, "cu1", active.passwords["cu1"]) as login:
        assert login.key("demo-ec").owner == "cu1"
        [restored] = login.list_objects(ObjectFilter(label="web")).objects
        assert (restored.ref, restored.owner, restored.value) == (ref, "cu1", stored.value)
    assert Inspection(plane).verify(clone).is_consistent
    assert Inspection(plane).verify(active.cluster).is_consistent


def test_a_lost_database_is_rebuilt_from_the_hsms(active: demo.Demo) -> None:
    before = active.plane.controller(active.cluster).ledger.head()
    active.close()
    lab.down(active.home)
    for path in active.home.glob("control.db*"):
        path.unlink()
    lab.up(active.home)
    for host, hsm in ((h.name, i) for h in LabHosts(active.home).hosts()
                      for i in LabHosts(active.home).hsms(h.name)):  # fmt: skip
        LabHosts(active.home).wait(host, hsm)
    report = Inspection(active.plane).adopt(None, None)
    assert (report.cluster_id, report.seq) == (active.cluster, before.seq)
    assert active.plane.controller(active.cluster).ledger.head() == before
    assert Inspection(active.plane).verify(active.cluster).is_consistent
    changes = active.plane.changes(active.cluster, session(active, Role.ADMIN, "admin"))
    assert changes.create_user("later", Role.CRYPTO_USER, b"password-1").held == 3


def test_a_rewound_database_freezes_changes_and_not_use(active: demo.Demo) -> None:
    plane = active.plane
    running = session(active, Role.CRYPTO_USER, "cu1")
    changes = plane.changes(active.cluster, session(active, Role.ADMIN, "admin"))
    with sqlite3.connect(active.home / "control.db") as db:
        db.execute("DELETE FROM entries WHERE seq = (SELECT MAX(seq) FROM entries)")
    assert code_of(lambda: changes.create_user("x", Role.CRYPTO_USER, b"password-1")) == "forked"
    assert running.random(8)
    report = Inspection(plane).verify(active.cluster)
    assert any("FORKED" in problem for problem in report.problems)
    Inspection(plane).adopt(active.cluster, None)
    assert changes.create_user("x", Role.CRYPTO_USER, b"password-1").held == 3


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM rows WHERE tab='users' AND name LIKE '%cu1'",
        "UPDATE rows SET sealed = (SELECT sealed FROM rows WHERE tab='users' AND name LIKE '%cu2')"
        " WHERE tab='users' AND name LIKE '%cu1'",
        "UPDATE rows SET sealed = zeroblob(60) WHERE tab='meta'",
    ],
)
def test_an_hsm_with_a_changed_state_serves_nothing(active: demo.Demo, damage: str) -> None:
    plane, cluster = active.plane, active.cluster
    victim = plane.hsms(cluster)[0]
    lab.kill(active.home, victim.hsm_id)
    directory = plane.infrastructure.hsm_directory(victim.host, victim.hsm_id)
    with sqlite3.connect(directory / "state.db") as db:
        assert db.execute(damage).rowcount == 1
    with pytest.raises(OrchestratorError):  # it does not come up
        lab.start(active.home, victim.hsm_id, timeout_s=3)
    deadline = time.monotonic() + 10
    while "tampered" not in plane.hsms(cluster)[0].trouble:
        assert time.monotonic() < deadline, plane.hsms(cluster)[0].trouble
        time.sleep(0.2)
    assert session(active, Role.CRYPTO_USER, "cu1").random(8)  # the others go on


def test_a_login_goes_to_no_hsm_outside_the_anchor(active: demo.Demo, tmp_path: Path) -> None:
    other = demo.Demo(tmp_path / "other" / "home", lambda _: None, lambda _: None)
    (tmp_path / "other").mkdir()
    try:
        for step in (other.up, other.create, other.ceremony):
            step()
        foreign = read_anchor(other.home, other.cluster)
    finally:
        other.close()
        lab.destroy(other.home, include_backups=True)
    password = active.passwords["admin"]
    login = lambda: active.plane.login(  # noqa: E731
        active.cluster, Role.ADMIN, "admin", password, foreign
    )
    assert code_of(login) == "tampered"


def test_a_second_lab_is_the_first(job: demo.Demo) -> None:
    first = lab.status(job.home).supervisor_pid
    assert lab.up(job.home).supervisor_pid == first


def test_imported_backups_are_checked(active: demo.Demo, tmp_path: Path) -> None:
    backups = Backups(active.plane)
    backup = backups.create(active.cluster).backup_id
    file = tmp_path / "out.backup"
    backups.export(backup, file)
    assert code_of(lambda: backups.export(backup, file)) == "exists"
    assert backups.delete(backup).state == "PENDING_DELETION"
    assert code_of(lambda: backups.delete(backup)) == "not-ready"
    assert backups.import_(file).state == "READY"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(OrchestratorError):
        backups.import_(file)
    backups.path(backup).write_bytes(content)
    with pytest.raises(OrchestratorError, match="damaged"):
        backups.verify(backup)


def test_control_planes_reopen(active: demo.Demo) -> None:
    plane = ControlPlane.open(active.home, LabHosts(active.home))
    try:
        assert plane.cluster(active.cluster).state == "ACTIVE"
        with pytest.raises(RefusedError):
            plane.records.resolve_hsm(None, "hsm-")
    finally:
        plane.close()


def test_backups_come_by_themselves(job: demo.Demo) -> None:
    job.create()
    backups = Backups(job.plane)

    def reasons() -> list[str]:
        return [view.reason for view in backups.list() if view.state == "READY"]

    time.sleep(1.5)
    assert reasons() == []  # there is nothing to lose yet
    job.ceremony()
    eventually(lambda: reasons() == ["automatic: cluster-activated"])
    job.join()
    eventually(lambda: reasons()[-1] == "automatic: hsm-joined")
    victim = job.plane.hsms(job.cluster)[-1].hsm_id
    Membership(job.plane).delete(job.cluster, victim, force=False)
    eventually(lambda: reasons()[-1] == "automatic: hsm-removed")
    made = reasons()
    for view in backups.list():
        assert backups.verify(view.backup_id).opened_by
    changes = job.plane.changes(job.cluster, session(job, Role.ADMIN, "admin"))
    changes.create_user("late", Role.CRYPTO_USER, b"password-1")
    time.sleep(2.5)
    assert reasons() == made  # users alone are no reason
