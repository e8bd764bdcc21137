"""`kill -9` of whoever gets there, agent, controller or supervisor, at every step there is.

After each the same operation is repeated until it is done, and then nothing is half made, double
or lost: every HSM at one place with one digest, every record a fact, every draft cleared away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.automatic import MILESTONES
from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.plane import ControlPlane
from orchestrator.control.views import BackupState, HsmState
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.keys import KeyFilter
from orchestrator.model.roles import Role
from orchestrator.model.steps import Step
from tests.e2e.crash_driver import ADMIN, USER, initialize
from tests.lab.harness import eventually

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]

# Which operations pass each step. Every step is here, and every pair is tried.
PLAN: dict[Step, tuple[str, ...]] = {
    Step.CREATE_MASKING_KEY: ("first",),
    Step.PREPARE_TOKEN_WORK: ("key", "first"),
    Step.PREPARE_SIGNED: ("key", "first", "join", "remove", "recover"),
    Step.COMMIT_BEGIN: ("key", "join", "remove"),
    Step.COMMIT_DONE: ("key", "join", "remove", "initialize"),
    Step.FIRST_COMMITTED: ("first", "recover"),
    Step.APPLY_VERIFIED: ("key", "first", "join", "recover"),
    Step.APPLY_STORED: ("key", "first", "join", "remove", "recover"),
    Step.PUSH_ONE: ("key", "join", "remove"),
    Step.JOIN_MASKING_KEY: ("join",),
    Step.JOIN_INSTALLED: ("join",),
    Step.SNAPSHOT_SEALED: ("backup",),
    Step.BACKUP_RECORDED: ("backup",),
    Step.BACKUP_PUBLISHED: ("backup",),
    Step.BODIES_ERASED: ("backup",),
    Step.RECOVER_MASKING_KEY: ("recover",),
    Step.ANCHOR_PUBLISHED: ("initialize",),
    Step.HSM_RECORDED: ("first", "join", "recover"),
    Step.HSM_STARTED: ("first", "join"),
    Step.HSM_REMOVED: ("remove",),
    Step.HSM_DESTROYED: ("remove",),
    Step.HOST_HSM_MADE: ("first", "join", "recover"),
    Step.HOST_HSM_REMOVED: ("remove",),
}
PAIRS = [(operation, step) for step, operations in PLAN.items() for operation in operations]


def test_no_step_is_forgotten() -> None:
    assert set(PLAN) == set(Step)


class Site:
    """A lab with an active cluster of two HSMs, and a fault file that all its processes watch."""

    def __init__(self, directory: Path) -> None:
        self.home, self.fault = directory / "home", directory / "fault"
        os.environ["CLOISTER_FAULT"] = str(self.fault)
        self.plane: ControlPlane
        lab.up(self.home, 3)
        self.open()
        plane = self.plane
        self.cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        plane.create_hsm(self.cluster, "lab-1a")
        initialize(plane, self.cluster)
        plane.activate(self.cluster, ADMIN)
        with plane.login(self.cluster, Role.ADMIN, "admin", ADMIN) as admin:
            changes = plane.changes(self.cluster, admin)
            changes.create_user("user", Role.CRYPTO_USER, USER)
            changes.admit_host("host-1b")
            changes.admit_host("host-1c")
            self.words = changes.create_recovery_key(2, 3)[:2]
        plane.create_hsm(self.cluster, "lab-1b")
        self.backup = Backups(plane).create(self.cluster).backup_id
        self.labels: list[str] = []

    def open(self) -> None:
        self.plane = ControlPlane.open(self.home, LabHosts(self.home))

    def run(self, operation: str, *arguments: str) -> tuple[int, str]:
        driver = Path(__file__).with_name("crash_driver.py")
        done = subprocess.run(
            [sys.executable, str(driver), str(self.home), operation, *arguments],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def mend(self) -> None:
        """What a person would do: `lab up`; agents come back by themselves."""
        present = lab.up(self.home)
        for agent in present.agents:
            lab.start(self.home, agent.hsm_id)  # only saves the wait of the back-off

    def until_done(self, operation: str, *arguments: str) -> str:
        told = ""
        for _ in range(10):
            status, told = self.run(operation, *arguments)
            if status == 0:
                return told
            if operation == "remove" and "NotFoundError" in told:
                return ""  # it was done but for the answer
            self.mend()
            time.sleep(0.3)
        raise AssertionError(told)

    def make_key(self, label: str) -> None:
        self.labels.append(label)
        self.until_done("key", self.cluster, label)

    def check(self) -> None:
        """Nothing is half made, double or lost."""
        self.plane.close()
        self.open()
        plane, layout = self.plane, Layout(self.home)
        deadline = time.monotonic() + 15
        while not (report := Inspection(plane).verify(self.cluster)).is_consistent:
            assert time.monotonic() < deadline, report
            time.sleep(0.2)
        rows = plane.records.hsms()
        assert {row.state for row in rows} == {HsmState.ACTIVE}
        assert {row.hsm_id for row in rows} == {d.name for _, d in layout.all_hsms()}
        assert not [p for p in self.home.rglob(".*") if p.name.startswith((".draft", ".trash"))]
        # the supervisor may be about to make a backup of its own
        while any(v.state is BackupState.CREATE_IN_PROGRESS for v in Backups(plane).list()):
            assert time.monotonic() < deadline
        for view in Backups(plane).list():
            assert Backups(plane).verify(view.backup_id).seq == view.seq
        with plane.login(self.cluster, Role.CRYPTO_USER, "user", USER) as session:
            found = session.list_keys(KeyFilter(), 0, 1000).keys
            assert sorted(key.label for key in found) == sorted(self.labels)

    def close(self) -> None:
        self.plane.close()
        lab.destroy(self.home, include_backups=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    before = os.environ.get("CLOISTER_FAULT")
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        made.close()
        os.environ.pop("CLOISTER_FAULT")
        if before is not None:
            os.environ["CLOISTER_FAULT"] = before


@pytest.mark.parametrize(("operation", "step"), PAIRS, ids=str)
def test_a_death_leaves_nothing_half_made(site: Site, operation: str, step: Step) -> None:
    site.mend()
    plane = site.plane
    arguments: tuple[str, ...] = (site.cluster,)
    if operation in {"first", "initialize"}:
        other = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        arguments = (other,)
        if operation == "initialize":
            plane.create_hsm(other, "lab-1a")
        else:
            arguments = (other, "lab-1a")
    match operation:
        case "join":
            arguments = (site.cluster, "lab-1c")
        case "remove":
            arguments = (site.cluster, plane.create_hsm(site.cluster, "lab-1c").hsm_id)
        case "key":
            label = f"made-at-{step}"
            site.labels.append(label)
            arguments = (site.cluster, label)
        case "recover":
            arguments = (site.backup, *site.words)
        case "backup":  # so that there is something to erase
            site.make_key(f"before-{step}")
        case _:
            pass
    site.fault.write_text(step)
    status, told = site.run(operation, *arguments)
    assert not site.fault.exists(), f"nobody reached {step}: {status} {told}"
    if status != 0:
        site.mend()
        told = site.until_done(operation, *arguments)
    if operation == "key":
        assert json.loads(told) == json.loads(site.until_done(operation, *arguments))
    # What the operation was for is there, once; then it is taken away again.
    members = [hsm.hsm_id for hsm in plane.hsms(site.cluster)]
    assert len(members) == (3 if operation == "join" else 2)
    if operation == "join":
        site.until_done("remove", site.cluster, json.loads(told))
    if operation in {"first", "initialize", "recover"}:
        others = [row for row in plane.records.clusters() if row.cluster_id != site.cluster]
        assert len(others) == 1, "a cluster was left half made"
        [hsm] = plane.hsms(others[0].cluster_id)
        if operation == "recover":
            assert Inspection(plane).verify(others[0].cluster_id).is_consistent
        site.until_done("remove", others[0].cluster_id, hsm.hsm_id)
        plane.delete_cluster(others[0].cluster_id)
    site.check()


@pytest.mark.parametrize(
    "step", [Step.SNAPSHOT_SEALED, Step.BACKUP_RECORDED, Step.BACKUP_PUBLISHED]
)
def test_a_backup_that_is_due_is_made_after_a_death(site: Site, step: Step) -> None:
    site.mend()
    eventually(lambda: _has_backup_of_all(site))
    known = {view.backup_id for view in Backups(site.plane).list()}
    site.fault.write_text(step)
    hsm = json.loads(site.until_done("join", site.cluster, "lab-1c"))
    eventually(lambda: not site.fault.exists())  # the supervisor's own backup, or its HSM, is hit
    site.mend()
    eventually(lambda: _has_backup_of_all(site))
    new = [v for v in Backups(site.plane).list() if v.backup_id not in known]
    assert {v.reason for v in new} == {"automatic: hsm-joined"}
    site.until_done("remove", site.cluster, hsm)
    eventually(lambda: _has_backup_of_all(site))
    site.check()


def _has_backup_of_all(site: Site) -> bool:
    """Tell whether the last change of members is in a backup, and its words are erased."""
    entries = site.plane.controller(site.cluster).ledger.after(0, 10_000)
    headers = [entry.parse_header() for entry in entries]
    last = max(header.seq for header in headers if header.kind in MILESTONES)
    return Backups(site.plane).newest_seq(site.cluster) >= last and entries[last - 1].is_erased
