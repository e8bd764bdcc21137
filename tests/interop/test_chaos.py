"""Every HSM is killed and restarted in turn under load: applications see no error.

`INTEROP_CHAOS_S` is how long; 60 is what the gateway is held to, the default suits a quick run.
`--log-cli-level=INFO` shows what was done meanwhile.
"""

from __future__ import annotations

import logging
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
_log = logging.getLogger(__name__)
pytestmark = [
    *(pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine),
    *(pytest.mark.cc, pytest.mark.gateway_only, pytest.mark.timeout(120 + 2 * CHAOS_S)),
]


class Chaos:
    """Kills the HSMs in turn, one every 2 s; each is down for 1 s, and serves before the next."""

    def __init__(self, hsms: Hsms) -> None:
        self.hsms, self.kills, self.failure = hsms, 0, ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._end.wait(began + 2 * (self.kills + 1) - time.monotonic()):
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


@pytest.mark.nginx
@pytest.mark.java
def test_nginx_java_and_pkcs11_see_no_error(token: TokenAddress, tmp_path: Path) -> None:
    """All at once: what one of them does to an HSM that has just come back is no other's error."""
    assert token.hsms is not None
    driver = Driver(tmp_path)
    token.make_pair("web")
    token.make_pair("p256")
    certificate(token, "web")
    with TlsServer(token, "nginx", "web") as server, java_load(token) as java:
        began = time.monotonic()
        with Chaos(token.hsms) as chaos, TlsLoad(server) as load:
            process = driver.start(token.module, "p256", CHAOS_S, token.environment(), threads=4)
            time.sleep(CHAOS_S / 2)
            server.reload()
            figures = driver.read(process)
            out, err = java.communicate(timeout=60 + CHAOS_S)
        lasted_s = time.monotonic() - began
    signatures, blocks, errors = map(int, re.findall(r"\d+", out.decode()))
    _log.info(
        "%.0f s, %d kills: nginx served %d pages; Java %d signatures, %d blocks; driver %s",
        *(lasted_s, chaos.kills, load.served, signatures, blocks, figures),
    )
    assert load.failures == []
    assert load.served > CHAOS_S
    assert figures["failures"] == 0
    assert figures["ops"] > 1
    assert err.decode().splitlines() == []
    assert errors == 0
    assert min(signatures, blocks) > CHAOS_S
    assert chaos.kills >= int(lasted_s / 4)
    token.pkcs11_tool("--list-objects")
    token.delete("web")
    token.delete("p256")
