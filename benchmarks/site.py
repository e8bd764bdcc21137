"""A lab to measure: one cluster, its keys, and the processes that use it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire.messages import KeyDraft

RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
P256 = KeySpec(KeyType.EC, 256, Curve.P256)
AES = KeySpec(KeyType.AES, 256)
_PAIR = (KeyClass.PUBLIC, KeyClass.PRIVATE)


class Site:
    """A home with an active cluster of `hsms` HSMs, crypto user `user`, keys `rsa` and `p256`."""

    def __init__(self, home: Path, hsms: int) -> None:
        self.home = home
        self.password = secrets.token_urlsafe(12).encode()
        lab.up(home, 4)
        self.plane = ControlPlane.open(home, LabHosts(home))
        plane = self.plane
        self.cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        self.hsms = [plane.create_hsm(self.cluster, "lab-1a").hsm_id]
        signed, anchor = lab.sign_csr(home, plane.csr(self.cluster))
        plane.initialize(self.cluster, signed.read_bytes(), anchor.read_bytes())
        plane.activate(self.cluster, self.password)
        with plane.login(self.cluster, Role.ADMIN, "admin", self.password) as admin:
            changes = plane.changes(self.cluster, admin)
            changes.create_user("user", Role.CRYPTO_USER, self.password)
            for zone in "bcd":
                changes.admit_host(f"host-1{zone}")
        for zone in "bcd"[: hsms - 1]:
            self.add_hsm(zone)
        self.session = plane.login(self.cluster, Role.CRYPTO_USER, "user", self.password)
        self.changes = plane.changes(self.cluster, self.session)
        for label, spec in (("rsa", RSA), ("p256", P256)):
            given = ((("verify", "true"),), (("sign", "true"),))
            drafts = tuple(KeyDraft(c, label, g) for c, g in zip(_PAIR, given, strict=True))
            self.changes.generate_keys(spec, drafts)

    def add_hsm(self, zone: str) -> None:
        """Have another HSM join."""
        self.hsms.append(self.plane.create_hsm(self.cluster, f"lab-1{zone}").hsm_id)

    def make_key(self, label: str) -> None:
        """Create one AES key."""
        self.changes.generate_keys(AES, (KeyDraft(KeyClass.SECRET, label),))

    def only(self, count: int) -> None:
        """Leave so many HSMs running."""
        for number, hsm in enumerate(self.hsms):
            (lab.start if number < count else lab.kill)(self.home, hsm)

    def start_load(self, kind: str, threads: int, seconds: float) -> subprocess.Popen[bytes]:
        """Begin to sign in another process."""
        words = [str(self.home), self.cluster, kind, str(threads), str(seconds)]
        process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-m", "benchmarks.load", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None  # noqa: S101  # it is a pipe
        process.stdin.write(self.password + b"\n")
        process.stdin.flush()
        return process

    def load(self, kind: str, threads: int, seconds: float) -> dict[str, float]:
        """Sign in another process; return the figures."""
        return read(self.start_load(kind, threads, seconds))

    def memory_kb(self) -> list[tuple[int, int]]:
        """Return each agent's resident memory, now and at its highest."""
        found = []
        for agent in lab.status(self.home).agents:
            status = Path(f"/proc/{agent.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            found.append((int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.close()
        self.plane.close()
        lab.destroy(self.home, include_backups=True)


def direct(kind: str, threads: int, seconds: float) -> dict[str, float]:
    """Measure the baseline in a process of its own."""
    process = subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "benchmarks.direct", kind, str(threads), str(seconds)],
        stdout=subprocess.PIPE,
    )
    return read(process)


def read(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Wait for a measuring process; return its figures."""
    out, _ = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    figures: dict[str, float] = json.loads(out)
    return figures
