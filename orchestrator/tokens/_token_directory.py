"""A SoftHSM token's directory: configuration, PIN, objects, and what makes a crash harmless.

softhsm2.conf   where the objects are
pin             the user PIN, mode 0600: whoever reads it and `tokens/` has the keys
tokens/         SoftHSM's own; it writes in place and never calls fsync, so we do
token.object    copy of the token's own record, which SoftHSM rewrites in place at every log-in
ready           written last: without it the directory is half made, and `create` starts again
lock            held while a process has the token open
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from orchestrator.model.errors import RefusedError
from orchestrator.tokens._pkcs11_library import Pin
from orchestrator.tokens.store import TokenError

_CONF: Final = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""
_NAMES: Final = ("ready", "pin", "token.object", "softhsm2.conf")
_PATH_BYTES_MAX: Final = 900  # SoftHSM cuts lines of its configuration at 1023 bytes


class TokenDirectory:
    """The files of one token; `lock` comes first."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        if set(str(self.path)) & set("#=\r\n") or len(os.fsencode(self.path)) > _PATH_BYTES_MAX:
            raise RefusedError(
                "token-directory",
                f"{self.path!r}: SoftHSM takes paths of up to {_PATH_BYTES_MAX} bytes without "
                "'#', '=' and line breaks",
            )
        self.conf, self.tokens = self.path / "softhsm2.conf", self.path / "tokens"
        self._pin, self._ready = self.path / "pin", self.path / "ready"
        self._copy = self.path / "token.object"
        self._lock_fd = -1

    def lock(self) -> None:
        """Hold the directory for this process; raise TokenError when another one has it."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(fd)
            raise TokenError(f"another process has the token in {self.path} open") from exc
        self._lock_fd = fd

    def unlock(self) -> None:
        """Give the directory back. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def make(self) -> Pin:
        """Make the directory, or clear a half-made one, and lock it; return the new PIN."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.lock()
        if self._ready.exists():
            raise RefusedError("exists", f"{self.path} holds a token already; open it, or erase it")
        self._clear()
        self.tokens.mkdir(mode=0o700)
        _write(self.conf, _CONF.format(tokens=self.tokens).encode())
        pin = Pin(secrets.token_urlsafe(24))
        _write(self._pin, pin.value.encode())
        return pin

    def mark_ready(self) -> None:
        """Make everything durable, then say that the token is whole."""
        _write(self._copy, self._token_object().read_bytes())
        self.sync()
        _write(self._ready, b"1\n")
        fsync_directory(self.path)
        fsync_directory(self.path.parent)

    def reopen(self) -> Pin:
        """Check and mend the files before SoftHSM reads them; return the PIN."""
        if not self._ready.exists():
            raise TokenError(f"{self.path} holds no whole token; create it again")
        try:
            record, copy = self._token_object(), self._copy.read_bytes()
            for stale in self.tokens.glob("*/*.object"):
                if stale != record and stale.stat().st_size == 0:  # a creation cut off by kill -9
                    stale.unlink()
            if not record.exists() or record.read_bytes() != copy:
                draft = record.with_suffix(".draft")
                _write(draft, copy)
                draft.replace(record)
                fsync_directory(record.parent)
            return Pin(self._pin.read_text())
        except OSError as exc:
            raise TokenError(f"the token in {self.path} lacks a file: {exc}") from exc

    def sync(self) -> None:
        """Make every file and directory of the token durable."""
        try:
            for directory, _, names in os.walk(self.tokens, topdown=False):
                for name in names:
                    _fsync(Path(directory, name), os.O_RDONLY)
                fsync_directory(Path(directory))
            fsync_directory(self.path)
        except OSError as exc:
            raise TokenError(f"the token in {self.path} could not be made durable: {exc}") from exc

    def forget(self) -> None:
        """Say that the token is no longer whole; durable on return."""
        self._ready.unlink(missing_ok=True)
        fsync_directory(self.path)

    def remove(self) -> None:
        """Remove every file of the token; durable on return."""
        self._clear()
        fsync_directory(self.path)

    def _clear(self) -> None:
        for name in _NAMES:
            (self.path / name).unlink(missing_ok=True)
        if self.tokens.exists():
            shutil.rmtree(self.tokens)

    def _token_object(self) -> Path:
        directories = [entry for entry in self.tokens.iterdir() if entry.is_dir()]
        if len(directories) != 1:
            raise TokenError(f"{self.tokens} holds {len(directories)} tokens, not 1")
        return directories[0] / "token.object"


def fsync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
