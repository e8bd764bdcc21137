"""The lab with its real supervisor, in processes of their own; agents are stand-ins."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.lab.supervisor import BACKOFF_S, EXIT_LOCKED
from orchestrator.model.errors import NotFoundError, RefusedError, UnavailableError, UsageError
from orchestrator.model.signatures import check_cluster_certificate, public_bytes
from orchestrator.wire.streams import dial
from orchestrator.wire.system_clock import SystemClock
from tests.lab.harness import HSM, Lab, eventually, processes_of

OTHER = "hsm-aaaaaaaaaab"  # differs from HSM in its last character
DESTROY = (
    "import sys; from pathlib import Path; from orchestrator.lab import lab; "
    "lab.destroy(Path(sys.argv[1]), include_backups=sys.argv[2] == 'True')"
)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / ("long" * 30))
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


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # it is meant to outlive `up`
def test_up_is_done_once_and_down_leaves_the_data(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        first = lab.up(home, 2)
        assert first.availability_zones == ("lab-1a", "lab-1b")
        assert lab.up(home, 2).supervisor_pid == first.supervisor_pid
        second = subprocess.run(  # our own program
            [sys.executable, "-m", "orchestrator.lab", str(home)], capture_output=True, check=False
        )
        assert second.returncode == EXIT_LOCKED
        assert b"is up already" in second.stderr
        keys = [host.key for host in Layout(home).hosts()]
        assert len(set(keys)) == 2
        for path in home.rglob("host_key.pem"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        lab.down(home)
    assert not lab.status(home).is_up
    assert not processes_of(home)
    Layout(home).prepare(3)
    assert [host.key for host in Layout(home).hosts()][:2] == keys


def test_a_long_path_works(up: Lab) -> None:
    assert len(str(up.make() / "agent.sock")) > 107


def test_create_and_destroy_can_be_repeated(up: Lab) -> None:
    directory = up.make()
    pid = up.pid()
    up.make()
    assert up.pid() == pid
    for _ in range(2):
        up.hosts.destroy_hsm("host-1a", HSM)
    assert not processes_of(directory)
    assert list(directory.parent.iterdir()) == []


def test_a_killed_hsm_stays_down_until_started(up: Lab) -> None:
    directory = up.make()
    pid = up.pid()
    assert lab.kill(up.home, HSM).state == "down"
    time.sleep(2 * BACKOFF_S[0] + 0.3)
    assert not processes_of(directory)
    up.supervisors[-1].terminate()
    up.supervisors[-1].wait(10)
    up.up()  # the mark outlives the supervisor
    assert lab.find(up.home, HSM).state == "down"
    started = lab.start(up.home, HSM)
    assert started.state == "running"
    assert started.pid not in {None, pid}


def test_any_other_death_is_followed_by_a_restart(up: Lab) -> None:
    up.make()
    pid = up.kill_agent()
    eventually(lambda: up.pid() not in {None, pid})


def test_restarts_wait_longer_each_time(up: Lab) -> None:
    directory = up.make()
    (directory / "crash").touch()
    (directory / "starts").unlink()
    up.kill_agent()
    eventually(lambda: len(starts(directory)) >= 3)
    times = starts(directory)
    gaps = [after - before for before, after in pairwise(times)]
    assert [gap >= wait for gap, wait in zip(gaps, BACKOFF_S[1:], strict=False)] == [True, True]


def starts(directory: Path) -> list[float]:
    path = directory / "starts"
    return [float(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("is_orphan", [False, True])
def test_a_dead_supervisor_leaves_no_doubled_agents(up: Lab, *, is_orphan: bool) -> None:
    directory = up.make()
    if is_orphan:  # one that did not hear of its parent's death
        (directory / "orphan").touch()
        up.kill_agent()
        up.hosts.wait("host-1a", HSM)
        eventually(lambda: up.pid() is not None)
        up.hosts.wait("host-1a", HSM)
    pid = up.pid()
    assert pid is not None
    up.supervisors[-1].kill()
    up.supervisors[-1].wait()
    if is_orphan:
        up.up()
        time.sleep(1.0)
        assert pid in processes_of(directory)  # it holds the lock: nobody serves beside it
        os.kill(pid, signal.SIGKILL)
    else:
        eventually(lambda: not processes_of(directory), 2.0)
        up.up()
    eventually(lambda: up.pid() not in {None, pid})
    up.hosts.wait("host-1a", HSM)
    assert len(processes_of(directory)) == 1


def test_an_hsm_that_cannot_be_started_does_not_end_the_supervisor(up: Lab) -> None:
    directory = up.make()
    (directory / "agent.log").unlink()
    (directory / "agent.log").mkdir()
    up.kill_agent()
    time.sleep(1.0)
    assert lab.status(up.home).is_up


def test_agents_inherit_no_secret_and_log_in_private(up: Lab) -> None:
    directory = up.make()
    names = (directory / "environment").read_text().split()
    assert "PATH" in names
    assert not [name for name in names if name.startswith("CLOUDHSM_")]
    assert stat.S_IMODE((directory / "agent.log").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_strange_bytes_do_no_harm(up: Lab) -> None:
    for noise in (b"", b"x" * 16, b"\x00\x01\x00\x00\xff\xff\xff\xff" + bytes(8)):
        with dial(up.layout.socket, 2.0) as sock:
            sock.sendall(noise)
    assert lab.status(up.home).is_up


def test_an_hsm_must_be_named_well(up: Lab) -> None:
    with pytest.raises(NotFoundError, match="lab status"):
        lab.kill(up.home, "hsm-nothere")
    up.make(HSM)
    up.make(OTHER, "host-1b")
    with pytest.raises(RefusedError, match="several"):
        lab.kill(up.home, "hsm-a")
    assert lab.kill(up.home, OTHER).hsm_id == OTHER
    assert lab.find(up.home, HSM).state == "running"


@pytest.mark.parametrize("include_backups", [False, True])
def test_destroy_leaves_nothing_that_was_not_kept(up: Lab, *, include_backups: bool) -> None:
    directory = up.make()
    (up.home / "backups").mkdir(exist_ok=True)
    (up.home / "clusters").mkdir()
    (up.home / "control.db").touch()
    (up.home / "supervisor.err").unlink()  # this test's own
    destroyer = [sys.executable, "-c", DESTROY, str(up.home), str(include_backups)]
    subprocess.run(destroyer, check=True, timeout=30)  # our own program
    assert not processes_of(directory)
    kept = [] if include_backups else ["backups"]
    assert sorted(path.name for path in up.home.iterdir()) == kept
    lab.destroy(up.home)  # again


def test_without_a_supervisor_the_remedy_is_named(tmp_path: Path) -> None:
    Layout(tmp_path / "home").prepare(1)
    with pytest.raises(UnavailableError, match="cloister lab up"):
        LabHosts(tmp_path / "home").create_hsm("host-1a", HSM, "hsm2m.medium")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_home_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(RefusedError, match="chmod 700"):
        lab.up(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_home_of_another_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    with pytest.raises(RefusedError, match="belongs to user 65534"):
        lab.up(home)


@pytest.mark.parametrize("zones", [0, 11])
def test_a_lab_has_one_to_ten_zones(tmp_path: Path, zones: int) -> None:
    with pytest.raises(UsageError):
        lab.up(tmp_path / "home", zones)


def test_the_throw_away_ca_signs_what_a_cluster_accepts(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster-aaaaaaaaaaa")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    signed, anchor = lab.sign_csr(tmp_path, csr.public_bytes(Encoding.PEM))
    now = SystemClock().now_ms()
    check_cluster_certificate(signed.read_bytes(), anchor.read_bytes(), public_bytes(csr), now)
    before = anchor.read_bytes()
    lab.sign_csr(tmp_path, csr.public_bytes(Encoding.PEM))
    assert anchor.read_bytes() == before
    for path in anchor.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_start_that_is_interrupted_leaves_no_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    home = tmp_path / "home"
    with monkeypatch.context() as patched:
        patched.setattr(lab, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            lab.up(home, 1)
    time.sleep(1)  # for one that comes up late
    assert processes_of(home) == []
    lab.destroy(home)
    assert list(home.iterdir()) == []
    assert lab.up(home, 1).is_up  # and it can be started again
    lab.destroy(home)
