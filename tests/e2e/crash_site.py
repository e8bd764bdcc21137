"""A lab whose processes die where a test wants it, and what must be true of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.control.automatic import MILESTONES
from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.views import BackupState, HsmState
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.roles import Role
from orchestrator.model.steps import Step
from tests.e2e.crash_driver import ADMIN, USER, initialize

OPERATIONS = ("first", "initialize", "key", "join", "remove", "backup", "restore", "recover")
# Which operations pass each step. Every step is here, and every pair is tried.
PLAN: dict[Step, tuple[str, ...]] = {
    Step.CREATE_MASKING_KEY: ("first",),
    Step.PREPARE_TOKEN_WORK: (
        "key",
        "first",
        "initialize",
        "join",
        "remove",
        "restore",
        "recover",
    ),
    Step.PREPARE_SIGNED: ("key", "first", "initialize", "join", "remove", "restore", "recover"),
    Step.COMMIT_BEGIN: ("key", "initialize", "join", "remove"),
    Step.COMMIT_DONE: ("key", "join", "remove", "initialize"),
    Step.FIRST_COMMITTED: ("first", "restore", "recover"),
    Step.APPLY_VERIFIED: ("key", "first", "initialize", "join", "remove", "restore", "recover"),
    Step.APPLY_STORED: ("key", "first", "initialize", "join", "remove", "restore", "recover"),
    Step.PUSH_ONE: ("key", "initialize", "join", "remove"),
    Step.JOIN_GRANTED: ("join", "restore"),
    Step.JOIN_MASKING_KEY: ("join", "restore"),
    Step.JOIN_INSTALLED: ("join",),
    Step.SNAPSHOT_SEALED: ("backup",),
    Step.BACKUP_RECORDED: ("backup",),
    Step.BACKUP_PUBLISHED: ("backup",),
    Step.BODIES_ERASED: ("backup",),
    Step.RECOVER_MASKING_KEY: ("recover",),
    Step.ANCHOR_PUBLISHED: ("initialize",),
    Step.HSM_RECORDED: ("first", "join", "restore", "recover"),
    Step.HSM_STARTED: ("first", "join", "restore"),
    Step.HSM_REMOVED: ("remove",),
    Step.HSM_DESTROYED: ("remove",),
    Step.HOST_HSM_MADE: ("first", "join", "restore", "recover"),
    Step.HOST_HSM_REMOVED: ("remove",),
}
PAIRS = [(operation, step) for step, operations in PLAN.items() for operation in operations]
# The supervisor may make a backup of its own while we look at something else.
IN_BACKGROUND = {step for step, operations in PLAN.items() if operations == ("backup",)}


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
        Membership(plane).create(self.cluster, "lab-1a")
        initialize(plane, self.cluster)
        plane.activate(self.cluster, ADMIN)
        with plane.login(self.cluster, Role.ADMIN, "admin", ADMIN) as admin:
            changes = plane.changes(self.cluster, admin)
            changes.create_user("user", Role.CRYPTO_USER, USER)
            changes.admit_host("host-1b")
            changes.admit_host("host-1c")
            self.words = changes.create_recovery_key(2, 3)[:2]
        Membership(plane).create(self.cluster, "lab-1b")
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


@contextmanager
def site_in(directory: Path) -> Iterator[Site]:
    """Make a site, and take it away."""
    before = os.environ.get("CLOISTER_FAULT")
    made = Site(directory)
    try:
        yield made
    finally:
        made.close()
        os.environ.pop("CLOISTER_FAULT")
        if before is not None:
            os.environ["CLOISTER_FAULT"] = before


def begin(site: Site, operation: str, name: str) -> tuple[str, ...]:
    """Make what an operation needs; return its arguments."""
    plane = site.plane
    match operation:
        case "first" | "initialize" | "restore":
            source = site.backup if operation == "restore" else None
            other = plane.create_cluster("hsm2m.medium", (), None, source).cluster_id
            if operation == "initialize":
                Membership(plane).create(other, "lab-1a")
                return (other,)
            return (other, "lab-1a")
        case "join":
            return (site.cluster, "lab-1c")
        case "remove":
            return (site.cluster, Membership(plane).create(site.cluster, "lab-1c").hsm_id)
        case "key":
            site.labels.append(name)
            return (site.cluster, name)
        case "recover":
            return (site.backup, *site.words)
        case "backup":  # so that there is something to erase
            site.make_key(f"before-{name}")
            return (site.cluster,)
        case _:
            raise ValueError(operation)


def end(site: Site, operation: str, told: str) -> None:
    """Look at what the operation was for: it is there, once. Then take it away again."""
    plane = site.plane
    members = [hsm.hsm_id for hsm in plane.hsms(site.cluster)]
    assert len(members) == (3 if operation == "join" else 2)
    if operation == "join":
        site.until_done("remove", site.cluster, json.loads(told))
    if operation in {"first", "initialize", "restore", "recover"}:
        others = [row for row in plane.records.clusters() if row.cluster_id != site.cluster]
        assert len(others) == 1, "a cluster was left half made"
        [hsm] = plane.hsms(others[0].cluster_id)
        if operation in {"restore", "recover"}:
            assert Inspection(plane).verify(others[0].cluster_id).is_consistent
            with plane.login(others[0].cluster_id, Role.CRYPTO_USER, "user", USER):
                pass
        site.until_done("remove", others[0].cluster_id, hsm.hsm_id)
        plane.delete_cluster(others[0].cluster_id)
    site.check()


def die(site: Site, operation: str, step: Step, victim: str = "") -> None:
    """Let `victim`, or whoever gets there, die at a step; the operation is repeated until done."""
    site.mend()
    arguments = begin(site, operation, f"made-at-{step}-{victim}")
    pid = str(lab.status(site.home).supervisor_pid) if victim == "supervisor" else victim
    site.fault.write_text(f"{step} {pid}".strip())
    status, told = site.run(operation, *arguments)
    assert not site.fault.exists(), f"nobody reached {step}: {status} {told}"
    if status != 0:
        site.mend()
        told = site.until_done(operation, *arguments)
    if victim:
        site.mend()
    if operation == "key":
        assert json.loads(told) == json.loads(site.until_done(operation, *arguments))
    end(site, operation, told)


def has_backup_of_all(site: Site) -> bool:
    """Tell whether the last change of members is in a backup, and its words are erased."""
    entries = site.plane.controller(site.cluster).ledger.after(0, 10_000)
    headers = [entry.parse_header() for entry in entries]
    last = max(header.seq for header in headers if header.kind in MILESTONES)
    return Backups(site.plane).newest_seq(site.cluster) >= last and entries[last - 1].is_erased
