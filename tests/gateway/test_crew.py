"""Workers that wait for clients: whom they serve next, and what ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.gateway.crew import IDLE_MAX, SPARE
from orchestrator.gateway.cryptoki import CKA, CKM
from orchestrator.gateway.worker import links
from orchestrator.gateway.worker import main as worker
from orchestrator.gateway.worker.application import Application
from orchestrator.gateway.worker.links import Links
from tests.gateway import wire as w
from tests.gateway.cluster import Gateway
from tests.gateway.lab import PIN, RunningGateway, Site
from tests.gateway.unix_users import as_user
from tests.interop import sources
from tests.lab.harness import eventually
from tests.stateful.harness import LocalCluster

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
A_SESSION_KEY = (w.mechanism(0, CKM.AES_KEY_GEN), [(CKA.VALUE_LEN, 32)])
STRANGERS = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")


@pytest.fixture
def gateway(site: Site) -> Iterator[RunningGateway]:
    with sources.directory() as work:  # one that other users can enter
        made = RunningGateway(site, work / "s")
        (work / "s").chmod(0o666)
        eventually(lambda: len(workers(made)) == SPARE)
        yield made
        made.stop()


def workers(gateway: RunningGateway) -> set[int]:
    pid = gateway.process.pid
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def report(gateway: RunningGateway) -> Any:
    return json.loads(gateway.cli("status", "--output", "json"))


def worker_of_only_client(gateway: RunningGateway) -> int:
    [client] = report(gateway)["clients"]
    pid: int = client["worker"]["pid"]
    return pid


def wait_until_left(gateway: RunningGateway) -> None:
    eventually(lambda: not report(gateway)["clients"])


def uses_the_cluster(gateway: RunningGateway) -> bool:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN.encode())
    drawn = client.call(64, "ufy", w.u64(session) + w.u32(16)).bytes_()
    client.sock.close()
    return bool(drawn)


def test_a_worker_that_waits_takes_the_next_client_of_its_user_with_nothing_left_of_the_last(
    gateway: RunningGateway,
) -> None:
    first = gateway.connect()
    pid = worker_of_only_client(gateway)
    session = first.open()
    first.login(session, PIN.encode())
    assert first.key(session, *A_SESSION_KEY)
    first.sock.close()
    wait_until_left(gateway)
    assert pid in workers(gateway)
    second = gateway.connect()
    assert worker_of_only_client(gateway) == pid
    with pytest.raises(w.Refused):  # not even a session
        second.call(64, "ufy", w.u64(session) + w.u32(16))
    assert second.open() == session  # numbers begin anew
    with pytest.raises(w.Refused):  # nobody is logged in
        second.key(session, *A_SESSION_KEY)
    second.login(session, PIN.encode())
    assert second.find(session, [(CKA.CLASS, 4)]) == []
    assert report(gateway)["clients"][0]["worker"]["errors"] == 0


@STRANGERS
def test_a_worker_never_serves_two_unix_users(gateway: RunningGateway) -> None:
    with as_user(65533):
        client = gateway.connect()
    used = {worker_of_only_client(gateway)}
    client.sock.close()
    wait_until_left(gateway)
    assert used <= workers(gateway)
    for _ in range(2 * SPARE):  # so that no spare one is left to be chosen instead
        with as_user(65532):
            stranger = gateway.connect()
        pid = worker_of_only_client(gateway)
        assert pid not in used
        stranger.sock.close()
        wait_until_left(gateway)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: pid not in workers(gateway))  # type: ignore[misc]
    with as_user(65533):
        client = gateway.connect()
    assert worker_of_only_client(gateway) in used


@STRANGERS
def test_nor_the_same_user_in_other_groups(gateway: RunningGateway) -> None:
    client = gateway.connect()
    used = worker_of_only_client(gateway)
    client.sock.close()
    wait_until_left(gateway)
    assert used in workers(gateway)
    groups = os.getgroups()
    os.setgroups([*groups, 65531])
    try:
        gateway.connect()
    finally:
        os.setgroups(groups)
    assert worker_of_only_client(gateway) != used


def test_a_worker_whose_client_sent_rubbish_ends_with_it(gateway: RunningGateway) -> None:
    client = gateway.connect()
    pid = worker_of_only_client(gateway)
    client.sock.sendall(w.u32(0) * 3)  # a frame with the code 0
    eventually(lambda: pid not in workers(gateway))
    client.sock.close()
    assert gateway.connect().open()
    assert worker_of_only_client(gateway) != pid


def test_those_that_are_killed_while_they_wait_are_replaced(gateway: RunningGateway) -> None:
    for _ in range(3):
        wait_until_left(gateway)
        killed = workers(gateway)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda killed=killed: not killed & workers(gateway))  # type: ignore[misc]
        assert uses_the_cluster(gateway)
    eventually(lambda: len(workers(gateway)) >= SPARE)
    assert "ended by signal" not in gateway.log.read_text()  # nobody's application fails


def test_few_are_kept_and_all_end_with_the_gateway(site: Site, gateway: RunningGateway) -> None:
    many = [gateway.connect() for _ in range(2 * IDLE_MAX)]
    assert len(workers(gateway)) >= len(many)
    for client in many:
        client.sock.close()
    eventually(lambda: len(workers(gateway)) == IDLE_MAX + SPARE)
    all_ = workers(gateway)
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in all_))


def test_a_link_whose_hsm_has_died_meanwhile_is_no_ones_trouble(gateway: RunningGateway) -> None:
    site = gateway.site
    uses_the_cluster(gateway)
    wait_until_left(gateway)
    for hsm in site.hsms:
        [pid] = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and is_agent_of(entry, hsm)
        ]
        os.kill(pid, signal.SIGKILL)
        for _ in range(SPARE + 2):  # whichever HSM a worker had linked
            assert uses_the_cluster(gateway)


def is_agent_of(entry: Path, hsm: str) -> bool:
    try:
        words = (entry / "cmdline").read_text()
    except OSError:
        return False
    return "orchestrator.agent" in words and hsm in words


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway on fake tokens, in this process."""
    cluster = LocalCluster(tmp_path)
    made = Gateway(cluster)
    yield made
    made.close()
    cluster.close()


def test_an_old_link_is_made_anew(small: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Links(small.token)
    prepared.prepare()
    [held] = [n.open_link for n in prepared._prepared.nodes if n.open_link]  # type: ignore[union-attr]
    taken = prepared.balancer()
    assert held in [node.open_link for node in taken.nodes]
    assert prepared.balancer() is not taken  # one is one login's
    prepared.prepare()
    monkeypatch.setattr(links, "PREPARED_S", 0.0)
    assert not any(node.open_link for node in prepared.balancer().nodes)


def test_what_fails_unexpectedly_makes_a_worker_unsound(
    small: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    client = small.connect()
    connection, _, _ = small.connections[-1]
    assert client.open()
    assert connection.is_sound
    monkeypatch.setattr(Application, "open_session", broken)
    with pytest.raises(w.Refused):
        client.open()
    assert not connection.is_sound


@pytest.mark.parametrize(
    ("name", "limit", "wanted"),
    [
        ("CLIENTS_MAX", 2, [worker.READY, worker.LEFT, worker.READY, worker.LEFT, b""]),
        ("KEPT_KB_MAX", 1, [worker.READY, b""]),
    ],
)
def test_a_worker_ends_with_its_last_client_or_when_it_has_grown(
    small: Gateway, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, wanted: list[bytes]
) -> None:
    monkeypatch.setattr(worker, "KEPT_KB_MAX", 1 << 40)  # whatever the tests' own process has
    monkeypatch.setattr(worker, name, limit)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    if (pid := os.fork()) == 0:
        try:
            ours.close()
            worker.work(theirs, small.token, socket.socket(socket.AF_UNIX), None)
        finally:
            os._exit(0)
    theirs.close()
    said: list[bytes] = []
    with ours:
        while not said or said[-1]:
            said.append(ours.recv(16))
            if said[-1] == worker.READY:
                near, far = socket.socketpair()
                with near, far:
                    socket.send_fds(ours, [b"c"], [far.fileno()])
                    far.close()
                    assert w.Client(near, 0).open()
    assert said == wanted
    assert os.waitpid(pid, 0) == (pid, 0)
