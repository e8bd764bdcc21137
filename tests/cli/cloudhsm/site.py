"""A lab with one initialised cluster of one HSM, on a real token; nobody has activated it yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.cli.invocation import Services
from orchestrator.control.backups import Backups
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.recovery import Recovery
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.roles import Role

PASSWORDS: Final = {
    "admin": "password-of-admin",
    "carol": "password-of-carol",
    "alice": "password-of-alice",
    "bob": "bob-pass",
}
ROLES: Final = {"admin": "admin", "carol": "admin", "alice": "crypto-user", "bob": "crypto-user"}


class SiteServices(Services):
    """The real services on a home of the test's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def home(self) -> Path:
        return self.root

    def plane(self) -> ControlPlane:
        return ControlPlane.open(self.root, LabHosts(self.root))


@contextmanager
def site(home: Path, zones: int = 1) -> Iterator[SiteServices]:
    """Make the lab and its cluster, and destroy both in the end."""
    services = SiteServices(home)
    lab.up(home, zones)
    try:
        plane = services.plane()
        cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        Membership(plane).create(cluster, "lab-1a")
        certificate, anchor = lab.sign_csr(home, plane.csr(cluster))
        plane.initialize(cluster, certificate.read_bytes(), anchor.read_bytes())
        plane.close()
        yield services
    finally:
        lab.destroy(home, include_backups=True)


def activate(services: SiteServices) -> str:
    """Activate the cluster, make the users, and return the cluster's id."""
    plane = services.plane()
    cluster = plane.clusters()[0].cluster_id
    plane.activate(cluster, PASSWORDS["admin"].encode())
    session = plane.login(cluster, Role.ADMIN, "admin", PASSWORDS["admin"].encode())
    changes = plane.changes(cluster, session)
    for name in ("alice", "bob"):
        changes.create_user(name, Role.CRYPTO_USER, PASSWORDS[name].encode())
    session.close()
    plane.close()
    return cluster


def login_line(name: str) -> str:
    return f"login --username {name} --role {ROLES[name]} --password {PASSWORDS[name]}"


def credentials(name: str, prefix: str = "") -> dict[str, str]:
    return {
        f"{prefix}CLOUDHSM_ROLE": ROLES[name],
        f"{prefix}CLOUDHSM_PIN": f"{name}:{PASSWORDS[name]}",
    }


def clone(services: SiteServices) -> tuple[str, str]:
    """Restore a backup as another cluster; return the ids of both."""
    plane = services.plane()
    cluster = plane.clusters()[0].cluster_id
    session = plane.login(cluster, Role.ADMIN, "admin", PASSWORDS["admin"].encode())
    words = plane.changes(cluster, session).create_recovery_key(2, 2)
    backup = Backups(plane).create(cluster).backup_id
    made = Recovery(plane).recover(backup, words, "lab-1a", None)
    session.close()
    plane.close()
    return cluster, made.cluster_id
