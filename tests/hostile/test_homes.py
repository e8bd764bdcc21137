"""Homes, sockets and supervisors in places that they should not be in."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.membership import Membership
from orchestrator.lab import demo, lab
from orchestrator.lab.layout import HOME_BYTES_MAX, Layout, check_home
from orchestrator.lab.protocol import Order, SupervisorHangsError, ask, receive
from orchestrator.lab.supervisor import EXIT_LOCKED
from orchestrator.model.errors import (
    MalformedError,
    NotFoundError,
    OrchestratorError,
    RefusedError,
    TamperedError,
    UnavailableError,
)
from orchestrator.model.roles import Role
from orchestrator.wire.frames import FrameReader, pack_frame
from orchestrator.wire.streams import dial, listen
from tests.hostile.wire import descriptors
from tests.lab.harness import HSM, Lab, eventually, processes_of

# --- sockets ---


def deep(path: Path, size: int) -> Path:
    """A directory whose path has so many bytes."""
    while len(os.fsencode(path)) < size - 102:
        path /= "d" * 100
    return path / ("e" * max(1, size - len(os.fsencode(path)) - 1))


@pytest.mark.parametrize("size", [90, 107, 108, 300, 2000, 3900])
def test_sockets_work_behind_any_path(tmp_path: Path, size: int) -> None:
    directory = deep(tmp_path, size)
    directory.mkdir(parents=True)
    path = directory / "agent.sock"
    for _ in range(2):  # the second replaces the dead socket of the first
        with listen(path) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with dial(path, 5) as near, listener.accept()[0] as far:
                near.sendall(b"through")
                assert far.recv(100) == b"through"
    before = descriptors()
    with pytest.raises(ConnectionRefusedError):
        dial(path, 5)
    assert descriptors() == before


@pytest.mark.parametrize("name", ["ünïcödé", "with space", "new\nline", "-dash", "a" * 255])
def test_sockets_work_in_directories_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with listen(tmp_path / name / "s") as listener, dial(tmp_path / name / "s", 5):
        listener.accept()[0].close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.parent.rmdir(),
        lambda path: path.mkdir(),
        lambda path: (path.parent.rmdir(), path.parent.write_text("a file")),
        lambda path: (path.parent.rmdir(), path.parent.symlink_to(path.parent)),
    ],
    ids=["no directory", "a directory", "a file in its directory's place", "a loop"],
)
def test_no_descriptor_is_left_where_none_can_listen(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "agent.sock"
    spoil(path)
    before, mask = descriptors(), os.umask(0o22)
    try:
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011  # each has its own kind
                listen(path)
            with pytest.raises(OSError):  # noqa: PT011  # as above
                dial(path, 1)
        assert descriptors() == before
    finally:
        assert os.umask(mask) == 0o22


# --- homes ---


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o720, 0o770, 0o701, 0o777, 0o1777, 0o2750])
@pytest.mark.parametrize("through", ["itself", "a link"])
def test_a_home_that_others_may_enter(tmp_path: Path, mode: int, through: str) -> None:
    home, way = tmp_path / "home", tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    if through == "a link":
        way = tmp_path / "link"
        way.symlink_to(home)
    with pytest.raises(RefusedError, match="is open to others; `chmod 700") as caught:
        check_home(way)
    assert caught.value.code == "home"
    assert list(home.iterdir()) == []
    assert stat.S_IMODE(home.stat().st_mode) == mode


def test_a_link_to_a_home_of_ones_own_is_one(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert check_home(tmp_path / "link") == tmp_path / "link"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_target_of_a_link_counts_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    os.chown(tmp_path / "home", 65534, 65534)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(RefusedError, match="belongs to user 65534"):
        check_home(tmp_path / "link")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda path: path.write_text("a file"), "is no directory"),
        (os.mkfifo, "is no directory"),
        (lambda path: path.symlink_to(path.parent / "none"), "cannot be a home"),
        (lambda path: path.symlink_to(path), "cannot be a home"),
        (lambda path: path.symlink_to("/dev/null"), "is no directory"),
    ],
    ids=["file", "pipe", "link to nowhere", "loop", "device"],
)
def test_what_can_be_no_home(tmp_path: Path, build: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "home"
    build(path)
    with pytest.raises(RefusedError, match=f"{said}.*CLOISTER_HOME") as caught:
        check_home(path)
    assert caught.value.code == "home"
    if path.is_file():
        with pytest.raises(RefusedError, match=r"cannot be a home.*CLOISTER_HOME"):
            check_home(path / "below")


def test_a_home_of_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be a home: File name too long"):
        check_home(tmp_path / ("x" * 256))
    for size in (HOME_BYTES_MAX + 1, 600, 5000):
        home = deep(tmp_path, size)
        with pytest.raises(RefusedError, match=f"more than {HOME_BYTES_MAX} bytes") as caught:
            lab.up(home)
        assert "CLOISTER_HOME" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- hosts that were damaged ---

HOST_DAMAGE: dict[str, Callable[[Path], object]] = {
    "no key": lambda host: (host / "host_key.pub").unlink(),
    "an empty key": lambda host: (host / "host_key.pub").write_bytes(b""),
    "a key of noise": lambda host: (host / "host_key.pub").write_bytes(b"\xff\xfe\x00!"),
    "a short key": lambda host: (host / "host_key.pub").write_bytes(b"AAAA\n"),
    "a link to nowhere as key": lambda host: (host / "host_key.pub").rename(host / "zone"),
    "no zone": lambda host: (host / "zone").unlink(),
    "an empty zone": lambda host: (host / "zone").write_bytes(b"\n"),
    "a zone of noise": lambda host: (host / "zone").write_bytes(b"\xff\xfe"),
}  # fmt: skip


@pytest.mark.parametrize("damage", HOST_DAMAGE.values(), ids=HOST_DAMAGE)
def test_a_damaged_host_is_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    layout = Layout(tmp_path / "home")
    layout.prepare(2)
    damage(layout.hosts_directory / "host-1b")
    with pytest.raises(TamperedError, match="host-1b is no host of the lab"):
        layout.hosts()


@pytest.mark.parametrize("host", ["..", ".", "", "host-1a/../host-1a", "/etc", "host-9z", "x\0y"])
def test_a_host_is_no_path(tmp_path: Path, host: str) -> None:
    layout = Layout(tmp_path / "home")
    layout.prepare(1)
    with pytest.raises(NotFoundError, match="does not exist"):
        layout.hsm_directory(host, HSM)


# --- the supervisor ---


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "home")
    try:
        made.up()
        yield made
    finally:
        for supervisor in made.supervisors:
            supervisor.terminate()
            supervisor.wait(15)
        left = processes_of(made.home)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left


def test_a_damaged_host_ends_no_hsm(up: Lab) -> None:
    up.make()
    pid = up.pid()
    key = up.layout.hosts_directory / "host-1b" / "host_key.pub"
    content = key.read_bytes()
    key.write_bytes(b"\xff noise")
    log = up.home / "supervisor.err"
    eventually(lambda: "host-1b is no host of the lab" in log.read_text())
    with pytest.raises(OrchestratorError, match="host-1b"):
        lab.status(up.home)
    assert up.supervisors[-1].poll() is None
    key.write_bytes(content)
    assert up.pid() == pid  # the same process as before


def test_a_second_supervisor_leaves_the_first_alone(up: Lab) -> None:
    up.make()
    pid = up.pid()
    second = subprocess.run(  # our own program
        [sys.executable, "-m", "orchestrator.lab", str(up.home)], capture_output=True, check=False
    )
    assert second.returncode == EXIT_LOCKED == 3
    assert b"is up already" in second.stderr
    assert b"Traceback" not in second.stderr
    assert up.pid() == pid
    assert up.layout.socket.is_socket()


BAD_IDS = [
    "", "hsm", "hsm-", "hsm-short", "../../x", "hsm-../../../x", "hsm-aaaaaaaaaaa/..", "/etc/x",
    "hsm-aaaaaaaaaaa\n", "hsm-aaaaaaaaaaa\0", "cluster-aaaaaaaaaaa", "hsm-" + "a" * 17,
    "hsm-aaaaaaaaaa1", "HSM-aaaaaaaaaaa", "hsm-\N{CYRILLIC SMALL LETTER A}aaaaaaaaaa",
]  # fmt: skip


def test_malformed_ids_reach_no_path(up: Lab) -> None:
    before = sorted(up.home.rglob("*"))
    for action in ("create", "destroy", "kill", "start"):
        for hsm in BAD_IDS:
            with pytest.raises(OrchestratorError, match="is not a hsm id") as caught:
                ask(up.layout.socket, Order(action, "host-1a", hsm, "/etc/hostname"))
            assert caught.value.exit_status == 2
    assert sorted(up.home.rglob("*")) == before


def test_orders_that_are_none(up: Lab) -> None:
    for order in (Order("nonsense", "host-1a", HSM), Order("", "host-1a", HSM)):
        with pytest.raises(OrchestratorError, match="no such order"):
            ask(up.layout.socket, order)
    for host in ("", "..", "host-9z", "../hosts/host-1a"):
        with pytest.raises(OrchestratorError, match="does not exist"):
            ask(up.layout.socket, Order("create", host, HSM))
    for action in ("kill", "start"):
        with pytest.raises(OrchestratorError, match="does not exist"):
            ask(up.layout.socket, Order(action, "host-1a", HSM))
    assert ask(up.layout.socket, Order("status")).agents == ()


NOISE = [
    b"", b"\0", bytes(16), b"GET / HTTP/1.0\r\n\r\n",
    pack_frame(1, b""), pack_frame(1, b"\xc1"), pack_frame(1, b"\x80"),
    pack_frame(1, b"\x81\xa6action\xa2\xff\xfe"), pack_frame(1, b"\x81\xa2\xff\xfe\xc0"),
    pack_frame(1, b"\x81\xa6action" + b"\x91" * 100_000),
    pack_frame(1, b"\x81\xa1x" * 30_000), pack_frame(1, b"\x91" * 100_000),
    pack_frame(1, msgspec.msgpack.encode({"action": "status", "more": 1})),
    pack_frame(1, msgspec.msgpack.encode({"action": 7})),
]  # fmt: skip


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_an_order_of_noise_is_none(noise: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(noise)
        near.shutdown(socket.SHUT_WR)
        assert receive(far) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", UnavailableError),
        (b"noise that is no frame", MalformedError),
        (pack_frame(1, b"\xc1"), MalformedError),
        (pack_frame(1, b"\x81\xa3pid\xa2\xff\xfe"), MalformedError),
        (pack_frame(1, b"\x81\xa6agents" + b"\x91" * 100_000), MalformedError),
        (pack_frame(1, msgspec.msgpack.encode({}))[:-1], MalformedError),
    ],
)
def test_an_answer_of_noise_is_an_error(
    tmp_path: Path, answer: bytes, error: type[OrchestratorError]
) -> None:
    path = tmp_path / "s"
    with listen(path) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                FrameReader(sock).read()
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(error):
            ask(path, Order("status"))
        thread.join()


def test_a_supervisor_that_hangs_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.lab import protocol  # noqa: PLC0415

    monkeypatch.setattr(protocol, "ANSWER_TIMEOUT_S", 0.1)
    with listen(tmp_path / "s"), pytest.raises(SupervisorHangsError) as caught:
        ask(tmp_path / "s", Order("status"))
    assert caught.value.retryable


# --- all of it, on real tokens ---


@pytest.mark.softhsm
def test_a_cluster_lives_in_a_home_of_the_longest_path(tmp_path: Path) -> None:
    home = deep(tmp_path, HOME_BYTES_MAX)
    assert len(os.fsencode(home)) == HOME_BYTES_MAX
    home.parent.mkdir(parents=True)
    job = demo.Demo(home, lambda _: None, lambda _: None)
    try:
        for step in (job.up, job.create, job.ceremony, job.join, job.users):
            step()
        assert len(job.plane.hsms(job.cluster)) == 3
        assert job._login(Role.CRYPTO_USER, "cu1").random(8)
        assert Backups(job.plane).create(job.cluster).size_bytes
        assert Inspection(job.plane).verify(job.cluster).is_consistent
        assert lab.up(home).supervisor_pid == lab.status(home).supervisor_pid
    finally:
        job.close()
        lab.destroy(home, include_backups=True)
    assert not processes_of(home)
    assert sorted(home.iterdir()) == []


@pytest.mark.softhsm
def test_ids_zones_and_hosts_that_are_not_there(tmp_path: Path) -> None:
    job = demo.Demo(tmp_path / "home", lambda _: None, lambda _: None)
    try:
        for step in (job.up, job.create, job.ceremony):
            step()
        plane, cluster = job.plane, job.cluster
        [last] = plane.hsms(cluster)
        directory = plane.infrastructure.hsm_directory(last.host, last.hsm_id)
        before = sorted(path.name for path in (job.home / "lab" / "hosts").rglob("hsm-*"))
        strange = ["", "..", "../lab-1a", "lab-1a\n", "LAB-1A", "lab-9z", "lab-1a,lab-1b", "\0"]
        for zone in strange:
            with pytest.raises(NotFoundError, match="has lab-1a, lab-1b, lab-1c"):
                Membership(plane).create(cluster, zone)
            with pytest.raises(NotFoundError, match="there are lab-1a, lab-1b, lab-1c"):
                plane.create_cluster("hsm2m.medium", (zone,), None, None)
        for host in (*strange, "host-1b", "../host-1b"):
            with pytest.raises(NotFoundError, match="cloister host list"):
                Membership(plane).create(cluster, "lab-1a", host=host)
        for hsm in (*BAD_IDS, "hsm-notofours22", last.hsm_id[:-1], last.hsm_id.upper()):
            with pytest.raises(NotFoundError, match="cloister hsm list"):
                Membership(plane).delete(cluster, hsm, force=True)
        for other in ("", "cluster-notofours22", f"../{cluster}", cluster[:-1]):
            with pytest.raises(NotFoundError, match="cloister cluster list"):
                Membership(plane).create(other, "lab-1a")
            with pytest.raises(NotFoundError, match="cloister cluster list"):
                plane.delete_cluster(other)
        assert [view.hsm_id for view in plane.hsms(cluster)] == [last.hsm_id]
        assert [row.cluster_id for row in plane.records.clusters()] == [cluster]
        found = sorted(path.name for path in (job.home / "lab" / "hosts").rglob("hsm-*"))
        assert found == before
        # The last one: refused without a recovery key, and then not touched; allowed by force.
        with pytest.raises(RefusedError, match=r"recovery create-shares.*--force") as caught:
            Membership(plane).delete(cluster, last.hsm_id, force=False)
        assert caught.value.code == "last-hsm"
        assert plane.hsms(cluster)[0].state == "ACTIVE"
        job._login(Role.ADMIN, "admin")
        Membership(plane).delete(cluster, last.hsm_id, force=True)
        assert plane.hsms(cluster) == []
        assert not directory.exists()
        plane.delete_cluster(cluster)
        assert plane.clusters() == []
    finally:
        job.close()
        lab.destroy(job.home, include_backups=True)
