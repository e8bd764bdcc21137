"""Debian 13's programs beside Debian 12's: fetched by apt, unpacked, run by their own loader.

No root, no chroot: nothing is installed, and no package's scripts run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.address import LABEL, PIN, TokenAddress, eventually
from tests.interop.sources import directory

CLIENT: Final = ("opensc", "p11-kit-modules", "openssl", "pkcs11-provider", "bind9-utils")
SERVER: Final = ("p11-kit", "softhsm2")
PROVIDER: Final = """openssl_conf = start
[start]
providers = list
[list]
default = builtin
pkcs11 = token
[builtin]
activate = 1
[token]
module = {provider}
pkcs11-module-path = {client}
activate = 1
"""


@dataclass(frozen=True)
class Debian13:
    """An unpacked tree of Debian 13's packages."""

    root: Path

    def library(self, name: str) -> Path:
        """Find a library by the end of its path."""
        (found,) = self.root.glob(f"usr/lib/*-linux-gnu/{name}")
        return found

    @property
    def tool(self) -> tuple[str, ...]:
        """OpenSC's tool with p11-kit's client."""
        client = self.library("pkcs11/p11-kit-client.so")
        return (*self.program("bin/pkcs11-tool"), "--module", str(client))

    def program(self, name: str) -> list[str]:
        """Return the words that run a program with the libraries of its own release."""
        (loader,) = (*self.root.glob("usr/lib64/ld-linux*"), *self.root.glob("usr/lib/ld-linux*"))
        libraries = self.library("libc.so.6").parent
        return [str(loader), "--library-path", str(libraries), str(self.root / "usr" / name)]


def fetch(root: Path, packages: tuple[str, ...]) -> Debian13:
    """Fetch packages and all that they need from the mirror that this machine uses."""
    words = ("--format", "$(REPO_URI)", "Codename: bookworm", "Created-By: Packages")
    listed = subprocess.run(["apt-get", "indextargets", *words], capture_output=True, check=True)
    mirror = listed.stdout.decode().splitlines()[0]
    for part in ("lists/partial", "cache/archives/partial", "tree"):
        (root / part).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (root / "sources.list").write_text(f"deb [signed-by={keys}] {mirror} trixie main\n")
    (root / "status").touch()  # nothing is installed there: all dependencies come along
    options = {
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": root / "lists",
        "Dir::State::Status": root / "status",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True, timeout=100)
    fetch_only = ("install", "--yes", "--download-only", "--no-install-recommends")
    subprocess.run([*apt, *fetch_only, *packages], check=True, timeout=200)
    for package in (root / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root / "tree"], check=True)
    return Debian13(root / "tree")


@contextmanager
def stock(debian: Debian13) -> Iterator[TokenAddress]:
    """Debian 13's own p11-kit server, on a SoftHSM token of its own."""
    with directory() as work:
        (work / "tokens").mkdir(mode=0o700)
        conf = work / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {work / 'tokens'}\nobjectstore.backend = file\n")
        env = {**os.environ, "SOFTHSM2_CONF": str(conf)}
        (library,) = debian.root.glob("usr/lib/softhsm/libsofthsm2.so")
        words = ["--module", str(library), "--init-token", "--free", "--label", LABEL]
        init = [*debian.program("bin/softhsm2-util"), *words, "--so-pin", "so-pin", "--pin", PIN]
        subprocess.run(init, env=env, check=True, capture_output=True)
        helper = work / "p11-kit-remote"  # the server runs one per connection
        helper.touch(0o755)
        words = debian.program("libexec/p11-kit/p11-kit-remote")
        helper.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        env["P11_KIT_PRIVATEDIR"] = str(work)
        socket = work / "socket"
        words = ["--foreground", "--provider", str(library), "--name", str(socket)]
        server = subprocess.Popen(
            [*debian.program("libexec/p11-kit/p11-kit-server"), *words, f"pkcs11:token={LABEL}"],
            env=env,
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually(socket.exists)
            yield TokenAddress(socket, work, "stock", server.pid)
        finally:
            server.terminate()
            server.wait(10)
