"""A lab with a cluster of real HSMs, and gateways before it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.roles import Role
from tests.gateway.wire import Client

MODULE = str(next(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"), "p11-kit-client.so"))
PASSWORD = b"password-1"
PIN = "cu:password-1"


class Site:
    """An active cluster of two HSMs with crypto user `cu`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        lab.up(home, 2)
        self.plane = ControlPlane.open(home, LabHosts(home))
        plane = self.plane
        self.cluster = plane.create_cluster("hsm2m.medium", (), "NON_FIPS", None).cluster_id
        self.hsms = [Membership(plane).create(self.cluster, "lab-1a").hsm_id]
        signed, anchor = lab.sign_csr(home, plane.csr(self.cluster))
        plane.initialize(self.cluster, signed.read_bytes(), anchor.read_bytes())
        plane.activate(self.cluster, PASSWORD)
        with plane.login(self.cluster, Role.ADMIN, "admin", PASSWORD) as admin:
            changes = plane.changes(self.cluster, admin)
            changes.create_user("cu", Role.CRYPTO_USER, PASSWORD)
            changes.admit_host("host-1b")
        self.hsms.append(Membership(plane).create(self.cluster, "lab-1b").hsm_id)

    def close(self) -> None:
        self.plane.close()
        lab.destroy(self.home, include_backups=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CLOISTER_HOME": str(self.home)}


class RunningGateway:
    """`cloister gateway run` as a process of its own; its workers end with their clients."""

    def __init__(self, site: Site, path: Path, *options: str) -> None:
        self.site, self.path, self.clients = site, path, list[socket.socket]()
        self.log = path.with_suffix(f".{time.monotonic_ns()}.log")
        words = ["gateway", "run", "--cluster-id", site.cluster, "--socket", str(path), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *words], stderr=log, env=site.environment
            )
        deadline = time.monotonic() + 20
        while "serves PKCS#11" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.path))
        self.clients.append(sock)
        return sock

    def connect(self, offered: int = 0) -> Client:
        return Client(self.dial(), offered)

    def tool(self, *words: str, status: int | None = 0) -> str:
        """Run pkcs11-tool, logged in, and return what it says; `status` None: whatever it is."""
        done = subprocess.run(
            ["pkcs11-tool", "--module", MODULE, "--login", "--pin", PIN, *words],
            env={**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={self.path}"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        text = done.stdout.decode() + done.stderr.decode()
        assert status in {None, done.returncode}, text
        return text

    def cli(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "gateway", *words, "--socket", str(self.path)],
            env=self.site.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def stop(self) -> int:
        for sock in self.clients:
            sock.close()
        self.process.terminate()
        return self.process.wait(20)
