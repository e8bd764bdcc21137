"""The embedded lab: up, status, down, destroy, kill, start, and a CA for the lazy."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from orchestrator.lab.hosts import START_TIMEOUT_S, LabHosts
from orchestrator.lab.layout import INHERITED, Layout, check_home
from orchestrator.lab.protocol import AgentStatus, Order, ask
from orchestrator.model.errors import NotFoundError, RefusedError, UnavailableError
from orchestrator.wire.files import publish
from orchestrator.wire.system_clock import SystemClock

UP_TIMEOUT_S: Final = 30.0
DOWN_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab: `supervisor_pid` is None while it is down."""

    home: str
    is_up: bool
    supervisor_pid: int | None
    availability_zones: tuple[str, ...]
    agents: tuple[AgentStatus, ...]


def up(home: Path, zones: int = 3) -> LabStatus:
    """Start the lab; one that is up already is left alone."""
    layout = Layout(home)
    layout.prepare(zones)
    present = status(home)
    if present.is_up:
        return present
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    started = os.posix_spawn(  # detached: it shall outlive this process
        sys.executable,
        [sys.executable, "-m", "orchestrator.lab", str(home)],
        environment,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(layout.log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    try:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while not (present := status(home)).is_up:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the lab does not come up; see {layout.log}")
            time.sleep(0.05)
    except BaseException:  # also Ctrl-C: one that nobody waits for would come up later
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(started, signal.SIGKILL)
            os.waitpid(started, 0)
        raise
    return present


def status(home: Path) -> LabStatus:
    """Tell how the lab is."""
    layout = Layout(home)
    zones = tuple(host.zone for host in layout.hosts())
    try:
        answer = ask(layout.socket, Order("status"))
    except UnavailableError:
        down = tuple(
            AgentStatus(d.name, host, "", "down", None, 0.0) for host, d in layout.all_hsms()
        )
        return LabStatus(str(home), is_up=False, supervisor_pid=None,
                         availability_zones=zones, agents=down)  # fmt: skip
    return LabStatus(str(home), is_up=True, supervisor_pid=answer.pid,
                     availability_zones=zones, agents=answer.agents)  # fmt: skip


def down(home: Path) -> None:
    """Stop the lab in order; its state stays."""
    present = status(home)
    if present.supervisor_pid is None:
        return
    ask(Layout(home).socket, Order("stop"))
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while _lives(present.supervisor_pid):
        if time.monotonic() > deadline:
            raise UnavailableError(f"the supervisor {present.supervisor_pid} does not end")
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # when this very process had started it
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def destroy(home: Path, *, include_backups: bool = False) -> None:
    """Stop the lab and remove tokens, states and the control plane's database."""
    if not home.exists():
        return
    check_home(home)
    down(home)
    for name in ("lab", "clusters", *(("backups",) if include_backups else ())):
        trash = home / f".trash-{name}"
        if (home / name).exists():
            if trash.exists():
                shutil.rmtree(trash)
            (home / name).rename(trash)  # first out of sight: never half a lab
        if trash.exists():
            shutil.rmtree(trash)
    for path in home.glob("control.db*"):
        path.unlink()


def find(home: Path, prefix: str) -> AgentStatus:
    """Return the agent of the HSM with this id or unique prefix."""
    agents = status(home).agents
    exact = [a for a in agents if a.hsm_id == prefix]
    found = exact or [a for a in agents if a.hsm_id.startswith(prefix)]
    if not found:
        raise NotFoundError("HSM", prefix, "see `cloister lab status`")
    if len(found) > 1:
        raise RefusedError("ambiguous", f"several match: {', '.join(a.hsm_id for a in found)}")
    return found[0]


def kill(home: Path, prefix: str) -> AgentStatus:
    """`kill -9` an HSM's agent and hold it down until `start`."""
    agent = find(home, prefix)
    ask(Layout(home).socket, Order("kill", agent.host, agent.hsm_id))
    return find(home, agent.hsm_id)


def start(home: Path, prefix: str, timeout_s: float = START_TIMEOUT_S) -> AgentStatus:
    """Start an HSM that is held down, and wait until it answers."""
    agent = find(home, prefix)
    ask(Layout(home).socket, Order("start", agent.host, agent.hsm_id))
    LabHosts(home).wait(agent.host, agent.hsm_id, timeout_s)
    return find(home, agent.hsm_id)


def sign_csr(home: Path, csr: bytes) -> tuple[Path, Path]:
    """Sign a cluster's CSR with the lab's throw-away CA; return certificate and trust anchor."""
    directory = home / "lab" / "ca"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    anchor_path, key_path = directory / "ca.crt", directory / "ca.key"
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC) - timedelta(minutes=5)
    end = now + timedelta(days=3652)
    if not anchor_path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cloister lab CA")])
        anchor = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        publish(key_path, pem)
        publish(anchor_path, anchor.public_bytes(Encoding.PEM))
    anchor = x509.load_pem_x509_certificate(anchor_path.read_bytes())
    ca_key = load_pem_private_key(key_path.read_bytes(), password=None)
    request = x509.load_pem_x509_csr(csr)
    if not request.is_signature_valid:
        raise RefusedError("csr", "the CSR's own signature does not verify")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(anchor.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(min(end, anchor.not_valid_after_utc))
        .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]  # the key written above: RSA
    )
    serial = f"{certificate.serial_number:x}"[:16]
    signed_path = directory / f"cluster-{serial}.crt"
    publish(signed_path, certificate.public_bytes(Encoding.PEM))
    return signed_path, anchor_path
