"""What commands call, standing in: fixed answers, and a note of every call that changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.cli.invocation import Services
from orchestrator.control.backups import BackupVerification
from orchestrator.control.inspection import AdoptReport, AuditCheck
from orchestrator.control.views import (
    BackupState,
    BackupView,
    ChangeReport,
    ClusterState,
    ClusterView,
    HostView,
    HsmCheck,
    HsmState,
    HsmView,
    VerifyReport,
)
from orchestrator.gateway.report import ClientReport, GatewayReport, HsmReport, WorkerReport
from orchestrator.lab.demo import Row
from orchestrator.lab.lab import LabStatus
from orchestrator.lab.protocol import AgentStatus
from orchestrator.model.entries import Actor, KeyUseApproved
from orchestrator.model.errors import LoginFailedError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.profile import FirmwareProfile
from orchestrator.model.quorum import ApprovalData, use_digest
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.sealed.token_files import (
    LoginTicketFile,
    Possession,
    PossessionFile,
    TokenFile,
)
from orchestrator.wire.messages import (
    AuditRecord,
    KeyDraft,
    KeyPage,
    LoginTicketView,
    QuorumPage,
    TokenView,
    UserView,
)

CLUSTER, HSM, BACKUP = "cluster-aaaaaaaaaaa", "hsm-bbbbbbbbbbb", "backup-ccccccccccc"
NOON = 1_790_000_000_000
PASSWORD = "correct-horse"
DIGEST = "ab" * 32
WARNING = "no recovery key: if every HSM is lost, so is every key"

HSM_VIEW = HsmView(HSM, CLUSTER, "host-1a", "lab-1a", HsmState.ACTIVE, 7, "")
CHANGE = ChangeReport("0123456789abcdef0123456789abcdef", 8, 2, 3, ("hsm-ddddddddddd",))
BACKUP_VIEW = BackupView(
    BACKUP, CLUSTER, BackupState.READY, "hsm2m.medium", "FIPS", NOON, None, 7, DIGEST, 11694, 3, 4,
    "3 of 5 shares", "on demand",
)  # fmt: skip
AGENT = AgentStatus(HSM, "host-1a", "lab-1a", "running", 4242, 12.5)
EC_PRIVATE = ec.derive_private_key(5, ec.SECP256R1())
RSA_PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_key(key_class: KeyClass, spec: KeySpec, label: str, ref: int = 0x70000) -> Key:
    public = {KeyType.EC: spki(EC_PRIVATE), KeyType.RSA: spki(RSA_PRIVATE)}.get(spec.type, b"")
    is_private = key_class is not KeyClass.PUBLIC
    attributes = Attributes(private=is_private, sensitive=is_private, verify=not is_private)
    return Key(
        ref,
        key_class,
        spec,
        label,
        b"\x01",
        "alice",
        ("bob",),
        attributes,
        b"",
        public,
        b"\xab\xcd\xef",
    )


EC_SPEC = KeySpec(KeyType.EC, 256, Curve.P256)


TOKEN = TokenFile(
    ApprovalData(
        Service.USER, 0, "ana", NOON // 1000, "user create username=bob role=crypto-user",
        (bytes(16),),
    )
)  # fmt: skip
_ENROLMENT = ApprovalData(Service.MFA, 0, "ana", NOON // 1000, "user change-mfa", TOKEN.data.nonces)
POSSESSION = PossessionFile((Possession(_ENROLMENT),))
LOGIN_TICKET = LoginTicketFile(CLUSTER, "cu", Role.CRYPTO_USER, 7, NOON, "login-1", b"ticket")


@dataclass
class StandIns(Services):
    """Answers as an active cluster of one HSM would."""

    root: Path
    state: ClusterState = ClusterState.ACTIVE
    raises: BaseException | None = None
    key: Key = field(default_factory=lambda: make_key(KeyClass.PUBLIC, EC_SPEC, "web"))
    total_keys: int = 1
    consistent: bool = True
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    # --- Services ---

    def home(self) -> Path:
        return self.root

    def plane(self) -> Any:
        return self

    def profiles(self) -> dict[str, FirmwareProfile]:
        there = (sys.executable,)  # the doctor looks whether a module's file exists
        found = super().profiles().items()
        return {name: msgspec.structs.replace(p, modules=there) for name, p in found}

    def backups(self, plane: Any) -> Any:
        note = self.note
        checked = BackupVerification(BACKUP, 7, DIGEST, "cd" * 32, True, HSM)
        return SimpleNamespace(
            create=lambda _: BACKUP_VIEW,
            list=lambda: [BACKUP_VIEW],
            view=lambda _: BACKUP_VIEW,
            verify=lambda _: checked,
            export=note("export"),
            import_=lambda _: BACKUP_VIEW,
            delete=note("delete-backup", BACKUP_VIEW),
        )

    def inspection(self, plane: Any) -> Any:
        problem = "" if self.consistent else "is behind"
        check = HsmCheck(HSM, 7, DIGEST, 30, problem)
        problems = (f"{HSM}: {problem}",) if problem else ()
        record = AuditRecord(0, NOON, "login", "admin admin", "", "done", bytes(32))
        return SimpleNamespace(
            verify=lambda _: VerifyReport(CLUSTER, self.consistent, 7, (check,), problems),
            adopt=self.note("adopt", AdoptReport(CLUSTER, 7, (HSM,))),
            audit=lambda *_: [record],
            verify_audit=lambda _: [AuditCheck(HSM, 30, problem)],
        )

    def membership(self, plane: Any) -> Any:
        return SimpleNamespace(create=self.create_hsm, delete=self.delete_hsm)

    def recovery(self, plane: Any) -> Any:
        return SimpleNamespace(recover=self.note("recover", self.view()))

    def lab(self) -> Any:
        status = LabStatus(str(self.root), True, 4241, ("lab-1a", "lab-1b"), (AGENT,))
        files = (Path("lab/ca/cluster.crt"), Path("lab/ca/ca.crt"))
        return SimpleNamespace(
            up=self.note("up", status),
            status=lambda _: status,
            down=self.note("down"),
            destroy=self.note("destroy"),
            kill=self.note("kill", AGENT),
            start=self.note("start", AGENT),
            sign_csr=lambda *_: files,
        )

    def demo(self) -> Any:
        def run(say: Callable[[str], None]) -> list[Row]:
            say("signing")
            return [Row("sign", "3 of 3", 0.5)]

        return SimpleNamespace(run=run)

    def gateway(self) -> Any:
        worker = WorkerReport(4244, "alice", 1, 20, 8, 0, (HsmReport(HSM, 8, 0, 0, 0.5),))
        clients = (ClientReport(4243, 33, NOON, True, worker),)
        report = GatewayReport(CLUSTER, "/run/g/s", 4242, NOON, 1, 0, clients)
        return SimpleNamespace(run=self.note("run", report), read_status=lambda _: report)

    # --- the control plane ---

    def note(self, name: str, result: Any = None) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, *args, *kwargs.values()))
            return result

        return called

    def view(self) -> ClusterView:
        hsms = () if self.state is ClusterState.UNINITIALIZED else (HSM_VIEW,)
        return ClusterView(
            CLUSTER,
            self.state,
            "hsm2m.medium",
            "FIPS",
            ("lab-1a", "lab-1b"),
            NOON,
            "",
            hsms,
            7,
            (WARNING,),
            ("a restriction",),
        )

    def close(self) -> None:
        self.calls.append(("close",))

    @property
    def records(self) -> Any:
        if self.raises is not None:
            raise self.raises
        return SimpleNamespace(
            resolve_cluster=self.note("resolve", CLUSTER),
            resolve_hsm=lambda *_: (CLUSTER, HSM),
            resolve_backup=lambda _: BACKUP,
            clusters=lambda: [CLUSTER],
            cluster=lambda _: SimpleNamespace(hsm_type="hsm2m.medium", mode="FIPS"),
        )

    @property
    def infrastructure(self) -> Any:
        return SimpleNamespace(hosts=lambda: [SimpleNamespace(name="host-1a", zone="lab-1a")])

    def clusters(self) -> list[ClusterView]:
        if self.raises is not None:
            raise self.raises
        return [self.view()]

    def cluster(self, cluster: str) -> ClusterView:
        return self.view()

    def create_cluster(self, *args: Any) -> ClusterView:
        self.calls.append(("create-cluster", *args))
        return self.view()

    def csr(self, cluster: str) -> bytes:
        return b"-----BEGIN CERTIFICATE REQUEST-----\n"

    def initialize(self, *args: Any) -> ClusterView:
        self.calls.append(("initialize", *args))
        return self.view()

    def activate(self, *args: Any) -> ChangeReport:
        self.calls.append(("activate", *args))
        return CHANGE

    def delete_cluster(self, cluster: str) -> None:
        self.calls.append(("delete-cluster", cluster))

    def hsms(self, cluster: str) -> list[HsmView]:
        return [HSM_VIEW]

    def create_hsm(self, cluster: str, zone: str, *, host: str | None, approval: object) -> HsmView:
        self.calls.append(("create-hsm", zone, host))
        return HSM_VIEW

    def delete_hsm(self, cluster: str, hsm: str, *, force: bool, approval: object) -> None:
        self.calls.append(("delete-hsm", hsm, force))

    def host_views(self, cluster: str) -> list[HostView]:
        admitted = HostView("host-1a", "lab-1a", bytes(32), "SHA256:00", True)
        return [admitted, HostView("host-1b", "lab-1b", bytes(32), "SHA256:01", False)]

    def quorum(self, cluster: str) -> QuorumPage:
        token = TokenView(TOKEN.token, Service.USER, 0, "ana", Role.ADMIN, TOKEN.words, NOON,
                          NOON + 600_000, 2)  # fmt: skip
        values = ((Service.USER, 2), (Service.QUORUM, 1))
        return QuorumPage(values, False, False, 600, 600, (token,))

    @property
    def clock(self) -> Any:
        return SimpleNamespace(now_ms=lambda: NOON)

    def users(self, cluster: str) -> tuple[UserView, ...]:
        return (UserView("admin", Role.ADMIN, False),)

    def login(self, cluster: str, role: Role, name: str, password: bytes) -> Any:
        self.calls.append(("login", role, name, password))
        if password != PASSWORD.encode():
            raise LoginFailedError("user, role or password is wrong")
        return FakeSession(self, role, name)

    def recovery_key(
        self, threshold: int, shares: int, keep: Callable[[list[str]], None], *, approval: object
    ) -> list[str]:
        self.calls.append(("create_recovery_key", threshold, shares))
        words = ["alpha beta"] * shares
        keep(words)
        return words

    def controller(self, cluster: str) -> Any:
        outcome = SimpleNamespace(report=CHANGE, keys=(self.key,))
        return SimpleNamespace(cluster=cluster, change=self.note("change", outcome))

    def changes(self, cluster: str, session: Any) -> Any:
        names = (
            "create_user", "delete_user", "change_password", "admit_host", "expel_host",
            "unlock_user", "disable_user", "enable_user", "transfer_keys",
        )  # fmt: skip
        quorum = ("set_value", "set_policy", "delete_tokens", "register")
        return SimpleNamespace(
            **{name: self.note(name, CHANGE) for name in names},
            delete_key=self.note("delete_key", CHANGE),
            share_key=self.note("share_key", CHANGE),
            unshare_key=self.note("unshare_key", CHANGE),
            set_attribute=self.note("set_attribute", (CHANGE, 0x70000)),
            derive_key=self.note("derive_key", (CHANGE, self.key)),
            unwrap_key=self.note("unwrap_key", (CHANGE, self.key)),
            import_public_key=self.note("import_public_key", (CHANGE, self.key)),
            generate_keys=self.generate_keys,
            create_recovery_key=self.recovery_key,
            factors=SimpleNamespace(
                enrolment=lambda *_: POSSESSION,
                set=self.note("set_mfa", CHANGE),
                remove=self.note("remove_mfa", CHANGE),
                issue_ticket=self.note("issue_login_ticket", LOGIN_TICKET),
                tickets=lambda: (LoginTicketView("login-1", "cu", Role.CRYPTO_USER, 7, NOON),),
                revoke_ticket=self.note("revoke_login_ticket", CHANGE),
            ),
            quorum=SimpleNamespace(
                **{name: self.note(name, CHANGE) for name in quorum},
                actor=Actor(session.name, session.role),
                request=self.note("request", TOKEN),
                use_draft=lambda operation, ref, mechanism, data: KeyUseApproved(
                    Actor(session.name, session.role),
                    ref,
                    operation,
                    use_digest(operation, ref, session.name, mechanism, data),
                ),
                generate=self.note("generate", TOKEN),
                registration=lambda: POSSESSION,
            ),
        )

    def generate_keys(
        self, spec: KeySpec, drafts: tuple[KeyDraft, ...], *, request: str | None = None
    ) -> tuple[ChangeReport, tuple[Key, ...]]:
        self.calls.append(("generate_keys", spec, drafts, request))
        return CHANGE, made(spec, drafts)


def made(spec: KeySpec, drafts: tuple[KeyDraft, ...]) -> tuple[Key, ...]:
    return tuple(make_key(d.key_class, spec, d.label, 0x70000 + i) for i, d in enumerate(drafts))


@dataclass
class FakeSession:
    services: StandIns
    role: Role
    name: str

    def close(self) -> None:
        self.services.calls.append(("close-session",))

    def find_key(self, key_filter: KeyFilter, hsm: str | None = None) -> Key:
        self.services.calls.append(("find", key_filter))
        return self.services.key

    def list_keys(self, key_filter: KeyFilter, offset: int, limit: int) -> KeyPage:
        self.services.calls.append(("list", key_filter, offset, limit))
        return KeyPage((self.services.key,), self.services.total_keys)

    def ticket(self) -> bytes:
        return b""

    def heard(self, seq: int) -> None:
        pass

    def random(self, count: int) -> bytes:
        return bytes(count)

    def encrypt(self, ref: int, plaintext: bytes, *, mechanism: Any) -> bytes:
        self.services.calls.append(("encrypt", ref, plaintext, mechanism))
        return plaintext

    def decrypt(self, ref: int, ciphertext: bytes, *, mechanism: Any) -> bytes:
        self.services.calls.append(("decrypt", ref, ciphertext, mechanism))
        return ciphertext

    def mac(self, ref: int, mechanism: Any, data: bytes) -> bytes:
        self.services.calls.append(("mac", ref, mechanism, data))
        return bytes(32)

    def wrap_key(self, payload: int, wrapper: int, mechanism: Any) -> bytes:
        self.services.calls.append(("wrap_key", payload, wrapper, mechanism))
        return bytes(24)

    @property
    def session_keys(self) -> Any:
        return SimpleNamespace(make=self.make_session_keys)

    def make_session_keys(self, spec: KeySpec, drafts: tuple[KeyDraft, ...]) -> tuple[Key, ...]:
        self.services.calls.append(("session-keys", spec, drafts))
        return made(spec, drafts)

    def sign(self, ref: int, mechanism: Any, digest: bytes, hsm: str | None) -> bytes:
        self.services.calls.append(("sign", ref, mechanism, digest, hsm))
        return bytes(31) + b"\x01" + bytes(31) + b"\x02"
