"""The gateway as people run it: real HSMs, p11-kit's own client, signals, permissions."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.gateway.worker.main import WORKER_BYTES_MAX
from orchestrator.lab import lab
from tests.gateway import wire as w
from tests.gateway.lab import PIN, RunningGateway, Site
from tests.gateway.unix_users import as_user
from tests.interop import sources
from tests.lab.harness import eventually, processes_of

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g") / "s"


@pytest.fixture(scope="module")
def gateway(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    made = RunningGateway(site, tmp_path_factory.mktemp("shared") / "s")
    yield made
    assert made.stop() == 0


def openssl(*words: str) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.p11kit
@pytest.mark.opensc
def test_pkcs11_tool_uses_a_cluster(gateway: RunningGateway, tmp_path: Path) -> None:
    listed = gateway.tool("--list-slots")
    assert gateway.site.cluster in listed
    assert "RSA-PKCS-KEY-PAIR-GEN" in gateway.tool("--list-mechanisms")
    gateway.tool("--keypairgen", "--key-type", "rsa:2048", "--label", "web", "--id", "01")
    gateway.tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "ec", "--id", "02")
    gateway.tool("--keygen", "--key-type", "AES:32", "--label", "a", "--id", "03", "--sensitive")
    data, signature, public = (str(tmp_path / name) for name in ("data", "sig", "public.der"))
    Path(data).write_bytes(b"what is signed")
    gateway.tool("--sign", "-m", "SHA256-RSA-PKCS", "--id", "01", "-i", data, "-o", signature)
    gateway.tool("--read-object", "--type", "pubkey", "--id", "01", "-o", public)
    key = ("-keyform", "DER", "-verify", public)
    assert "Verified OK" in openssl("dgst", "-sha256", *key, "-signature", signature, data)
    gateway.tool(
        "--sign", "-m", "ECDSA-SHA1", "--id", "02", "-f", "openssl", "-i", data, "-o", signature
    )
    gateway.tool("--read-object", "--type", "pubkey", "--id", "02", "-o", public)
    assert "Verified OK" in openssl("dgst", "-sha1", *key, "-signature", signature, data)
    block, sealed, opened = (tmp_path / name for name in ("block", "sealed", "opened"))
    block.write_bytes(os.urandom(64))
    for verb, source, target in (("--encrypt", block, sealed), ("--decrypt", sealed, opened)):
        gateway.tool(verb, "-m", "AES-ECB", "--id", "03", "-i", str(source), "-o", str(target))
    assert opened.read_bytes() == block.read_bytes() != sealed.read_bytes()
    assert "No errors" in gateway.tool("--test")
    assert "CKR_PIN_INCORRECT" in gateway.tool("--pin", "cu:another-1", "-O", status=1)


@pytest.mark.p11kit
@pytest.mark.opensc
def test_certificates_data_and_given_keys_are_kept(gateway: RunningGateway, tmp_path: Path) -> None:
    pem, der, key = (str(tmp_path / name) for name in ("key.pem", "cert.der", "key.der"))
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-subj", "/CN=x",
            "-outform", "DER", "-out", der)  # fmt: skip
    openssl("rsa", "-in", pem, "-outform", "DER", "-out", key)
    gateway.tool("-w", der, "-y", "cert", "--id", "05", "--label", "mine")
    gateway.tool("-w", key, "-y", "privkey", "--id", "05", "--label", "mine", "--usage-sign")
    Path(tmp_path / "data").write_bytes(b"some data")
    data = str(tmp_path / "data")
    gateway.tool("-w", data, "-y", "data", "--label", "note", "--application-label", "app")
    shown = gateway.tool("-O", "-y", "cert")
    assert "mine" in shown
    assert "CN=x" in shown
    out = str(tmp_path / "out")
    gateway.tool("-r", "-y", "cert", "--id", "05", "-o", out)
    assert Path(out).read_bytes() == Path(der).read_bytes()
    gateway.tool("--sign", "-m", "SHA256-RSA-PKCS", "--id", "05", "-i", data, "-o", out)
    assert "Verified OK" in openssl("dgst", "-sha256", "-prverify", pem, "-signature", out, data)
    note = ("-y", "data", "--label", "note", "--application-label", "app")
    gateway.tool("-r", *note, "-o", out)
    assert Path(out).read_bytes() == b"some data"
    gateway.tool("-b", *note)
    assert "note" not in gateway.tool("-O", "-y", "data")


def test_hsms_that_die_are_not_seen(gateway: RunningGateway) -> None:
    site, client = gateway.site, gateway.connect()
    session = client.open()
    client.login(session, PIN.encode())
    common = [(1, 1), (3, b"survivor")]
    curve = [*common, (0x180, bytes.fromhex("06082a8648ce3d030107"))]
    _, private = client.pair(session, w.mechanism(0, 0x1040), curve, common)

    def sign() -> None:
        client.init(42, session, w.mechanism(0, 0x1041), private)
        assert len(client.one_step(43, session, bytes(32))) == 64  # type: ignore[arg-type]

    for hsm in site.hsms:
        sign()
        lab.kill(site.home, hsm)
        for _ in range(5):
            sign()
        lab.start(site.home, hsm)
    report = json.loads(gateway.cli("status", "--output", "json"))
    mine = next(c for c in report["clients"] if c["client_pid"] == os.getpid())
    assert mine["has_answered"]
    assert mine["worker"]["user"] == "cu"
    assert mine["worker"]["sessions"] == 1
    assert {h["hsm_id"] for h in mine["worker"]["hsms"]} == set(site.hsms)
    assert sum(h["requests"] for h in mine["worker"]["hsms"]) >= 12
    assert str(gateway.path) in gateway.cli("status")
    assert gateway.cli("env") == f"export P11_KIT_SERVER_ADDRESS='unix:path={gateway.path}'\n"


def test_a_stopped_gateway_serves_its_clients_to_the_end(site: Site, place: Path) -> None:
    old = RunningGateway(site, place)
    client = old.connect()
    session = client.open()
    old.process.terminate()
    assert old.process.wait(10) == 0
    assert not place.exists()
    client.login(session, PIN.encode())  # not even logged in, and served
    new = RunningGateway(site, place)
    assert new.connect().open()
    assert client.call(64, "ufy", w.u64(session) + w.u32(16)).bytes_()
    report = json.loads(new.cli("status", "--output", "json"))
    assert len(report["clients"]) == 1  # the old one's are its own
    assert new.stop() == 0
    client.sock.close()


def test_a_worker_that_is_killed_is_told_and_takes_nobody_along(site: Site, place: Path) -> None:
    gateway = RunningGateway(site, place)
    lost, other = gateway.connect(), gateway.connect()

    def workers() -> list[int]:
        report = json.loads(gateway.cli("status", "--output", "json"))
        return [c["worker"]["pid"] for c in report["clients"]]

    os.kill(workers()[0], signal.SIGKILL)
    with pytest.raises((ConnectionError, AssertionError)):
        lost.open()
    assert other.open()
    eventually(lambda: len(workers()) == 1)
    other.sock.close()
    eventually(lambda: not workers())
    [line] = [x for x in gateway.log.read_text().splitlines() if "ended by signal" in x]
    assert f"uid {os.getuid()} (process {os.getpid()})" in line
    assert "signal 9" in line
    gateway.stop()


def test_a_question_for_the_status_ends_no_worker(site: Site, place: Path) -> None:
    """Workers are asked by signal, the one that was forked just now too: it begins as this."""
    gateway = RunningGateway(site, place)
    os.kill(gateway.process.pid, signal.SIGUSR1)
    assert gateway.connect().open()
    assert gateway.stop() == 0


def test_what_holds_passwords_leaves_no_core_and_takes_no_more_than_its_share(
    gateway: RunningGateway,
) -> None:
    client = gateway.connect()
    client.open()
    report = json.loads(gateway.cli("status", "--output", "json"))
    [worker] = [c["worker"]["pid"] for c in report["clients"] if c["client_pid"] == os.getpid()][
        -1:
    ]
    agents = [
        pid for pid in processes_of(gateway.site.home)
        if "orchestrator.agent" in Path(f"/proc/{pid}/cmdline").read_text()
    ]  # fmt: skip
    assert len(agents) >= 2
    for pid in (gateway.process.pid, worker, *agents):
        assert limit(pid, "Max core file size") == "0"
    assert limit(worker, "Max data size") == str(WORKER_BYTES_MAX)


def limit(pid: int, name: str) -> str:
    [line] = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if name in x]
    return line.removeprefix(name).split()[0]


def test_the_socket_is_its_owners_or_its_groups(site: Site, place: Path) -> None:
    gateway = RunningGateway(site, place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    with pytest.raises(AssertionError, match="listens at"):
        RunningGateway(site, place)
    gateway.stop()
    gateway = RunningGateway(site, place, "--group", str(os.getgid()))
    assert stat.S_IMODE(place.stat().st_mode) == 0o660
    status = place.with_name(place.name + ".status")
    assert stat.S_IMODE(status.stat().st_mode) == 0o600
    gateway.stop()
    place.parent.chmod(0o777)
    with pytest.raises(AssertionError, match="changed by others"):
        RunningGateway(site, place)
    place.parent.chmod(0o700)
    with pytest.raises(AssertionError, match="107"):
        RunningGateway(site, place.parent / ("x" * 110))
    with pytest.raises(AssertionError, match="no-such-user"):
        RunningGateway(site, place, "--allow-user", "no-such-user")


def test_peers_that_no_rule_names_get_no_byte(site: Site, place: Path) -> None:
    gateway = RunningGateway(site, place, "--allow-user", "65533", "--allow-group", "65533")
    sock = gateway.dial()
    assert sock.recv(1) == b""
    report = json.loads(gateway.cli("status", "--output", "json"))
    assert (report["refused"], report["served"]) == (1, 0)
    gateway.stop()
    gateway = RunningGateway(site, place, "--allow-group", str(os.getgid()))
    assert gateway.connect().open()
    gateway.stop()


def test_a_client_beyond_the_limit_waits_for_a_place(site: Site, place: Path) -> None:
    gateway = RunningGateway(site, place, "--workers", "1")
    first = gateway.connect()
    second = gateway.dial()
    second.sendall(b"\0")
    second.settimeout(0.5)
    with pytest.raises(TimeoutError):
        second.recv(1)
    first.sock.close()
    second.settimeout(20)
    assert second.recv(1) == b"\0"
    gateway.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")
def test_one_user_does_not_take_the_places_of_others(site: Site) -> None:
    with sources.directory() as work:  # one that other users can enter
        gateway = RunningGateway(site, work / "s", "--clients-per-user", "2")
        (work / "s").chmod(0o666)
        with as_user(65533):
            first, second = gateway.connect(), gateway.connect()
            for _ in range(20):
                assert gateway.dial().recv(1) == b""
        with as_user(65532):
            assert gateway.connect().open()
        assert gateway.connect().open()  # of root
        assert first.open()
        assert second.open()
        report = json.loads(gateway.cli("status", "--output", "json"))
        assert (report["refused"], report["served"]) == (20, 4)
        [line] = [x for x in gateway.log.read_text().splitlines() if "refused" in x]
        assert "uid 65533" in line
        assert "clients of this user: 2" in line
        assert "--clients-per-user" in line
        first.sock.close()
        eventually(
            lambda: len(json.loads(gateway.cli("status", "--output", "json"))["clients"]) < 4
        )
        with as_user(65533):
            assert gateway.connect().open()
            assert gateway.dial().recv(1) == b""
        gateway.stop()


def test_neither_idle_nor_unreading_clients_hold_up_others(gateway: RunningGateway) -> None:
    idle = [gateway.dial() for _ in range(40)]
    deaf = gateway.connect()
    deaf.sock.settimeout(1)
    body = w.u32(3) + w.counted(b"")
    frame = w.u32(7) + w.u32(0) + w.u32(len(body)) + body
    with pytest.raises(TimeoutError):  # its answers are not read, so its requests no longer are
        deaf.sock.sendall(frame * 500_000)
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN.encode())
    assert client.call(64, "ufy", w.u64(session) + w.u32(16)).bytes_()
    for sock in idle:
        sock.close()
    deaf.sock.close()
    client.sock.close()

    def gone() -> bool:
        return len(json.loads(gateway.cli("status", "--output", "json"))["clients"]) < 5

    eventually(gone, 20)


def test_systemd_passes_the_socket(site: Site, place: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()
    starter = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}; "
        "os.execv(sys.executable, [sys.executable, '-m', 'orchestrator', *sys.argv[2:]])"
    )
    words = ["gateway", "run", "--cluster-id", site.cluster]
    process = subprocess.Popen(
        [sys.executable, "-c", starter, str(listener.fileno()), *words],
        pass_fds=[listener.fileno()],
        env=site.environment,
        stderr=subprocess.DEVNULL,
    )
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(place))  # before the gateway is ready: the socket is there
    client = w.Client(sock, 1)
    assert client.open()
    process.terminate()
    assert process.wait(20) == 0
    assert place.exists()  # it is systemd's
    assert client.open()
    sock.close()
    listener.close()


def test_no_password_in_the_log_or_in_any_command_line(gateway: RunningGateway) -> None:
    client = gateway.connect()
    client.login(client.open(), PIN.encode())
    secret = PIN.partition(":")[2].encode()
    assert secret not in gateway.log.read_bytes()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"gateway" in words and b"orchestrator" in words:
            assert secret not in words
