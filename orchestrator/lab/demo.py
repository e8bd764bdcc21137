"""The main job from nothing to recovered, on real tokens, with every claim measured.

Each step raises DemoFailedError when what it shows does not hold; nothing in the table is
assumed. The demo uses a home of its own and leaves no process and no file behind.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.client.session import Session
from orchestrator.client.verify import der_signature
from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.recovery import Recovery
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.errors import OrchestratorError, RefusedError, RemoteError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    Curve,
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.wire.messages import KeyDraft

THREADS: Final = 8
PHASE_S: Final = 1.5
HEAL_TIMEOUT_S: Final = 30.0
_RSA: Final = KeySpec(KeyType.RSA, 2048, None, 65537)
_EC: Final = KeySpec(KeyType.EC, 256, Curve.P256)
_AES: Final = KeySpec(KeyType.AES, 256)
_MESSAGE: Final = b"what the demo signs"


class DemoFailedError(OrchestratorError):
    """A step did not show what it promises."""

    code = "demo-failed"


@dataclass(frozen=True, slots=True)
class Row:
    """A step, and what was measured."""

    step: str
    measured: str
    seconds: float


@dataclass(slots=True)
class _Load:
    """Threads that sign without a pause; counts per phase."""

    session: Session
    keys: tuple[Key, ...]
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    phase: str = "before"
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._sign, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _sign(self) -> None:
        digest = hashlib.sha256(_MESSAGE).digest()
        turn = 0
        while not self._stop.is_set():
            key = self.keys[turn % len(self.keys)]
            turn += 1
            mechanism = SignMechanism(_scheme(key), HashFunction.SHA256)
            began = time.monotonic()
            try:
                self.session.sign(key.ref, mechanism, digest)
            except OrchestratorError as exc:
                self.failures.append(f"{exc.code}: {exc}")
                continue
            took = time.monotonic() - began
            with self._lock:
                self.counts[self.phase] = self.counts.get(self.phase, 0) + 1
                self.slowest_s = max(self.slowest_s, took)

    def run_phase(self, name: str) -> None:
        self.phase = name
        time.sleep(PHASE_S)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Demo:
    """The steps, in order; each leaves what the next one needs."""

    def __init__(
        self, home: Path, say: Callable[[str], None], after: Callable[[str], None]
    ) -> None:
        self.home, self._say, self._after = home, say, after
        self.rows: list[Row] = []
        self.passwords = {
            name: secrets.token_urlsafe(12).encode() for name in ("admin", "cu1", "cu2")
        }
        self.cluster = ""
        self.export = home.parent / "exported.backup"
        self.shares: list[str] = []
        self.signatures: dict[int, bytes] = {}
        self.late_label = "made-while-one-was-down"
        self._sessions: list[Session] = []
        self.victim = ""
        self._plane: ControlPlane | None = None

    @property
    def plane(self) -> ControlPlane:
        """The control plane of the demo's home."""
        if self._plane is None:
            self._plane = ControlPlane.open(self.home, LabHosts(self.home))
        return self._plane

    def close(self) -> None:
        """End connections."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        if self._plane is not None:
            self._plane.close()
            self._plane = None

    def run(self) -> list[Row]:
        """Run every step; return what was measured."""
        steps = (
            ("lab up: three availability zones", self.up),
            ("cluster created, first HSM", self.create),
            ("CSR signed by a throw-away CA, initialised, activated", self.ceremony),
            ("a host that is not admitted gets nothing", self.refuse_host),
            ("CO admits two hosts; two HSMs join by the handshake", self.join),
            ("CO makes two crypto users", self.users),
            ("RSA-2048, P-256 and AES-256 token keys", self.keys),
            ("a session key lives on one HSM alone", self.session_key),
            ("a signature of every HSM, verified by openssl", self.sign_everywhere),
            (f"{THREADS} threads sign, kill -9 of one HSM", self.kill),
            ("the HSM returns, catches up, digests equal", self.heal),
            ("recovery key split 3 of 5, backup verified and exported", self.back_up),
            ("everything destroyed", self.destroy),
            ("recovered from 3 of 5 shares into a new cluster", self.recover),
            ("old users, old keys, old signatures", self.old_work),
            ("audit chains verified", self.audit),
        )
        for number, (title, step) in enumerate(steps, start=1):
            self._say(f"[{number:2}/{len(steps)}] {title} …")
            began = time.monotonic()
            measured = step()
            self.rows.append(Row(title, measured, round(time.monotonic() - began, 2)))
            self._say(f"        {measured}")
            self._after(step.__name__)
        return self.rows

    def _login(self, role: Role, name: str) -> Session:
        session = self.plane.login(self.cluster, role, name, self.passwords[name])
        self._sessions.append(session)
        return session

    # --- from nothing to a cluster ---

    def up(self) -> str:
        """Start the lab."""
        status = lab.up(self.home, 3)
        _need(status.is_up, "the lab is not up")
        return f"{', '.join(status.availability_zones)}; supervisor {status.supervisor_pid}"

    def create(self) -> str:
        """Create a cluster and its first HSM."""
        self.cluster = self.plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        hsm = Membership(self.plane).create(self.cluster, "lab-1a")
        return f"{self.cluster}, {hsm.hsm_id}"

    def ceremony(self) -> str:
        """Sign the CSR, initialise, activate."""
        certificate, anchor = lab.sign_csr(self.home, self.plane.csr(self.cluster))
        self.plane.initialize(self.cluster, certificate.read_bytes(), anchor.read_bytes())
        self.plane.activate(self.cluster, self.passwords["admin"])
        state = self.plane.cluster(self.cluster).state
        _need(state == "ACTIVE", f"the cluster is {state}")
        return f"cluster {state}"

    def refuse_host(self) -> str:
        """Try to join from a host that nobody admitted."""
        try:
            Membership(self.plane).create(self.cluster, "lab-1b")
        except RemoteError as exc:
            _need(exc.code == "host-not-admitted", f"refused for another reason: {exc}")
            count = len(self.plane.hsms(self.cluster))
            _need(count == 1, f"there are {count} HSMs after the refusal")
            return f"refused: {exc.code}"
        raise DemoFailedError("an HSM on a host that was not admitted has joined")

    def join(self) -> str:
        """Admit two hosts, add two HSMs."""
        changes = self.plane.changes(self.cluster, self._login(Role.ADMIN, "admin"))
        for letter in "bc":
            changes.admit_host(f"host-1{letter}")
            Membership(self.plane).create(self.cluster, f"lab-1{letter}")
        return f"{self._consistent(3)} HSMs, digests equal"

    def users(self) -> str:
        """Make two crypto users."""
        changes = self.plane.changes(self.cluster, self._sessions[0])
        held = [
            changes.create_user(name, Role.CRYPTO_USER, self.passwords[name]).held
            for name in ("cu1", "cu2")
        ]
        _need(held == [3, 3], f"the users are on {held} HSMs")
        return "each on 3 of 3 HSMs"

    def keys(self) -> str:
        """Make token keys."""
        session = self._login(Role.CRYPTO_USER, "cu1")
        changes = self.plane.changes(self.cluster, session)
        made = [
            *changes.generate_keys(_RSA, _pair("demo-rsa"))[1],
            *changes.generate_keys(_EC, _pair("demo-ec"))[1],
            *changes.generate_keys(_AES, _secret("demo-aes"))[1],
        ]
        sealed = session.encrypt(made[-1].ref, _MESSAGE)
        _need(session.decrypt(made[-1].ref, sealed) == _MESSAGE, "AES-GCM does not round trip")
        return f"{len(made)} key objects, AES-GCM round trip"

    def session_key(self) -> str:
        """Make a session key and look for it elsewhere."""
        session = self._sessions[1]
        home, *others = session.balancer.hsms
        _, private = session.session_keys.make(_EC, _pair("demo-session"), home)
        mechanism = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
        digest = hashlib.sha256(_MESSAGE).digest()
        session.sign(private.ref, mechanism, digest)
        absent = 0
        for hsm in others:
            try:
                session.balancer.call_one(
                    hsm, lambda _: session.sign_request(private.ref, mechanism, digest)
                )
            except RemoteError as exc:
                absent += exc.code == "not-found"
        _need(absent == len(others), "a session key was found on another HSM")
        return f"signs on {home}, absent on {absent} others"

    def sign_everywhere(self) -> str:
        """Verify a signature of each HSM with the openssl command."""
        session = self._sessions[1]
        verified = 0
        for label in ("demo-rsa", "demo-ec"):
            key = session.key(label)
            digest = hashlib.sha256(_MESSAGE).digest()
            for hsm in session.balancer.hsms:
                mechanism = SignMechanism(_scheme(key), HashFunction.SHA256)
                signature = session.sign(key.ref, mechanism, digest, hsm)
                _openssl_verify(key, signature, self.home.parent)
                self.signatures[key.ref] = signature
                verified += 1
        return f"{verified} signatures of {len(session.balancer.hsms)} HSMs: Verified OK"

    # --- failure ---

    def kill(self) -> str:
        """Kill an HSM under load, and make a key meanwhile."""
        session = self._sessions[1]
        load = _Load(session, (session.key("demo-rsa"), session.key("demo-ec")))
        retries = session.statistics.retries
        load.start()
        try:
            load.run_phase("before")
            self.victim = self.plane.hsms(self.cluster)[0].hsm_id
            load.phase = "during"
            lab.kill(self.home, self.victim)
            changes = self.plane.changes(self.cluster, session)
            report, _ = changes.generate_keys(_AES, _secret(self.late_label))
            load.run_phase("during")
            lab.start(self.home, self.victim)
            load.run_phase("after")
        finally:
            load.stop()
        retries = session.statistics.retries - retries
        _need(not load.failures, f"{len(load.failures)} failures, the first {load.failures[:1]}")
        _need(retries >= 1, "no request was sent again: the kill was not felt")
        _need(report.held == 2, f"the key made meanwhile is on {report.held} HSMs, not 2")
        for phase in ("before", "during", "after"):
            _need(load.counts.get(phase, 0) > 0, f"nothing was signed {phase} the kill")
        counts = ", ".join(f"{load.counts[p]} {p}" for p in ("before", "during", "after"))
        return (
            f"signatures {counts}; failures 0, retries {retries}, slowest call "
            f"{load.slowest_s * 1000:.0f} ms"
        )

    def heal(self) -> str:
        """Wait for the killed HSM to be equal again."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        count = 0
        while not count:
            try:
                count = self._consistent(3)
            except DemoFailedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        session = self._sessions[1]
        terms = KeyFilter(attributes=(("label", self.late_label),))
        _need(session.find_key(terms).label == self.late_label, "the key made meanwhile is missing")
        return f"{count} HSMs at one place with one digest"

    def _consistent(self, hsms: int) -> int:
        report = Inspection(self.plane).verify(self.cluster)
        _need(report.is_consistent, f"not consistent: {'; '.join(report.problems)}")
        digests = {check.digest for check in report.hsms}
        _need(
            len(report.hsms) == hsms and len(digests) == 1,
            f"{len(report.hsms)} HSMs with {len(digests)} digests",
        )
        return len(report.hsms)

    # --- loss and recovery ---

    def back_up(self) -> str:
        """Split a recovery key, take a backup, verify it, export it."""
        changes = self.plane.changes(self.cluster, self._sessions[0])
        self.shares = changes.create_recovery_key(3, 5)
        backups = Backups(self.plane)
        view = backups.create(self.cluster)
        verified = backups.verify(view.backup_id)
        _need(bool(verified.opened_by), "no HSM could open the backup")
        backups.export(view.backup_id, self.export)
        return f"{view.backup_id}: {view.users} users, {view.keys} keys, {view.size_bytes} bytes"

    def destroy(self) -> str:
        """Destroy tokens, states and the control plane's database."""
        self.close()
        lab.destroy(self.home, include_backups=True)
        left = [str(path) for path in self.home.rglob("*") if path.is_file()]
        _need(not left, f"something is left: {left[:3]}")
        lab.up(self.home, 3)
        return "0 files left; only the exported backup and the shares remain"

    def recover(self) -> str:
        """Recover from the exported backup and three shares."""
        backup = Backups(self.plane).import_(self.export).backup_id
        old, words = self.cluster, [self.shares[number] for number in (4, 0, 2)]
        self.cluster = Recovery(self.plane).recover(backup, words, "lab-1b").cluster_id
        _need(self.cluster != old, "the recovered cluster has the old id")
        return f"{self.cluster} from {backup}"

    def old_work(self) -> str:
        """Old users log in, old keys sign, old signatures verify."""
        for role, name in (
            (Role.ADMIN, "admin"),
            (Role.CRYPTO_USER, "cu1"),
            (Role.CRYPTO_USER, "cu2"),
        ):
            self._login(role, name)
        session = self._sessions[1]
        digest = hashlib.sha256(_MESSAGE).digest()
        for ref, signature in self.signatures.items():
            key = session.find_key(KeyFilter(ref=ref))
            _openssl_verify(key, signature, self.home.parent)
            mechanism = SignMechanism(_scheme(key), HashFunction.SHA256)
            _openssl_verify(key, session.sign(ref, mechanism, digest), self.home.parent)
        late = session.find_key(KeyFilter(attributes=(("label", self.late_label),)))
        _need(session.decrypt(late.ref, session.encrypt(late.ref, b"x")) == b"x", "AES key is lost")
        count = len(self.signatures)
        return f"3 log-ins, {count} old signatures verified, {count} new ones made"

    def audit(self) -> str:
        """Verify the audit chain."""
        checks = Inspection(self.plane).verify_audit(self.cluster)
        problems = [check.problem for check in checks if check.problem]
        _need(bool(checks) and not problems, f"audit: {problems}")
        return f"{sum(check.records for check in checks)} records, no gap"


def run(say: Callable[[str], None], after: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Run the demo in a home of its own; nothing is left behind, however it ends.

    Args:
        say: shows progress to a person.
        after: called with a step's name when it is done; tests break things there.

    Raises:
        DemoFailedError: a step did not show what it promises.
    """
    if shutil.which("openssl") is None:
        raise RefusedError("no-openssl", "the openssl command is missing; install openssl")
    directory = Path(tempfile.mkdtemp(prefix="cloister-demo-"))
    demo = Demo(directory / "home", say, after)
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    old = [signal.signal(number, _interrupt) for number in numbers]
    try:
        return demo.run()
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not end the clearing up
        demo.close()
        lab.destroy(demo.home, include_backups=True)
        shutil.rmtree(directory, ignore_errors=True)
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _need(condition: bool, failure: str) -> None:  # an assertion
    if not condition:
        raise DemoFailedError(failure)


def _pair(label: str) -> tuple[KeyDraft, ...]:
    return (
        KeyDraft(KeyClass.PUBLIC, label, (("verify", "true"),)),
        KeyDraft(KeyClass.PRIVATE, label, (("sign", "true"),)),
    )


def _secret(label: str) -> tuple[KeyDraft, ...]:
    return (KeyDraft(KeyClass.SECRET, label, (("encrypt", "true"), ("decrypt", "true"))),)


def _scheme(key: Key) -> SignScheme:
    return SignScheme.RSA_PKCS if key.spec.type is KeyType.RSA else SignScheme.ECDSA


def _openssl_verify(key: Key, signature: bytes, directory: Path) -> None:
    """Verify with the openssl command, which knows nothing of us."""
    public, signed, message = (directory / n for n in ("public.pem", "signature", "message"))
    pem = load_der_public_key(key.public).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    public.write_bytes(pem)
    is_raw = _scheme(key) is SignScheme.ECDSA
    signed.write_bytes(der_signature(signature) if is_raw else signature)
    message.write_bytes(_MESSAGE)
    argv = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", str(signed)]
    done = subprocess.run(  # noqa: S603  # a fixed command
        [*argv, str(message)], capture_output=True, text=True, timeout=30, check=False
    )
    _need(done.returncode == 0, f"openssl: {done.stdout.strip()} {done.stderr.strip()}")
