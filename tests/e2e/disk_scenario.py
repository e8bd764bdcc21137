"""Full and read-only disks, in a mount namespace of its own: ROOT is an empty directory.

Prints one JSON object of what happened; the test beside it judges.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.roles import Role
from tests.e2e.crash_driver import ADMIN, USER, initialize, key


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def fill(directory: Path) -> Path:
    """Leave no byte free."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            try:
                while True:
                    os.write(file.fileno(), bytes(size))
            except OSError:
                continue
    return ballast


def code_of(action: Callable[[], object]) -> str:
    try:
        action()
    except OrchestratorError as exc:
        return f"{exc.code} {'retryable' if exc.retryable else 'final'}"
    return "done"


def wait_until_consistent(plane: ControlPlane, cluster: str) -> bool:
    deadline = time.monotonic() + 20
    while not Inspection(plane).verify(cluster).is_consistent:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


class Scenario:
    """Three HSMs; the third one's disk is a small one of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.told: dict[str, object] = {}
        mount("-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(root))
        self.layout = Layout(self.home)
        self.layout.prepare(3)
        self.small = self.layout.hsms_directory("host-1c")
        mount("-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(self.small))
        lab.up(self.home, 3)
        self.plane = plane = ControlPlane.open(self.home, LabHosts(self.home))
        self.cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        Membership(plane).create(self.cluster, "lab-1a")
        initialize(plane, self.cluster)
        plane.activate(self.cluster, ADMIN)
        with plane.login(self.cluster, Role.ADMIN, "admin", ADMIN) as admin:
            changes = plane.changes(self.cluster, admin)
            changes.create_user("user", Role.CRYPTO_USER, USER)
            changes.admit_host("host-1b")
            changes.admit_host("host-1c")
        Membership(plane).create(self.cluster, "lab-1b")
        self.victim = Membership(plane).create(self.cluster, "lab-1c").hsm_id
        self.ref = self.make("before")
        self.user = plane.login(self.cluster, Role.CRYPTO_USER, "user", USER)
        self.sealed = self.user.encrypt(self.ref, b"kept")

    def make(self, label: str) -> int:
        return key(self.plane, self.cluster, label)

    def use(self) -> str:
        return self.user.decrypt(self.ref, self.sealed).decode()

    def one_is_full(self) -> None:
        ballast = fill(self.small)
        self.make("while-one-is-full")
        self.told["one-full-states"] = {
            view.hsm_id == self.victim: view.state for view in self.plane.hsms(self.cluster)
        }
        self.told["one-full-use"] = self.use()
        self.told["one-full-use-there"] = self.user.list_keys(KeyFilter(), hsm=self.victim).total
        other = self.plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        self.told["one-full-create"] = code_of(
            lambda: Membership(self.plane).create(other, "lab-1c")
        )
        self.told["one-full-left"] = [
            p.name for p in self.small.glob("*/") if p.name != self.victim
        ]
        ballast.unlink()
        self.told["one-full-created"] = code_of(
            lambda: Membership(self.plane).create(other, "lab-1c")
        )
        [made] = self.plane.hsms(other)
        Membership(self.plane).delete(other, made.hsm_id, force=True)
        self.plane.delete_cluster(other)
        self.told["one-full-healed"] = wait_until_consistent(self.plane, self.cluster)

    def all_are_full(self) -> None:
        ballasts = [fill(self.root), fill(self.small)]
        self.told["all-full-change"] = code_of(lambda: self.make("while-all-are-full"))
        self.told["all-full-backup"] = code_of(lambda: Backups(self.plane).create(self.cluster))
        self.told["all-full-use"] = self.use()
        for ballast in ballasts:
            ballast.unlink()
        self.told["all-full-healed"] = wait_until_consistent(self.plane, self.cluster)
        self.told["all-full-after"] = code_of(lambda: self.make("after"))

    def one_is_read_only(self) -> None:
        lab.kill(self.home, self.victim)
        directory = self.layout.hsm_directory("host-1c", self.victim)
        mount("--bind", str(directory), str(directory))
        mount("-o", "remount,bind,ro", str(directory))
        # "down" cannot be taken away either; the supervisor says so
        self.told["read-only-start"] = code_of(lambda: lab.start(self.home, self.victim, 3))
        self.told["read-only-change"] = code_of(lambda: self.make("while-read-only"))
        self.told["read-only-use"] = self.use()
        subprocess.run(["umount", str(directory)], check=True)
        lab.start(self.home, self.victim)
        self.told["read-only-healed"] = wait_until_consistent(self.plane, self.cluster)

    def vault_is_read_only(self) -> None:
        vault = self.home / "backups"
        Backups(self.plane).create(self.cluster)
        before = sorted(vault.iterdir())
        mount("--bind", str(vault), str(vault))
        mount("-o", "remount,bind,ro", str(vault))
        self.told["vault-create"] = code_of(lambda: Backups(self.plane).create(self.cluster))
        self.told["vault-change"] = code_of(lambda: self.make("while-the-vault-is-read-only"))
        self.told["vault-kept"] = sorted(vault.iterdir()) == before
        self.told["vault-use"] = self.use()
        subprocess.run(["umount", str(vault)], check=True)
        self.told["vault-after"] = code_of(lambda: Backups(self.plane).create(self.cluster))

    def end(self) -> None:
        found = self.user.list_keys(KeyFilter(), 0, 100).keys
        self.told["labels"] = sorted(made.label for made in found)
        self.told["drafts"] = [str(path) for path in self.home.rglob(".draft*")]
        backups = Backups(self.plane)
        self.told["backups"] = [
            code_of(partial(backups.verify, view.backup_id)) for view in backups.list()
        ]


def main(root: Path) -> dict[str, object]:
    scenario = Scenario(root)
    try:
        scenario.one_is_full()
        scenario.all_are_full()
        scenario.one_is_read_only()
        scenario.vault_is_read_only()
        scenario.end()
    finally:
        scenario.user.close()
        scenario.plane.close()
        lab.down(scenario.home)
    return scenario.told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
