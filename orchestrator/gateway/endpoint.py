"""The socket that applications connect to: made here, or handed over by systemd."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from orchestrator.gateway.report import read_status
from orchestrator.model.errors import RefusedError, UnavailableError, UsageError
from orchestrator.wire.streams import listen

PATH_BYTES_MAX: Final = 107
"""Of a socket's address; p11-kit's client cuts a longer path off without a word."""
BACKLOG: Final = 1024
_FIRST_PASSED: Final = 3  # sd_listen_fds(3)


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
        RefusedError: another gateway listens there, or others may change the directory.
    """
    _check_directory(path.parent, group)
    try:
        running = read_status(path)
    except UnavailableError:
        pass
    else:
        raise RefusedError(
            "gateway-running", f"gateway {running.pid} listens at {path}; stop it first"
        )
    sock = listen(path, BACKLOG)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o660)
    return sock


def _check_directory(directory: Path, group: int | None) -> None:
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
        if group is not None:
            os.chown(directory, -1, group)
            directory.chmod(0o750)
    found = directory.stat()
    if found.st_uid not in {0, os.getuid()} or stat.S_IMODE(found.st_mode) & 0o022:
        raise RefusedError(
            "gateway-directory",
            f"{directory} can be changed by others, who could put a socket of their own there and "
            f"read passwords; `chmod go-w {directory}`, or choose another with --socket",
        )
