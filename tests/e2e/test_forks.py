"""Databases of yesterday beside HSMs of today and of yesterday; and sixteen controllers at once."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.entries import Entry
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from tests.e2e.crash_driver import ADMIN, USER, initialize, key

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
AES = KeySpec(KeyType.AES, 256)


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(OrchestratorError) as caught:
        action()
    return f"{caught.value.code}: {caught.value}"


class Site:
    """An active cluster with an HSM in each of `zones`."""

    def __init__(self, home: Path, zones: str) -> None:
        self.home = home
        lab.up(home, len(zones))
        self.plane = ControlPlane.open(home, LabHosts(home))
        self.cluster = self.plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        self.hsms = [Membership(self.plane).create(self.cluster, "lab-1a").hsm_id]
        initialize(self.plane, self.cluster)
        self.plane.activate(self.cluster, ADMIN)
        with self.plane.login(self.cluster, Role.ADMIN, "admin", ADMIN) as admin:
            changes = self.plane.changes(self.cluster, admin)
            changes.create_user("user", Role.CRYPTO_USER, USER)
            for zone in zones[1:]:
                changes.admit_host(f"host-1{zone}")
                self.hsms.append(Membership(self.plane).create(self.cluster, f"lab-1{zone}").hsm_id)

    def reopen(self) -> None:
        """As every command does: a controller that has heard nobody yet."""
        self.plane.close()
        self.plane = ControlPlane.open(self.home, LabHosts(self.home))

    def save(self, to: Path) -> None:
        self.plane.close()
        with sqlite3.connect(self.home / "control.db") as db, sqlite3.connect(to) as copy:
            db.backup(copy)
        self.reopen()

    def put_back(self, saved: Path) -> None:
        """An administrator restores yesterday's file, with the lab down."""
        self.plane.close()
        lab.down(self.home)
        for path in self.home.glob("control.db*"):
            path.unlink()
        shutil.copyfile(saved, self.home / "control.db")
        lab.up(self.home)
        self.plane = ControlPlane.open(self.home, LabHosts(self.home))

    def make(self, label: str) -> int:
        self.reopen()
        return key(self.plane, self.cluster, label)

    def labels(self) -> list[str]:
        with self.plane.login(self.cluster, Role.CRYPTO_USER, "user", USER) as user:
            return sorted(made.label for made in user.list_keys(KeyFilter(), 0, 100).keys)

    def close(self) -> None:
        self.plane.close()
        lab.destroy(self.home, include_backups=True)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(tmp_path / "home", request.param)
    yield made
    made.close()


@pytest.mark.parametrize("site", ["abcd"], indirect=True)
def test_no_branch_grows_on_a_database_of_yesterday(site: Site, tmp_path: Path) -> None:
    saved, (one, two, three, four) = tmp_path / "yesterday.db", site.hsms
    site.make("common")
    site.save(saved)
    for hsm in (three, four):
        lab.kill(site.home, hsm)
    # Two of four are too few for a controller that has just come: who knows what the others hold?
    assert message_of(lambda: site.make("left")).startswith("unavailable: 2 of 4 HSMs are in reach")
    lab.start(site.home, three)
    site.make("left")  # held by one, two and three
    lab.kill(site.home, three)
    lab.kill(site.home, one)
    lab.kill(site.home, two)
    site.put_back(saved)
    lab.start(site.home, four)
    assert message_of(lambda: site.make("right")).startswith("unavailable: 1 of 4")
    # With a member that is ahead in reach, changes freeze and use goes on.
    lab.start(site.home, one)
    lab.start(site.home, two)
    assert message_of(lambda: site.make("right")).startswith("forked: FORKED: ")
    assert site.labels() in (["common"], ["common", "left"])
    report = Inspection(site.plane).verify(site.cluster)
    assert sum("FORKED" in problem for problem in report.problems) == 2
    # The longest chain extends the others: it is continued, and nothing of it is lost.
    lab.start(site.home, three)
    Inspection(site.plane).adopt(site.cluster, None)
    site.make("after")
    assert site.labels() == ["after", "common", "left"]

    # A database of yesterday beside an HSM of yesterday makes no second branch of its own.
    site.save(saved)
    lab.kill(site.home, four)
    site.make("left-2")  # one, two, three
    for hsm in (one, two, three):
        lab.kill(site.home, hsm)
    site.put_back(saved)
    lab.start(site.home, four)
    with sqlite3.connect(site.home / "control.db") as db:  # and forgets the others
        db.execute("UPDATE hsms SET state='DELETED' WHERE hsm_id <> ?", (four,))
    prepared = message_of(lambda: site.make("right-2"))
    assert prepared.startswith("unavailable: 1 of 4")  # the HSM itself knows better
    with sqlite3.connect(site.home / "control.db") as db:
        db.execute("UPDATE hsms SET state='ACTIVE' WHERE hsm_id IN (?, ?, ?, ?)", site.hsms)
    for hsm in (one, two, three):
        lab.start(site.home, hsm)
    site.reopen()
    Inspection(site.plane).adopt(site.cluster, None)
    assert Inspection(site.plane).verify(site.cluster).is_consistent or site.make("heals")
    assert "left-2" in site.labels()


@pytest.mark.parametrize("site", ["abc"], indirect=True)
def test_sixteen_controllers_all_finish(site: Site) -> None:
    failures: list[OrchestratorError] = []

    def create(number: int) -> None:
        plane = ControlPlane.open(site.home, LabHosts(site.home))
        try:
            for turn in range(2):
                key(plane, site.cluster, f"key-{number:02}-{turn}")
        except OrchestratorError as exc:
            failures.append(exc)
        finally:
            plane.close()

    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert site.labels() == sorted(f"key-{n:02}-{t}" for n in range(16) for t in range(2))
    assert Inspection(site.plane).verify(site.cluster).is_consistent


def offer(site: Site, hsm: str, entry: Entry) -> None:
    site.plane.controller(site.cluster).roster.call(hsm, m.Apply((entry,)))


def prepare(site: Site, hsm: str, label: str) -> Entry:
    with site.plane.login(site.cluster, Role.CRYPTO_USER, "user", USER) as user:
        change = m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, label),))
        asked = m.Prepare(user.ticket(), f"request-{label}", change, 0)
        reply = site.plane.controller(site.cluster).roster.call(hsm, asked)
    assert isinstance(reply, m.Prepared)
    return reply.entry


@pytest.mark.parametrize("site", ["abc"], indirect=True)
def test_of_two_true_branches_an_admin_chooses(site: Site) -> None:
    one, two, three = site.hsms
    left, right = prepare(site, one, "left"), prepare(site, two, "right")
    offer(site, two, right)  # somebody misled a member; before the control loop brings it `left`
    site.plane.controller(site.cluster).ledger.commit(left)
    for hsm in (one, three):
        offer(site, hsm, left)
    forked = f"{two}: FORKED: holds another entry at"
    assert any(p.startswith(forked) for p in Inspection(site.plane).verify(site.cluster).problems)
    assert message_of(lambda: site.make("more")).startswith(f"forked: FORKED: {two}")
    lab.kill(site.home, two)
    site.make("more")
    lab.start(site.home, two)
    # behind, and on another branch: the one is no excuse for the other
    problems = Inspection(site.plane).verify(site.cluster).problems
    assert any(p.startswith(forked) for p in problems), problems
    assert message_of(lambda: Inspection(site.plane).adopt(site.cluster, None)).startswith("forked")
    Inspection(site.plane).adopt(site.cluster, one)
    Membership(site.plane).delete(site.cluster, two, force=False)
    Membership(site.plane).create(site.cluster, "lab-1b")
    site.make("after")
    assert Inspection(site.plane).verify(site.cluster).is_consistent
    assert site.labels() == ["after", "left", "more"]
