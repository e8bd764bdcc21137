"""A lab to measure: one cluster, its keys, and the processes that use it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.timing import WARM_S, Figures
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire.messages import KeyDraft

RSA: Final = KeySpec(KeyType.RSA, 2048, None, 65537)
P256: Final = KeySpec(KeyType.EC, 256, Curve.P256)
AES: Final = KeySpec(KeyType.AES, 256)
_WHOLE_TIMEOUT_S: Final = 30
_LOAD_TIMEOUT_S: Final = 300
_PAIR: Final = (KeyClass.PUBLIC, KeyClass.PRIVATE)


class Site:
    """A home with an active cluster of `hsms` HSMs, crypto user `user`, keys `rsa` and `p256`."""

    def __init__(self, home: Path, hsms: int) -> None:
        self.home = home
        self.password = secrets.token_urlsafe(12).encode()
        with ExitStack() as undone:  # whatever ends this early: no lab outlives it
            undone.callback(lab.destroy, home, include_backups=True)
            lab.up(home, 4)
            self.plane = ControlPlane.open(home, LabHosts(home))
            undone.callback(self.plane.close)
            self._begin(hsms)
            self._undone = undone.pop_all()

    def _begin(self, hsms: int) -> None:
        plane, home = self.plane, self.home
        self.cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        self.hsms = [Membership(plane).create(self.cluster, "lab-1a").hsm_id]
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
            self.make_pair(spec, label)

    def add_hsm(self, zone: str) -> None:
        """Have another HSM join."""
        self.hsms.append(Membership(self.plane).create(self.cluster, f"lab-1{zone}").hsm_id)

    def remove_hsm(self) -> None:
        """Have the HSM that came last leave."""
        Membership(self.plane).delete(self.cluster, self.hsms.pop(), force=False)

    def make_key(self, label: str) -> int:
        """Create an AES key; return its reference."""
        _, (key,) = self.changes.generate_keys(AES, (KeyDraft(KeyClass.SECRET, label),))
        return key.ref

    def make_pair(self, spec: KeySpec, label: str) -> None:
        """Create a pair that signs and verifies."""
        given = ((("verify", "true"),), (("sign", "true"),))
        drafts = tuple(KeyDraft(c, label, g) for c, g in zip(_PAIR, given, strict=True))
        self.changes.generate_keys(spec, drafts)

    def fill(self, count: int) -> None:
        """Create keys until the cluster has `count`: a pair of P-256 after every five of AES."""
        have = self.session.list_keys(KeyFilter(), limit=1).total
        while have < count:
            if have % 7 < 5 or have + 1 == count:
                self.make_key(f"key-{have}")
                have += 1
            else:
                self.make_pair(P256, f"key-{have}")
                have += 2

    def log_in(self) -> None:
        """Log the admin in anew, over a connection of its own: no HSM remembers his password."""
        self.plane.login(self.cluster, Role.ADMIN, "admin", self.password).close()

    def kill(self, number: int) -> None:
        """`kill -9` an HSM; its supervisor starts it again."""
        agent = next(a for a in lab.status(self.home).agents if a.hsm_id == self.hsms[number])
        if agent.pid is not None:
            os.kill(agent.pid, signal.SIGKILL)

    def wait_until_whole(self) -> None:
        """Wait until every HSM answers."""
        deadline = time.monotonic() + _WHOLE_TIMEOUT_S
        while any(view.seq is None for view in self.plane.hsms(self.cluster)):
            if time.monotonic() > deadline:
                raise RuntimeError("an HSM does not come back")
            time.sleep(0.1)

    def start_load(
        self, kind: str, threads: int, seconds: float, hsms: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Begin to sign in another process, on the first `hsms` HSMs; return once it has begun."""
        used = self.hsms[:hsms]
        words = [str(self.home), self.cluster, kind, str(threads), str(seconds), *used]
        process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-m", "benchmarks.load", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None  # noqa: S101  # they are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(self.password + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        return process

    def load(self, kind: str, threads: int, seconds: float, hsms: int) -> Figures:
        """Sign in another process; `cpu` is that of the process and of the agents."""
        process = self.start_load(kind, threads, seconds, hsms)
        before_s = self._agents_cpu_s()
        figures = finish(process)
        agents_s = self._agents_cpu_s() - before_s
        figures["cpu"] += agents_s * 1e6 / (figures["ops"] * (seconds + WARM_S))
        return figures

    def _agents_cpu_s(self) -> float:
        used = 0
        for agent in lab.status(self.home).agents:
            fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
        return used / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> list[tuple[float, float]]:
        """Return each agent's resident memory, now and at its highest."""
        found = []
        for agent in lab.status(self.home).agents:
            status = Path(f"/proc/{agent.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            now, peak = (int(fields[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
            found.append((now, peak))
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
        self._undone.close()


def direct(kind: str, threads: int, seconds: float) -> Figures:
    """Measure the baseline in a process of its own."""
    process = subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "benchmarks.direct", kind, str(threads), str(seconds)],
        stdout=subprocess.PIPE,
    )
    return finish(process)


def finish(process: subprocess.Popen[bytes]) -> Figures:
    """Wait for a measuring process; return its figures."""
    out, _ = process.communicate(timeout=_LOAD_TIMEOUT_S)
    if process.returncode:
        raise RuntimeError(f"a measuring process ended with {process.returncode}")
    figures: Figures = json.loads(out)
    return figures
