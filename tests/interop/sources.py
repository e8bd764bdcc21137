"""Two sources of a token: p11-kit's own server, which proves the tests, and the gateway."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.roles import Role
from tests.conftest import MODULES
from tests.interop.address import LABEL, PASSWORD, PIN, USER, TokenAddress, eventually


@contextmanager
def directory() -> Iterator[Path]:
    """A short path: a socket's address holds 107 bytes, and other users' programs must enter it."""
    path = Path(tempfile.mkdtemp(prefix="interop-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def stock() -> Iterator[TokenAddress]:
    """`p11-kit server` in front of SoftHSM."""
    with directory() as work:
        (work / "tokens").mkdir(mode=0o700)
        conf = work / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {work / 'tokens'}\nobjectstore.backend = file\n")
        env = {**os.environ, "SOFTHSM2_CONF": str(conf)}
        words = ["--init-token", "--free", "--label", LABEL, "--so-pin", secrets.token_hex(8)]
        subprocess.run(
            ["softhsm2-util", *words, "--pin", PIN], env=env, check=True, capture_output=True
        )
        library = next(path for path in MODULES if path.exists())
        socket = work / "socket"
        # One token of the two slots: SoftHSM always shows a free one.
        words = ["--foreground", "--provider", str(library), "--name", str(socket)]
        server = subprocess.Popen(
            ["p11-kit", "server", *words, f"pkcs11:token={LABEL}"],
            env=env,
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually(socket.exists)
            socket.chmod(0o666)
            yield TokenAddress(socket, work, "stock", server.pid)
        finally:
            server.terminate()
            server.wait(10)


class LabHsms:
    """The HSMs of a lab, by number."""

    def __init__(self, home: Path, hsms: list[str]) -> None:
        self.home, self.hsms, self.count = home, hsms, len(hsms)

    def kill(self, number: int) -> None:
        """End one with SIGKILL; it stays down."""
        lab.kill(self.home, self.hsms[number])

    def start(self, number: int) -> None:
        """Start it; return when it answers."""
        lab.start(self.home, self.hsms[number])


def make_lab(home: Path, hsms: int) -> tuple[str, LabHsms]:
    """Make a lab with an active cluster of `hsms` HSMs and its crypto user."""
    zones = "abcd"[:hsms]
    lab.up(home, hsms)
    plane = ControlPlane.open(home, LabHosts(home))
    try:
        cluster = plane.create_cluster("hsm2m.medium", (), "NON_FIPS", None).cluster_id
        made = [Membership(plane).create(cluster, "lab-1a").hsm_id]
        signed, anchor = lab.sign_csr(home, plane.csr(cluster))
        plane.initialize(cluster, signed.read_bytes(), anchor.read_bytes())
        admin_password = secrets.token_urlsafe(12).encode()
        plane.activate(cluster, admin_password)
        with plane.login(cluster, Role.ADMIN, "admin", admin_password) as admin:
            changes = plane.changes(cluster, admin)
            changes.create_user(USER, Role.CRYPTO_USER, PASSWORD.encode())
            for zone in zones[1:]:
                changes.admit_host(f"host-1{zone}")
        made += [Membership(plane).create(cluster, f"lab-1{zone}").hsm_id for zone in zones[1:]]
    finally:
        plane.close()
    return cluster, LabHsms(home, made)


@contextmanager
def gateway(hsms: int = 2) -> Iterator[TokenAddress]:
    """`cloister gateway run` in front of a lab."""
    with directory() as work, ExitStack() as stack:
        home = work / "home"
        stack.callback(lab.destroy, home, include_backups=True)
        cluster, made = make_lab(home, hsms)
        socket, log = work / "socket", work / "gateway.log"
        words = ["--cluster-id", cluster, "--socket", str(socket), "--clients-per-user", "1024"]
        if os.geteuid() == 0:  # Apache's workers are never root's
            words += ["--group", "www-data"]
        with log.open("wb") as out:
            server = subprocess.Popen(  # our own program
                [sys.executable, "-m", "orchestrator", "gateway", "run", *words],
                env={**os.environ, "CLOISTER_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:

            def serves() -> bool:
                assert server.poll() is None, log.read_text()
                return socket.exists()

            eventually(serves)
            yield TokenAddress(socket, work, "gateway", server.pid, made, log=log)
        finally:
            server.terminate()
            server.wait(30)
