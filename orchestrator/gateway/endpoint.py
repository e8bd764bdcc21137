"""The socket that applications connect to: made here, or handed over by systemd."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from orchestrator.gateway.report import read_status
from orchestrator.model.errors import RefusedError, UnavailableError, UsageError
from orchestrator.wire.streams import dial, listen

PATH_BYTES_MAX: Final = 107
"""Of a socket's address; p11-kit's client cuts a longer path off without a word."""
BACKLOG: Final = 1024
_DIAL_S: Final = 1.0
_FIRST_PASSED: Final = 3  # sd_listen_fds(3)
_log = logging.getLogger("cloister.gateway")


def address(path: Path) -> str:
    """Return what P11_KIT_SERVER_ADDRESS must be."""
    return f"unix:path={quote(str(path))}"


def check_path(path: Path) -> Path:
    """Return the path, absolute, or raise UsageError where clients could not use it."""
    path = path.absolute()
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise UsageError(
            f"socket {path}: a path has at most {PATH_BYTES_MAX} bytes, PKCS#11 clients cut longer "
            "ones off; give a shorter one with --socket"
        )
    return path


def passed_socket(environment: Mapping[str, str], pid: int) -> socket.socket | None:
    """Return the listening socket that systemd has passed; None when there is none."""
    if environment.get("LISTEN_PID") != str(pid):
        return None
    if environment.get("LISTEN_FDS") != "1":
        raise UsageError("a gateway takes one socket: have one ListenStream= in the unit")
    os.set_inheritable(_FIRST_PASSED, False)
    sock = socket.socket(fileno=_FIRST_PASSED)
    is_stream = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    if not is_stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError("the socket passed by systemd is no listening unix stream socket")
    return sock


def open_socket(path: Path, group: int | None) -> socket.socket:
    """Listen at `path`: mode 0600, or 0660 for a group.

    Raises:
        RefusedError: another program listens there, others may change the directory, or nobody
            can listen there.
    """
    _check_directory(path.parent, group)
    _check_unused(path)
    sock = listen_at(path)
    if group is not None:
        try:
            _give(path, group, 0o660)
        except RefusedError:
            sock.close()
            path.unlink()
            raise
        if (closed := _closed_to(group, path)) is not None:
            _log.warning(
                "members of group %d cannot enter %s, and so cannot connect; choose another place "
                "with --socket",
                *(group, closed),
            )
    return sock


def listen_at(path: Path) -> socket.socket:
    """Listen at `path`; raise RefusedError where that cannot be."""
    try:
        return listen(path, BACKLOG)
    except OSError as exc:
        raise _unusable(path, exc) from exc


def _check_unused(path: Path) -> None:
    """Raise RefusedError where somebody listens, or something lies: only a dead socket goes."""
    try:
        running = read_status(path)
    except UnavailableError:
        pass
    else:
        raise RefusedError(
            "gateway-running", f"gateway {running.pid} listens at {path}; stop it first"
        )
    if path.exists() and not path.is_socket():
        raise RefusedError(
            "gateway-socket", f"{path} is there, and is no socket; choose another with --socket"
        )
    try:
        dial(path, _DIAL_S).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except OSError as exc:  # another user's, say
        raise _unusable(path, exc) from exc
    raise RefusedError(
        "gateway-socket", f"another program listens at {path}; choose another with --socket"
    )


def _check_directory(directory: Path, group: int | None) -> None:
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            if group is not None:
                try:
                    _give(directory, group, 0o750)
                except RefusedError:
                    directory.rmdir()
                    raise
        found = directory.stat()
    except OSError as exc:
        raise _unusable(directory, exc) from exc
    if found.st_uid not in {0, os.geteuid()} or stat.S_IMODE(found.st_mode) & 0o022:
        raise RefusedError(
            "gateway-directory",
            f"{directory} can be changed by others, who could put a socket of their own there and "
            "read passwords; give --socket in a directory that only root and you can change",
        )


def _give(path: Path, group: int, mode: int) -> None:
    """Open a path to a group."""
    try:
        os.chown(path, -1, group)
    except PermissionError as exc:
        raise RefusedError(
            "gateway-group",
            f"uid {os.geteuid()} is no member of group {group}, and cannot open {path} to it; make "
            "it one and log in again, or have systemd make the socket (docs/gateway.md)",
        ) from exc
    path.chmod(mode)


def _closed_to(group: int, path: Path) -> Path | None:
    """Return a directory on the way to `path` whose mode keeps a group's members out."""
    for directory in path.parents:
        found = directory.stat()
        if not found.st_mode & (0o010 if found.st_gid == group else 0o001):
            return directory
    return None


def _unusable(path: Path, error: OSError) -> RefusedError:
    return RefusedError(
        "gateway-socket",
        f"{path} cannot be used: {error.strerror or error}; choose another with --socket",
    )
