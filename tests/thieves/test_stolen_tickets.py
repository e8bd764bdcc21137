"""A ticket is good for whom it was given to, as it was given, while the login lasts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.tickets import LIFE_MS
from orchestrator.client.session import Session
from orchestrator.control.backups import Backups
from orchestrator.control.membership import Membership
from orchestrator.lab import demo
from orchestrator.lab.lab import sign_csr
from orchestrator.model.entries import LOGIN_LIFE_MS, encode
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from orchestrator.wire.frames import pack_frame
from tests.stateful.harness import LocalCluster
from tests.thieves.harness import Caller, ask, members, refusal, socket_of

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
USER, ADMIN = Role.CRYPTO_USER, Role.ADMIN
NEW_PASSWORD = b"another-password"
NOBODY = 65534


def listing(ticket: bytes) -> m.Request:
    """Return what every user may ask."""
    return m.ListKeys(ticket, 0, KeyFilter())


def login(job: demo.Demo, name: str, cluster: str = "") -> Session:
    role = ADMIN if name == "admin" else USER
    return job.plane.login(cluster or job.cluster, role, name, job.passwords[name])


def ticket_of(job: demo.Demo, name: str, cluster: str = "") -> bytes:
    with login(job, name, cluster) as session:
        return session.ticket()


def is_good(job: demo.Demo, ticket: bytes, hsms: list[str] | None = None) -> bool:
    """Tell whether HSMs take a ticket and renew it; fail when they do not agree."""
    answers = set()
    for hsm in hsms or members(job):
        with Caller(job, hsm) as caller:
            answers |= {caller.outcome(listing(ticket)), caller.outcome(m.Renew(ticket))}
    assert answers in ({""}, {"ticket-refused"})
    return answers == {""}


@pytest.fixture
def ticket(active: demo.Demo) -> bytes:
    """A ticket of cu1, good everywhere."""
    given = ticket_of(active, "cu1")
    assert is_good(active, given)
    return given


# --- other bytes ---


@pytest.mark.parametrize(
    "region",
    [slice(0, 4), slice(4, 16), slice(16, -16), slice(-16, None)],
    ids=["epoch", "nonce", "ciphertext", "tag"],
)
def test_no_byte_of_a_ticket_can_be_changed(
    active: demo.Demo, ticket: bytes, region: slice
) -> None:
    hsms = members(active)
    with Caller(active, hsms[0]) as one, Caller(active, hsms[1]) as other:
        for place in range(len(ticket))[region]:
            for caller, mask in ((one, 1), (other, 0x80)):
                edited = bytearray(ticket)
                edited[place] ^= mask
                assert caller.outcome(listing(bytes(edited))) == "ticket-refused"
                assert caller.outcome(m.Renew(bytes(edited))) == "ticket-refused"


def test_a_ticket_is_whole(active: demo.Demo, ticket: bytes) -> None:
    with Caller(active, members(active)[0]) as caller:
        for length in range(1, len(ticket)):
            assert caller.outcome(listing(ticket[:length])) == "ticket-refused"
            assert caller.outcome(listing(ticket[length:])) == "ticket-refused"
        for more in (b"\0", bytes(16), ticket, bytes(100_000)):
            assert caller.outcome(listing(ticket + more)) == "ticket-refused"
            assert caller.outcome(listing(more + ticket)) == "ticket-refused"
        assert caller.outcome(listing(b"")) == "permission-denied"  # nobody's
        assert caller.outcome(m.Renew(b"")) == "ticket-refused"


def test_two_tickets_make_no_third(active: demo.Demo, ticket: bytes) -> None:
    admins = ticket_of(active, "admin")
    with Caller(active, members(active)[0]) as caller:
        for place in (10, 16, 40, len(ticket) - 16):
            assert caller.outcome(listing(ticket[:place] + admins[place:])) == "ticket-refused"


def test_a_tickets_cluster_is_its_own(active: demo.Demo, ticket: bytes) -> None:
    """Not even a clone, whose users, passwords and masking key are the same."""
    plane = active.plane
    clone = plane.create_cluster(
        "hsm2m.medium", (), None, Backups(plane).create(active.cluster).backup_id
    ).cluster_id
    stranger = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
    theirs = {c: Membership(plane).create(c, "lab-1b").hsm_id for c in (clone, stranger)}
    certificate, anchor = sign_csr(active.home, plane.csr(stranger))
    plane.initialize(stranger, certificate.read_bytes(), anchor.read_bytes())
    plane.activate(stranger, active.passwords["admin"])
    for cluster, name in ((clone, "cu1"), (clone, "admin"), (stranger, "admin")):
        own = ticket_of(active, name, cluster)
        assert is_good(active, own, [theirs[cluster]])
        assert not is_good(active, own)
    for hsm in theirs.values():
        assert not is_good(active, ticket, [hsm])


# --- other callers ---


@pytest.mark.skipif(os.getuid() != 0, reason="only root can call as another user")
def test_a_ticket_is_no_use_to_another_user(active: demo.Demo, ticket: bytes) -> None:
    path = socket_of(active, members(active)[0])
    relay = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "sock.connect('agent.sock')\n"
        "sock.sendall(sys.stdin.buffer.read())\n"
        "stream = sock.makefile('rb')\n"
        "header = stream.read(16)\n"
        "sys.stdout.buffer.write(stream.read(int.from_bytes(header[4:8], 'big')))\n"
    )
    path.parent.chmod(0o711)  # a host where users reach the socket
    path.chmod(0o666)
    try:
        replies = []
        for request in (m.Hello(), listing(ticket), m.Renew(ticket)):
            done = subprocess.run(
                [Path(sys.executable).resolve(), "-I", "-S", "-c", relay],
                input=pack_frame(1, encode(request)),
                capture_output=True,
                check=True,
                cwd=path.parent,
                user=NOBODY,
                group=NOBODY,
                extra_groups=(),
                timeout=20,
            )
            replies.append(m.decode_reply(done.stdout))
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    welcome, *refusals = replies
    assert isinstance(welcome, m.Welcome)
    assert [r.code for r in refusals if isinstance(r, m.Refusal)] == ["ticket-refused"] * 2
    assert is_good(active, ticket)


# --- other times ---


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster whose clock stands still until it is moved."""
    cluster = LocalCluster(tmp_path)
    yield cluster
    cluster.close()


class Bearer:
    """Uses a ticket at the HSMs of a local cluster in turn."""

    def __init__(self, cluster: LocalCluster, uid: int) -> None:
        self.hsms = [machine.hsm for machine in cluster.machines if machine.hsm is not None]
        self.peers = [hsm.connect(uid) for hsm in self.hsms]

    def all(self, request: m.Request) -> list[m.Reply]:
        return [hsm.answer(request, p) for hsm, p in zip(self.hsms, self.peers, strict=True)]

    def codes(self, request: m.Request) -> set[str]:
        return {r.code if isinstance(r, m.Refusal) else "" for r in self.all(request)}


def test_a_ticket_lasts_ten_minutes_and_a_login_a_day(local: LocalCluster) -> None:
    ticket, clock = local.login(USER, "cu"), local.clock
    began = clock.ms
    bearer, renewed = Bearer(local, os.getuid()), list[bytes]()
    clock.ms = began + LIFE_MS - 1000
    assert bearer.codes(m.Random(ticket, 8)) == {""}
    clock.ms = began + LIFE_MS + 1000
    assert bearer.codes(m.Random(ticket, 8)) == {"ticket-refused"}
    for late in (LIFE_MS + 2000, LOGIN_LIFE_MS // 2, LOGIN_LIFE_MS - 1000):
        clock.ms = began + late
        for given in bearer.all(m.Renew(ticket)):
            assert isinstance(given, m.Ticket)
            assert bearer.codes(m.Random(given.ticket, 8)) == {""}
            assert given.expires_at <= began + LOGIN_LIFE_MS
            renewed.append(given.ticket)
    clock.ms = began + LOGIN_LIFE_MS
    for old in (ticket, *renewed):
        assert bearer.codes(m.Random(old, 8)) == {"ticket-refused"}
        assert bearer.codes(m.Renew(old)) == {"ticket-refused"}


def test_a_ticket_is_its_uids(local: LocalCluster) -> None:
    ticket = local.login(USER, "cu")
    for uid in (os.getuid() + 1, NOBODY, 0 if os.getuid() else 1):
        other = Bearer(local, uid)
        assert other.codes(m.Random(ticket, 8)) == {"ticket-refused"}
        assert other.codes(m.Renew(ticket)) == {"ticket-refused"}


# --- after the login has ended ---


def test_after_log_out(active: demo.Demo, ticket: bytes) -> None:
    with login(active, "cu1") as leaving:
        gone = leaving.ticket()
        renewed = ask(active, members(active)[1], m.Renew(gone))
        assert isinstance(renewed, m.Ticket)
        active.plane.changes(active.cluster, leaving).logout()
    assert not is_good(active, gone)
    assert not is_good(active, renewed.ticket)
    assert is_good(active, ticket)  # another login of the same user


def test_after_ones_own_new_password(active: demo.Demo, ticket: bytes) -> None:
    with login(active, "cu1") as session:
        active.plane.changes(active.cluster, session).change_password("cu1", USER, NEW_PASSWORD)
        assert not is_good(active, session.ticket())
    assert not is_good(active, ticket)
    active.passwords["cu1"] = NEW_PASSWORD
    assert is_good(active, ticket_of(active, "cu1"))


def test_after_a_new_password_from_an_admin(active: demo.Demo, ticket: bytes) -> None:
    mine = ticket_of(active, "cu2")
    with login(active, "admin") as admin:
        changes = active.plane.changes(active.cluster, admin)
        changes.change_password("cu2", USER, active.passwords["cu2"])  # even if it is the old one
        assert is_good(active, admin.ticket())
    assert not is_good(active, mine)
    assert is_good(active, ticket)


def test_after_the_user_is_gone_and_there_again(active: demo.Demo) -> None:
    with login(active, "admin") as admin:
        changes = active.plane.changes(active.cluster, admin)
        active.passwords["brief"] = NEW_PASSWORD
        changes.create_user("brief", USER, NEW_PASSWORD)
        mine = ticket_of(active, "brief")
        assert is_good(active, mine)
        changes.delete_user("brief", USER)
        assert not is_good(active, mine)
        changes.create_user("brief", USER, NEW_PASSWORD)
        assert not is_good(active, mine)
        assert is_good(active, ticket_of(active, "brief"))


def test_after_a_compromised_hsm_was_removed(active: demo.Demo, ticket: bytes) -> None:
    """An orderly removal lets logins go on; one of a compromised HSM ends them all."""
    plane = active.plane
    orderly, compromised, staying = members(active)
    Membership(plane).delete(active.cluster, orderly, force=False)
    assert is_good(active, ticket)
    admins = ticket_of(active, "admin")
    Membership(plane).delete(active.cluster, compromised, force=False, compromised=True)
    for old in (ticket, admins):
        assert refusal(active, staying, listing(old)) == "ticket-refused"
        assert refusal(active, staying, m.Renew(old)) == "ticket-refused"
    assert is_good(active, ticket_of(active, "cu1"))
