"""OpenSSH: keys listed, a log-in with the token, and an agent that holds it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.address import PIN, Daemon, TokenAddress
from tests.interop.tls_servers import free_port

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.ssh]


def asking(token: TokenAddress) -> dict[str, str]:
    """Let OpenSSH's programs ask a program for the PIN: there is no terminal."""
    program = token.work / "askpass"
    program.touch(0o700)
    program.write_text(f"#!/bin/sh\necho '{PIN}'\n")
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}


def listed(token: TokenAddress, comment: str) -> bytes:
    """Return the one public key that ssh-keygen sees under this label."""
    lines = token.run("ssh-keygen", "-D", token.module, env=asking(token)).splitlines()
    found = [line for line in lines if line.endswith(comment.encode())]
    assert len(found) == 1, lines
    return found[0]


@contextmanager
def server(token: TokenAddress, authorized: bytes) -> Iterator[tuple[str, ...]]:
    """Run sshd on loopback; give the words that log in there."""
    port, host_key = free_port(), token.work / "host_key"
    if not host_key.exists():
        token.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key)
    keys = token.work / "authorized_keys"
    keys.write_bytes(authorized + b"\n")
    keys.chmod(0o644)
    config = token.work / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nAuthorizedKeysFile {keys}\n"
        "StrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it

    def accepts() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    with Daemon(token, ["/usr/sbin/sshd", "-D", "-e", "-f", config], token.work / "sshd.log") as it:
        it.wait_until(accepts)
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentityFile=none")
        words = tuple(word for option in options for word in ("-o", option))
        yield ("ssh", "-F", "none", "-p", str(port), *words, f"{getpass.getuser()}@127.0.0.1")


@pytest.mark.parametrize("kind", ["rsa:2048", "EC:prime256v1"])
def test_a_log_in_with_the_token(token: TokenAddress, kind: str) -> None:
    token.make_pair("door", kind)
    with server(token, listed(token, "door")) as words:
        more = ("-o", f"PKCS11Provider={token.module}")
        said = token.run(*words[:-1], *more, words[-1], "echo came in", env=asking(token))
    assert said == b"came in\n"
    token.delete("door")


def test_an_agent_holds_the_token(token: TokenAddress) -> None:
    token.make_pair("door")
    agent = str(token.work / "agent")
    words: list[str | Path] = ["ssh-agent", "-D", "-a", agent]
    env = {"SSH_AUTH_SOCK": agent}
    with Daemon(token, words, token.work / "agent.log") as running:
        running.wait_until(Path(agent).exists)
        token.run("ssh-add", "-s", token.module, env=env | asking(token))
        shown = token.run("ssh-add", "-L", env=env)
        assert listed(token, "door").split()[1] in shown
        with server(token, listed(token, "door")) as login:
            for _ in range(3):
                assert token.run(*login, "echo came in", env=env) == b"came in\n"
        token.run("ssh-add", "-e", token.module, env=env)
        assert token.attempt("ssh-add", "-L", env=env).returncode != 0
    token.delete("door")
