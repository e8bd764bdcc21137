"""Log-ins by a ticket that a user with a second factor has lent, and uses that were approved."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from orchestrator.gateway.cryptoki import CKM, CKO, CKR
from orchestrator.model.key_spec import (
    Curve,
    KeyClass,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.sealed.token_files import FILE_BYTES_MAX, LoginTicketFile
from orchestrator.wire.messages import KeyDraft
from tests.gateway import wire as w
from tests.gateway.cluster import PIN, Gateway
from tests.gateway.people import Person
from tests.gateway.test_worker import refused
from tests.gateway.wire import Client
from tests.stateful.harness import PASSWORD, LocalCluster

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(cluster: LocalCluster) -> Iterator[Gateway]:
    made = Gateway(cluster)
    yield made
    made.close()


def works(client: Client, session: int, size: int = 8) -> bool:
    drawn = client.call(64, "ufy", w.u64(session) + w.u32(size)).bytes_()
    return isinstance(drawn, bytes) and len(drawn) == size


class Lent:
    """A login that `cu`, who has a second factor, lends."""

    def __init__(self, gateway: Gateway, path: Path) -> None:
        self.gateway, self.path = gateway, path
        self.person = Person(gateway, "eve")
        self.person.enrol()
        self.changes = self.person.changes(self.person.login_mfa())

    def lend(self, uid: int | None = None) -> LoginTicketFile:
        file = self.changes.factors.issue_ticket(os.getuid() if uid is None else uid, 8)
        if self.path.is_dir():
            self.path.rmdir()
        self.path.unlink(missing_ok=True)
        self.path.touch(0o600)
        self.path.write_bytes(file.pack())
        self.file = file
        return file

    @property
    def pin(self) -> bytes:
        return b"eve:@" + os.fsencode(self.path)

    def edit(self, **fields: object) -> None:
        self.path.write_text(json.dumps({**json.loads(self.path.read_bytes()), **fields}))


@pytest.fixture(scope="module")
def eve(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Lent:
    admin = Person(gateway, "admin", Role.ADMIN).changes()
    admin.create_user("eve", Role.CRYPTO_USER, PASSWORD)
    return Lent(gateway, tmp_path_factory.mktemp("eve") / "app.ticket")


@pytest.fixture
def lent(eve: Lent) -> Iterator[Lent]:
    eve.lend()
    yield eve
    for held in eve.changes.factors.tickets():
        eve.changes.factors.revoke_ticket(held.login)


def login(gateway: Gateway, pin: bytes) -> tuple[Client, int]:
    client = gateway.connect()
    session = client.open()
    client.login(session, pin)
    return client, session


def test_a_lent_login_serves_an_application_and_outlives_its_ticket(
    gateway: Gateway, lent: Lent, caplog: pytest.LogCaptureFixture
) -> None:
    with refused(CKR.PIN_INCORRECT):
        login(gateway, b"eve:" + PASSWORD)
    assert "crypto-user eve logs in with a second factor" in caplog.text
    assert "login ticket" in caplog.text
    by_path, by_content = login(gateway, lent.pin), login(gateway, lent.path.read_bytes())
    assert works(*by_path)
    assert works(*by_content)
    first, key = lent.file.login, json.loads(lent.path.read_bytes())["ticket"]
    second = lent.lend()
    lent.changes.factors.revoke_ticket(first)
    draws_anew = 30_000  # more than is pooled
    assert works(*by_path, draws_anew)  # the worker has read the file again
    with refused(CKR.USER_NOT_LOGGED_IN):
        works(*by_content, draws_anew)
    lent.changes.factors.revoke_ticket(second.login)
    with refused(CKR.USER_NOT_LOGGED_IN):
        works(*by_path, draws_anew)
    assert "the login of eve has ended" in caplog.text
    with refused(CKR.PIN_INCORRECT):
        login(gateway, lent.pin)
    assert key not in caplog.text
    assert PASSWORD.decode() not in caplog.text


@pytest.mark.parametrize(
    ("case", "rv"),
    [
        *((name, CKR.PIN_INCORRECT) for name in (
            "missing", "relative", "nul", "mode", "directory", "fifo", "symlink", "huge",
            "nonsense", "other-user", "other-cluster", "other-role", "other-uid", "unsealed",
            "no-name",
        )),
        ("ended", CKR.PIN_EXPIRED),
    ],
)  # fmt: skip
def test_what_is_no_ticket_of_the_application_is_refused(
    gateway: Gateway, lent: Lent, case: str, rv: CKR, caplog: pytest.LogCaptureFixture
) -> None:
    path, pin = lent.path, lent.pin
    match case:
        case "missing":
            path.unlink()
        case "relative":
            pin = b"eve:@app.ticket"  # a password, and not the right one
        case "nul":
            pin += b"\0"
        case "mode":
            path.chmod(0o640)
        case "directory":
            path.unlink()
            path.mkdir(0o700)
        case "fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "symlink":
            real = path.rename(path.with_suffix(".real"))
            path.symlink_to(real)
        case "huge":
            path.write_bytes(path.read_bytes() + b" " * FILE_BYTES_MAX)
        case "nonsense":
            path.write_bytes(b"{}")
        case "other-user":
            pin = pin.replace(b"eve:", b"dee:")
        case "other-cluster":
            lent.edit(cluster_id="cluster-another")
        case "other-role":
            lent.edit(role="admin")
        case "other-uid":
            lent.lend(os.getuid() + 1)
        case "unsealed":
            lent.edit(ticket="AAAA")
        case "no-name":
            pin = pin.removeprefix(b"eve:")
        case _:
            assert case == "ended"
            lent.edit(until=1)
    with caplog.at_level(logging.WARNING), refused(rv):
        login(gateway, pin)
    if case not in {"relative", "no-name"}:
        assert "eve" in caplog.text or "dee" in caplog.text
    assert lent.file.ticket.hex() not in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_ticket_of_another_unix_user_is_not_read(gateway: Gateway, lent: Lent) -> None:
    """A gateway that can read it must not, for the sake of whoever connects."""
    os.chown(lent.path, 12345, -1)
    with refused(CKR.PIN_INCORRECT):
        login(gateway, lent.pin)


def test_why_nobody_can_log_in_is_said_without_what_may_be_of_a_password(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for pin, reason in (
        (b"thepassword", "a PIN is user:password"),
        (b"thepass:word-1", "user, role or password is wrong; a PIN is user:password"),
    ):
        client = gateway.connect()
        session = client.open()
        for _ in range(3):  # said once: an application may try for ever
            with refused(CKR.PIN_INCORRECT):
                client.login(session, pin)
        [said] = caplog.messages
        assert reason in said
        assert f"uid {os.getuid()}" in said
        assert "thepass" not in said
        caplog.clear()


def test_why_a_template_is_refused_is_said(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    client, session = login(gateway, PIN)
    wanted = [(0x161, 32), (0x103, 0), (1, 0)]  # CKA_VALUE_LEN, CKA_SENSITIVE, CKA_TOKEN
    for _ in range(3):
        with refused(CKR.TEMPLATE_INCONSISTENT):
            client.key(session, w.mechanism(0, 0x1080), wanted)
    with refused(CKR.TEMPLATE_INCOMPLETE):
        client.key(session, w.mechanism(0, 0x1080), wanted[1:])
    with refused(CKR.SESSION_HANDLE_INVALID):
        client.call(13, "u", w.u64(session + 1))  # the code says it all
    first, second = caplog.messages
    assert first.startswith("cu: C_GenerateKey: CKR_TEMPLATE_INCONSISTENT: ")
    assert "sensitive" in first
    assert second == "cu: C_GenerateKey: CKR_TEMPLATE_INCOMPLETE: CKA_VALUE_LEN"


# --- quorum --------------------------------------------------------------------------------------


def test_an_approved_use_is_one_signature_and_no_other(
    gateway: Gateway, cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Person(gateway, "admin", Role.ADMIN)
    admin.changes().create_user("dee", Role.CRYPTO_USER, PASSWORD)
    cu, dee = Person(gateway, "cu"), Person(gateway, "dee")
    for person in (cu, dee):
        person.register()
    changes = cu.changes()
    spec = KeySpec(KeyType.EC, 256, Curve.P256)
    halves = (
        KeyDraft(KeyClass.PUBLIC, "guarded"),
        KeyDraft(KeyClass.PRIVATE, "guarded", (("sign", "true"),), ("dee",), use_quorum=2),
    )
    key = changes.generate_keys(spec, halves)[1][1]
    client, session = login(gateway, PIN)
    [private] = client.find(session, [(0, int(CKO.PRIVATE_KEY)), (3, b"guarded")])
    chosen = w.mechanism(0, CKM.ECDSA)
    approved, other = sha256(b"the contract").digest(), sha256(b"another").digest()

    def sign(digest: bytes) -> bytes | int:
        client.init(42, session, chosen, private)
        return client.one_step(43, session, digest)

    for digest in (approved, other):
        with refused(CKR.FUNCTION_REJECTED):
            sign(digest)
    assert "cu: Quorum Failed; this use of the key needs approvals" in caplog.text
    mechanism = SignMechanism(SignScheme.ECDSA, None)
    token = changes.quorum.generate(Service.KEY_USAGE, key.ref)
    for person in (cu, dee):
        token = person.approve(token)
    changes.quorum.approve_sign(key.ref, mechanism, approved, token)
    signature = sign(approved)
    assert isinstance(signature, bytes)
    assert len(signature) == 64
    with refused(CKR.FUNCTION_REJECTED):
        sign(other)
    cluster.clock.ms += 601_000
    with refused(CKR.FUNCTION_REJECTED):
        sign(approved)
