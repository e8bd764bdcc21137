"""Where applications find a token, and how the tests run them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

USER: Final = "alice"
PASSWORD: Final = (
    "correct:horse-1"  # the first colon of a PIN splits; later ones are the password's
)
PIN: Final = f"{USER}:{PASSWORD}"
LABEL: Final = "interop"
NOTHING: Final[Mapping[str, str]] = {}


def first_of(name: str) -> Path:
    """Return where Debian keeps this library, on whatever architecture."""
    found = sorted(Path("/usr/lib").glob(f"*-linux-gnu*/{name}"))
    return found[0] if found else Path("/usr/lib") / name


CLIENT: Final = first_of("pkcs11/p11-kit-client.so")


class Hsms(Protocol):
    """The HSMs behind a token, to be killed and started by number."""

    count: int

    def kill(self, number: int) -> None:
        """End one with SIGKILL."""

    def start(self, number: int) -> None:
        """Start it; return when it answers."""


@dataclass(frozen=True)
class TokenAddress:
    """A socket that speaks p11-kit's protocol, with one token behind it."""

    socket: Path
    work: Path  # files of the tests; open to other users, as Apache's workers need
    source: str
    server_pid: int
    hsms: Hsms | None = None
    module: Path = CLIENT
    tool: tuple[str, ...] = ("pkcs11-tool", "--module", str(CLIENT))
    log: Path | None = None
    made: set[str] = field(default_factory=set)  # labels of key pairs, until deleted

    @property
    def pin_file(self) -> Path:
        """The PIN in a file, for URIs with `pin-source`."""
        path = self.work / "pin"
        if not path.exists():
            path.touch(0o600)
            path.write_text(PIN)
        return path

    def environment(self, more: Mapping[str, str] = NOTHING) -> dict[str, str]:
        """Nothing of the caller's: above all no other way to a token."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.work),
            "P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}",
            "PKCS11_MODULE_PATH": str(self.module),  # what OpenSSL's engine loads
            "TOKEN_PIN": PIN,
            **more,
        }

    def uri(self, label: str, kind: str = "private") -> str:
        """Name a key as applications do, with the PIN in a file."""
        return f"pkcs11:object={label};type={kind};pin-source=file:{self.pin_file}"

    def run(
        self,
        *words: str | Path,
        stdin: bytes = b"",
        timeout_s: float = 60,
        env: Mapping[str, str] = NOTHING,
    ) -> bytes:
        """Run a program in the tests' directory; return what it printed, or fail with all of it."""
        done = self.attempt(*words, stdin=stdin, timeout_s=timeout_s, env=env)
        assert done.returncode == 0, f"{words}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout

    def attempt(
        self,
        *words: str | Path,
        stdin: bytes = b"",
        timeout_s: float = 60,
        env: Mapping[str, str] = NOTHING,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program that may fail."""
        return subprocess.run(
            [str(word) for word in words],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            cwd=self.work,
            env=self.environment(env),
            check=False,
        )

    def pkcs11_tool(self, *words: str | Path, stdin: bytes = b"") -> bytes:
        """Run OpenSC's tool, logged in."""
        return self.run(*self.pkcs11_words, *words, stdin=stdin)

    @property
    def pkcs11_words(self) -> tuple[str, ...]:
        """Begin a command of OpenSC's tool."""
        return (*self.tool, "--login", "--pin", "env:TOKEN_PIN")

    def make_pair(self, label: str, kind: str = "EC:prime256v1", usage: str = "sign") -> None:
        """Make a key pair, as an administrator would with OpenSC's tool; CKA_ID is the label."""
        self.made.add(label)
        words = ("--keypairgen", "--key-type", kind, f"--usage-{usage}", "--sensitive")
        self.pkcs11_tool(*words, "--label", label, "--id", label.encode().hex())

    def delete(self, label: str, *kinds: str) -> None:
        """Destroy objects by label."""
        for kind in kinds or ("privkey", "pubkey"):
            self.pkcs11_tool("--delete-object", "--type", kind, "--label", label)
        self.made.discard(label)

    def public_key(self, label: str) -> Path:
        """Fetch a public key, as PEM."""
        pem = self.work / f"{label}.pub"
        words = ("-engine", "pkcs11", "-inform", "engine", "-pubin", "-in")
        self.run("openssl", "pkey", *words, self.uri(label, "public"), "-pubout", "-out", pem)
        return pem


def eventually(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something, with a deadline."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Daemon:
    """A program that runs until the block ends; its output in a file."""

    def __init__(
        self,
        token: TokenAddress,
        words: Sequence[str | Path],
        log: Path,
        env: Mapping[str, str] = NOTHING,
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=token.work,
                env=token.environment(env),
                start_new_session=True,
            )

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Wait until it serves; fail with its log when it ends instead."""

        def is_so() -> object:
            assert self.process.poll() is None, self.log.read_text()
            return holds()

        eventually(is_so)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
