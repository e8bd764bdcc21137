"""Quorum and second factors as people do them: openssl, ssh-keygen, real tokens, dead HSMs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.client.session import Session
from orchestrator.control.backups import Backups
from orchestrator.control.changes import Changes
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.control.quorum import restore_request
from orchestrator.lab import demo, lab
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import HashFunction, KeyClass, KeySpec, KeyType, SignMechanism
from orchestrator.model.key_spec import SignScheme as Scheme
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.sealed.token_files import LoginTicketFile, PossessionFile, TokenFile
from orchestrator.wire import messages as m

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]
PASSWORD = b"password-of-1"
RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
MECHANISM = SignMechanism(Scheme.RSA_PKCS, HashFunction.SHA256)
MESSAGE = "Quorum approval is required for this operation"


def run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, timeout=30)


class OpensslKey:
    """A person's RSA-2048 key, used with the commands of CloudHSM's documentation."""

    def __init__(self, directory: Path, name: str) -> None:
        self._private, self._directory = directory / f"{name}.key", directory
        run("openssl", "genrsa", "-out", self._private, "2048")
        public = directory / f"{name}.pem"
        run("openssl", "rsa", "-in", self._private, "-pubout", "-out", public)
        self.public = public.read_bytes()

    def sign(self, digest: bytes) -> bytes:
        unsigned, signature = self._directory / "digest.bin", self._directory / "signature.bin"
        unsigned.write_bytes(digest)
        run("openssl", "pkeyutl", "-sign", "-inkey", self._private, "-pkeyopt", "digest:sha256",
            "-in", unsigned, "-out", signature)  # fmt: skip
        return signature.read_bytes()


class SshKey:
    """A person's SSH key; each purpose has its namespace."""

    def __init__(self, directory: Path, name: str, kind: str = "ed25519") -> None:
        self._private, self._directory = directory / f"{name}.ssh", directory
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", self._private)
        self.public = Path(f"{self._private}.pub").read_bytes()

    def sign(self, digest: bytes, namespace: str = "cloister-quorum") -> bytes:
        message = self._directory / "message.bin"
        message.write_bytes(digest)
        Path(f"{message}.sig").unlink(missing_ok=True)
        run("ssh-keygen", "-Y", "sign", "-n", namespace, "-f", self._private, message)
        return Path(f"{message}.sig").read_bytes()


def refusal(action: Callable[[], object]) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        action()
    return caught.value


class Site:
    """A cluster of three HSMs; admins ana, ben (openssl) and cai (ssh), crypto users cu and dee."""

    def __init__(self, job: demo.Demo, directory: Path) -> None:
        self.job, self.plane, self.cluster = job, job.plane, job.cluster
        self.directory = directory
        self.keys: dict[str, OpensslKey | SshKey] = {
            "ana": OpensslKey(directory, "ana"),
            "ben": OpensslKey(directory, "ben"),
            "cai": SshKey(directory, "cai"),
            "cu": OpensslKey(directory, "cu"),
            "dee": SshKey(directory, "dee", "ecdsa"),
        }
        self.sessions: list[Session] = []
        root = self.changes(self.login(Role.ADMIN, "admin", job.passwords["admin"]))
        for name in self.keys:
            root.create_user(name, self.role(name), PASSWORD)
        for name in self.keys:
            self.register(name)

    def role(self, name: str) -> Role:
        return Role.ADMIN if name in {"ana", "ben", "cai"} else Role.CRYPTO_USER

    def login(self, role: Role, name: str, password: bytes = PASSWORD) -> Session:
        self.sessions.append(self.plane.login(self.cluster, role, name, password))
        return self.sessions[-1]

    def changes(self, session: Session) -> Changes:
        return self.plane.changes(self.cluster, session)

    def of(self, name: str) -> Changes:
        return self.changes(self.login(self.role(name), name))

    def register(self, name: str) -> None:
        changes, key = self.of(name), self.keys[name]
        path = self.directory / "registration.json"
        path.write_bytes(changes.quorum.registration().pack())
        # What CloudHSM's documentation tells to do with the file, by hand.
        document = json.loads(path.read_bytes())
        [part] = document["tokens"]
        digest = base64.b64decode(part["unsigned"])
        assert digest == hashlib.sha256(base64.b64decode(part["approval_data"])).digest()
        ssh = isinstance(key, SshKey)
        signature = key.sign(digest, "cloister-registration") if ssh else key.sign(digest)  # type: ignore[call-arg]
        part["signed"] = base64.b64encode(signature).decode()
        path.write_text(json.dumps(document))
        changes.quorum.register(key.public, PossessionFile.parse(path.read_bytes()))

    def approved(self, token: TokenFile, *names: str) -> TokenFile:
        """Pass a token file round; every approver reads, signs and writes it."""
        path = self.directory / "token.json"
        path.write_bytes(token.pack())
        for name in names:
            document = json.loads(path.read_bytes())
            signature = self.keys[name].sign(base64.b64decode(document["token"]))
            text = base64.b64encode(signature).decode()
            entry = {"username": name, "signature": text}
            if "service" in document:
                entry["role"] = str(self.role(name))
            document["signatures"].append(entry)
            path.write_text(json.dumps(document))
        return TokenFile.parse(path.read_bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("people")
    job = demo.Demo(tmp_path_factory.mktemp("lab") / "home", lambda _: None, lambda _: None)
    try:
        for step in (job.up, job.create, job.ceremony, job.join, job.users):
            step()
        made = Site(job, directory)
        yield made
        for session in made.sessions:
            session.close()
    finally:
        job.close()
        lab.destroy(job.home, include_backups=True)


def set_values(site: Site, value: int) -> None:
    """Set the values of services quorum and user, with whatever approvals that needs."""
    for service in (Service.QUORUM, Service.USER) if value > 1 else (Service.USER, Service.QUORUM):
        ana, approval = site.of("ana"), None
        if dict(site.plane.quorum(site.cluster).values)[Service.QUORUM] > 1:
            token = ana.quorum.generate(Service.QUORUM)
            approval = site.approved(token, "ana", "ben")
        ana.quorum.set_value(service, value, approval=approval)


@pytest.fixture
def guarded(site: Site) -> Iterator[Site]:
    """Two admins must approve what is done about users."""
    set_values(site, 2)
    yield site
    set_values(site, 1)


def test_everybody_is_listed_with_a_registered_key(site: Site) -> None:
    users = {user.name: user.quorum for user in site.plane.users(site.cluster)}
    assert [name for name, registered in sorted(users.items()) if registered] == sorted(site.keys)
    assert not users["admin"]


def test_the_flow_of_the_documentation(guarded: Site) -> None:
    ana = guarded.of("ana")

    def create(approval: TokenFile | None) -> None:
        ana.create_user("flow", Role.CRYPTO_USER, PASSWORD, approval=approval)

    assert str(refusal(lambda: create(None))) == MESSAGE
    token = ana.quorum.generate(Service.USER)
    document = json.loads(token.pack())
    assert set(document) == {"version", "approval_data", "token", "signatures"}
    assert len(token.approval_data) == 80 * 3
    one = guarded.approved(token, "ana")
    assert "1 of 2 approvals" in str(refusal(lambda: create(one)))
    two = guarded.approved(token, "ana", "cai")  # openssl's and an SSH signature together
    create(two)
    again = refusal(lambda: ana.create_user("flow2", Role.CRYPTO_USER, PASSWORD, approval=two))
    assert str(again) == MESSAGE


def test_a_bound_token_says_and_does_one_thing(guarded: Site) -> None:
    ana = guarded.of("ana")
    draft = e.UserCreated(ana.quorum.actor, "bound", Role.CRYPTO_USER, "")
    token = ana.quorum.request(draft)
    assert token.words == "user create username=bound role=crypto-user"
    assert token.service is Service.USER
    approval = guarded.approved(token, "ben", "cai")
    other = refusal(
        lambda: ana.create_user("mallory", Role.CRYPTO_USER, PASSWORD, approval=approval)
    )
    assert token.words in str(other)
    ana.create_user("bound", Role.CRYPTO_USER, PASSWORD, approval=approval)


def test_a_token_outlives_a_new_connection_and_a_lost_hsm(guarded: Site) -> None:
    first = guarded.of("ben")
    token = first.quorum.generate(Service.USER)
    approval = guarded.approved(token, "ana", "ben")
    victim = guarded.plane.hsms(guarded.cluster)[0]
    Membership(guarded.plane).delete(guarded.cluster, victim.hsm_id, force=False)
    Membership(guarded.plane).create(guarded.cluster, victim.availability_zone)
    # Another command, another log-in of the same person.
    guarded.of("ben").create_user("outlived", Role.CRYPTO_USER, PASSWORD, approval=approval)


def test_log_out_ends_a_token(guarded: Site) -> None:
    ana = guarded.of("ana")
    token = ana.quorum.generate(Service.USER)
    assert [t.token for t in guarded.plane.quorum(guarded.cluster).tokens] == [token.token]
    ana.logout()
    assert not guarded.plane.quorum(guarded.cluster).tokens


def quorum_key(site: Site) -> Key:
    public = m.KeyDraft(KeyClass.PUBLIC, "quorum")
    private = m.KeyDraft(KeyClass.PRIVATE, "quorum", (("sign", "true"),), ("dee",), use_quorum=2)
    _, keys = site.of("cu").generate_keys(RSA, (public, private))
    return keys[1]


def test_a_guarded_key_signs_what_was_approved_and_nothing_else(site: Site) -> None:
    key = quorum_key(site)
    session = site.login(Role.CRYPTO_USER, "cu")
    cu = site.changes(session)
    digest = hashlib.sha256(b"the contract").digest()
    refused = refusal(lambda: session.sign(key.ref, MECHANISM, digest))
    assert (str(refused), refused.code) == ("Quorum Failed", "quorum-failed")
    token = cu.quorum.generate(Service.KEY_USAGE, key.ref)
    document = json.loads(token.pack())
    assert document["key_reference"] == f"0x{key.ref:016x}"
    approval = site.approved(token, "cu", "dee")
    cu.quorum.approve_sign(key.ref, MECHANISM, digest, approval)
    signatures = {session.sign(key.ref, MECHANISM, digest, hsm) for hsm in session.balancer.hsms}
    assert len(signatures) == 1  # RSA PKCS#1 v1.5 of one request, at every HSM
    other = hashlib.sha256(b"another contract").digest()
    assert str(refusal(lambda: session.sign(key.ref, MECHANISM, other))) == "Quorum Failed"
    dee = site.login(Role.CRYPTO_USER, "dee")
    assert str(refusal(lambda: dee.sign(key.ref, MECHANISM, digest))) == "Quorum Failed"
    assert (
        str(refusal(lambda: cu.quorum.approve_sign(key.ref, MECHANISM, other, approval)))
        == "Quorum Failed"
    )


def enrol(site: Site, name: str, key: OpensslKey) -> None:
    changes = site.of(name)
    file = changes.factors.enrolment(name, Role.CRYPTO_USER)
    assert len(file.parts) == 3
    changes.factors.set(name, Role.CRYPTO_USER, PASSWORD, key.public, file.signed(key.sign))


def mfa_login(site: Site, name: str, key: OpensslKey) -> Session:
    file = site.plane.mfa_challenges(site.cluster, Role.CRYPTO_USER, name)
    session = site.plane.login_mfa(
        site.cluster, Role.CRYPTO_USER, name, PASSWORD, file.signed(key.sign)
    )
    site.sessions.append(session)
    return session


@pytest.fixture
def eve(site: Site) -> Iterator[OpensslKey]:
    """A crypto user with a second factor."""
    root = site.changes(site.login(Role.ADMIN, "admin", site.job.passwords["admin"]))
    root.create_user("eve", Role.CRYPTO_USER, PASSWORD)
    key = OpensslKey(site.directory, "eve")
    enrol(site, "eve", key)
    yield key
    root.delete_user("eve", Role.CRYPTO_USER)


def test_a_second_factor_from_enrolment_to_removal(site: Site, eve: OpensslKey) -> None:
    view = next(user for user in site.plane.users(site.cluster) if user.name == "eve")
    assert (view.mfa, view.quorum) == (True, True)
    for password in (PASSWORD, b"wrong-password"):  # the same answer: no password is looked at
        missing = refusal(lambda p=password: site.login(Role.CRYPTO_USER, "eve", p))  # type: ignore[misc]
        assert (missing.code, missing.exit_status) == ("mfa-required", 4)
    session = mfa_login(site, "eve", eve)
    assert len(session.random(8)) == 8
    rotated = OpensslKey(site.directory, "rotated")
    changes = site.changes(session)
    file = changes.factors.enrolment("eve", Role.CRYPTO_USER).signed(rotated.sign)
    changes.factors.set("eve", Role.CRYPTO_USER, None, rotated.public, file)
    assert refusal(lambda: session.random(8)).code == "ticket-refused"
    assert refusal(lambda: mfa_login(site, "eve", eve)).code == "login-failed"
    site.changes(mfa_login(site, "eve", rotated)).factors.remove("eve", Role.CRYPTO_USER)
    site.login(Role.CRYPTO_USER, "eve")


def test_a_factor_is_good_once_and_where_it_was_asked_for(site: Site, eve: OpensslKey) -> None:
    def ask() -> PossessionFile:
        return site.plane.mfa_challenges(site.cluster, Role.CRYPTO_USER, "eve")

    def login(file: PossessionFile) -> Session:
        return site.plane.login_mfa(site.cluster, Role.CRYPTO_USER, "eve", PASSWORD, file)

    signed = ask().signed(eve.sign)
    first = PossessionFile(signed.parts[:1])
    login(first).close()
    assert "used already" in str(refusal(lambda: login(first)))
    session = site.plane.login(site.cluster, Role.CRYPTO_USER, "cu", PASSWORD)
    site.sessions.append(session)
    one, two = (part.data for part in signed.parts[1:3])
    session.name = "eve"
    elsewhere = m.Login(
        "eve", Role.CRYPTO_USER, bytes(100), m.Factor(two.pack(), eve.sign(PossessionFile(
            signed.parts[2:3]).parts[0].unsigned)),
    )  # fmt: skip
    hsm = next(h for h in session.balancer.hsms if f" hsm={h} " in one.words)
    refused = refusal(lambda: session.balancer.call_one(hsm, lambda _: elsewhere))
    assert "another HSM" in str(refused)
    unsigned = PossessionFile(ask().parts)
    assert refusal(lambda: login(unsigned)).code == "usage"


def test_a_lent_login_for_applications(site: Site, eve: OpensslKey) -> None:
    plain = site.of("cu")
    refused = refusal(lambda: plain.factors.issue_ticket(os.getuid(), 8))
    assert refused.code == "second-factor-needed"
    session = mfa_login(site, "eve", eve)
    changes = site.changes(session)
    file = changes.factors.issue_ticket(os.getuid(), 8)
    again = LoginTicketFile.parse(file.pack())
    lent = site.plane.login_with_ticket(again)
    site.sessions.append(lent)
    assert len(lent.random(8)) == 8
    for forbidden in (
        lambda: site.changes(lent).factors.issue_ticket(os.getuid(), 8),
        lambda: site.changes(lent).change_password("eve", Role.CRYPTO_USER, b"password-2"),
        lambda: site.changes(lent).factors.remove("eve", Role.CRYPTO_USER),
    ):
        assert refusal(forbidden).code == "second-factor-needed"
    other = changes.factors.issue_ticket(os.getuid() + 1, 8)
    assert refusal(lambda: site.plane.login_with_ticket(other)).code == "ticket-refused"
    assert {t.login for t in changes.factors.tickets()} == {file.login, other.login}
    changes.factors.revoke_ticket(file.login)
    assert refusal(lambda: lent.random(8)).code == "ticket-refused"
    assert refusal(lambda: site.plane.login_with_ticket(again)).code == "ticket-refused"
    assert refusal(lambda: changes.factors.issue_ticket(os.getuid(), 25)).code == "ticket-rule"


def set_value(site: Site, service: Service, value: int) -> None:
    site.of("ana").quorum.set_value(service, value)


def cloister(site: Site, words: str, name: str = "", stdin: bytes = b"") -> dict[str, object]:
    """Run `cloister` as a person would, and return its JSON."""
    pin = {"CLOUDHSM_ROLE": "admin", "CLOUDHSM_PIN": f"{name}:{PASSWORD.decode()}"} if name else {}
    command, *rest = words.split(" -- ", 1)
    argv = [sys.executable, "-m", "orchestrator", *command.split(), "--output", "json"]
    argv += ["--", *rest[0].split()] if rest else []
    done = subprocess.run(
        argv, input=stdin, capture_output=True, timeout=60, check=False,
        env={**os.environ, "CLOISTER_HOME": str(site.plane.home), **pin},
    )  # fmt: skip
    answer = json.loads(done.stdout or done.stderr.splitlines()[-1])
    assert isinstance(answer, dict)
    return {**answer, "status": done.returncode}


def test_the_command_line_from_request_to_audit(guarded: Site) -> None:
    path, signature = guarded.directory / "request.json", guarded.directory / "sig"
    path.unlink(missing_ok=True)
    operation = "user create --username byhand --role crypto-user"
    asked = cloister(guarded, f"quorum request --token {path} -- {operation}", "ana")
    assert asked["operation"] == "user create username=byhand role=crypto-user"
    for name in ("ben", "cai"):
        token = bytes.fromhex(str(cloister(guarded, f"quorum show {path}")["token"]))
        signature.write_bytes(guarded.keys[name].sign(token))
        cloister(guarded, f"quorum approve {path} --username {name} --signature {signature}")
    waiting = cloister(guarded, "quorum list")["tokens"]
    assert isinstance(waiting, list)
    assert [each["operation"] for each in waiting] == [asked["operation"]]
    create = f"{operation} --password-stdin"
    refused = cloister(guarded, create, "ana", PASSWORD)
    assert (refused["message"], refused["status"]) == (MESSAGE, 1)
    done = cloister(guarded, f"{create} --approval {path}", "ana", PASSWORD)
    assert (done["username"], done["status"]) == ("byhand", 0)
    again = cloister(guarded, f"{create} --approval {path}", "ana", PASSWORD)
    assert again["status"] == 1
    hsm = guarded.plane.hsms(guarded.cluster)[0].hsm_id
    audit = Inspection(guarded.plane).audit(guarded.cluster, hsm)
    [line] = [r for r in audit if "byhand" in r.subject and r.event == "user-created"]
    assert line.subject == "crypto-user/byhand approved by admin/ben admin/cai"


def test_restoring_a_backup_and_deleting_the_cluster_can_need_people(site: Site) -> None:
    """Last, for the cluster of this module ends with it."""
    for service in (Service.HSM_DELETE, Service.CLUSTER_DELETE, Service.BACKUP_RESTORE):
        set_value(site, service, 2)
    plane, cluster = site.plane, site.cluster
    backup = Backups(plane).create(cluster)
    # Restoring: the backup's own admins approve, of this very backup.
    made = plane.create_cluster("hsm2m.medium", (), None, backup.backup_id)
    zone = made.availability_zones[0]
    assert MESSAGE in str(refusal(lambda: Membership(plane).create(made.cluster_id, zone)))
    now_s = plane.clock.now_ms() // 1000
    other = site.approved(restore_request("backup-other", "ana", now_s), "ana", "cai")
    assert "backup-other" in str(
        refusal(lambda: Membership(plane).create(made.cluster_id, zone, approval=other))
    )
    late = site.approved(restore_request(backup.backup_id, "ana", now_s - 700), "ana", "cai")
    assert "expired" in str(
        refusal(lambda: Membership(plane).create(made.cluster_id, zone, approval=late))
    )
    approval = site.approved(restore_request(backup.backup_id, "ana", now_s), "ana", "cai")
    [restored] = [Membership(plane).create(made.cluster_id, zone, approval=approval)]
    assert len(plane.users(made.cluster_id)) == len(plane.users(cluster))
    # Deleting the restored cluster's only HSM: force is no approval.
    for _ in range(2):  # a refusal leaves nothing that a second try could rely on
        refused = refusal(
            lambda: Membership(plane).delete(made.cluster_id, restored.hsm_id, force=True)
        )
        assert str(refused) == MESSAGE
    session = plane.login(made.cluster_id, Role.ADMIN, "ana", PASSWORD)
    site.sessions.append(session)
    token = plane.changes(made.cluster_id, session).quorum.request(e.ClusterClosed())
    Membership(plane).delete(
        made.cluster_id, restored.hsm_id, force=True, approval=site.approved(token, "ana", "ben")
    )
    plane.delete_cluster(made.cluster_id)
    # Deleting one HSM of several.
    victim = plane.hsms(cluster)[0].hsm_id
    assert str(refusal(lambda: Membership(plane).delete(cluster, victim, force=False))) == MESSAGE
    assert victim in {view.hsm_id for view in plane.hsms(cluster)}
    draft = e.HsmRemoved(victim, e.Rekey(0, ()), compromised=False)
    token = site.of("ana").quorum.request(draft)
    Membership(plane).delete(
        cluster, victim, force=False, approval=site.approved(token, "ana", "ben")
    )
    assert victim not in {view.hsm_id for view in plane.hsms(cluster)}
