"""Every HSM is killed and restarted in turn under load: applications see no error.

`INTEROP_CHAOS_S` is how long; 60 is what the gateway is held to, the default suits a quick run.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.pkcs11.driver import Driver
from tests.interop.address import Hsms, TokenAddress
from tests.interop.test_java import EC, PROGRAMS, configuration, delete_entry, make_entry
from tests.interop.test_openssl import certificate
from tests.interop.tls_servers import TlsLoad, TlsServer

CHAOS_S = float(os.environ.get("INTEROP_CHAOS_S", "12"))
pytestmark = [
    *(pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine),
    *(pytest.mark.cc, pytest.mark.gateway_only, pytest.mark.timeout(120 + 2 * CHAOS_S)),
]


class Chaos:
    """Kills the HSMs in turn, one every 2 s, and starts each again before the next."""

    def __init__(self, hsms: Hsms) -> None:
        self.hsms, self.kills, self.failure = hsms, 0, ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._end.wait(1):
                number = self.kills % self.hsms.count
                self.hsms.kill(number)
                self.kills += 1
                self._end.wait(1)
                self.hsms.start(number)
        except Exception as exc:  # noqa: BLE001  # told by `__exit__`
            self.failure = repr(exc)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)
        assert self.failure == ""


@contextmanager
def java_load(token: TokenAddress) -> Iterator[subprocess.Popen[bytes]]:
    """Eight threads of Java, in the token's directory."""
    make_entry(token, "java", *EC)
    token.run("javac", "-d", token.work, PROGRAMS / "Load.java")
    words = ("java", "-cp", str(token.work), "Load", str(configuration(token)), "java")
    with subprocess.Popen(
        [*words, str(CHAOS_S)],
        cwd=token.work,
        env=token.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            delete_entry(token, "java")


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


@pytest.mark.nginx
def test_nginx_and_pkcs11_see_no_error(token: TokenAddress, driver: Driver) -> None:
    assert token.hsms is not None
    token.make_pair("web")
    token.make_pair("p256")
    certificate(token, "web")
    began = time.monotonic()
    with TlsServer(token, "nginx", "web") as server, Chaos(token.hsms) as chaos:
        with TlsLoad(server) as load:
            process = driver.start(token.module, "p256", CHAOS_S, token.environment(), threads=4)
            time.sleep(CHAOS_S / 2)
            server.reload()
            figures = driver.read(process)
        assert load.failures == []
        assert load.served > CHAOS_S
        assert figures["failures"] == 0
        assert figures["ops"] > 1
    assert chaos.kills >= int((time.monotonic() - began) / 4)
    token.delete("web")
    token.delete("p256")


@pytest.mark.java
def test_java_sees_no_error(token: TokenAddress) -> None:
    assert token.hsms is not None
    with java_load(token) as process, Chaos(token.hsms) as chaos:
        out, err = process.communicate(timeout=60 + CHAOS_S)
        assert err.decode().splitlines() == []
        signatures, blocks, errors = map(int, re.findall(r"\d+", out.decode()))
        assert errors == 0
        assert min(signatures, blocks) > CHAOS_S
    assert chaos.kills >= 2
    token.pkcs11_tool("--list-objects")
