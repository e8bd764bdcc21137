"""What is measured beside what: the gateway, p11-kit's server on SoftHSM, SoftHSM in process."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.pkcs11.driver import Driver
from benchmarks.site import Site
from orchestrator.control.profiles import load_profiles

SLOW: Final = Path(__file__).with_name("slow.c")
START_TIMEOUT_S: Final = 30


def client() -> Path:
    """Return p11-kit's client module."""
    found = sorted(Path("/usr/lib").glob("*-linux-gnu*/pkcs11/p11-kit-client.so"))
    if not found:
        raise RuntimeError("p11-kit-client.so is missing: `make applications`")
    return found[0]


def softhsm() -> Path:
    """Return SoftHSM's module."""
    modules = load_profiles()["hsm2m.medium"].modules
    return next(Path(module) for module in modules if Path(module).exists())


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """A module and the environment that leads it to a token with the keys `rsa` and `p256`."""

    name: str
    module: Path
    env: Mapping[str, str]


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not serve")
        time.sleep(0.02)


@contextmanager
def baselines(directory: Path, driver: Driver) -> Iterator[tuple[Source, Source]]:
    """SoftHSM itself and p11-kit's server, on one token."""
    (directory / "tokens").mkdir(parents=True)
    conf = directory / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n")
    pin = f"user:{secrets.token_urlsafe(12)}"
    env = {"PATH": os.environ["PATH"], "SOFTHSM2_CONF": str(conf), "TOKEN_PIN": pin}
    words = ["--init-token", "--free", "--label", "bench", "--so-pin", secrets.token_hex(8)]
    subprocess.run(  # noqa: S603
        ["softhsm2-util", *words, "--pin", pin],  # noqa: S607
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    direct = Source("direct", softhsm(), env)
    driver.make_keys(direct.module, direct.env)
    socket = directory / "stock"
    words = ["--foreground", "--provider", str(softhsm()), "--name", str(socket)]
    server = subprocess.Popen(  # noqa: S603
        ["p11-kit", "server", *words, "pkcs11:token=bench"],  # noqa: S607
        env=env,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(socket, server)
        there = {"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}", "TOKEN_PIN": pin}
        yield direct, Source("stock", client(), {"PATH": env["PATH"], **there})
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


@contextmanager
def gateway(site: Site, name: str = "gateway") -> Iterator[Source]:
    """`cloister gateway run` in front of a site."""
    socket = site.home / "gw"
    words = ("--socket", str(socket), "--cluster-id", site.cluster)
    server = subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "orchestrator", "gateway", "run", *words],
        env={**os.environ, "CLOISTER_HOME": str(site.home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(socket, server)
        pin = f"user:{site.password.decode()}"
        there = {"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}", "TOKEN_PIN": pin}
        yield Source(name, client(), {"PATH": os.environ["PATH"], **there})
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)


@contextmanager
def slow_tokens(directory: Path) -> Iterator[None]:
    """Labs that start meanwhile have tokens of 4 ms a signature, one at a time."""
    directory.mkdir()
    shutil.copy(Path(__file__).with_name("slow_token") / "sitecustomize.py", directory)
    words = ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-I/usr/include/p11-kit-1"]
    subprocess.run(  # noqa: S603
        [*words, "-o", str(directory / "slow.so"), str(SLOW)],
        check=True,
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(directory)  # a lab's agents inherit it
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
