"""Unix sockets whose path may be longer than the 107 bytes that `sockaddr_un` holds."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a short name for `path`: through the open directory in /proc."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path, backlog: int = 128) -> socket.socket:
    """Listen at `path` (mode 0600), replacing a dead socket of an earlier process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        if path.is_socket():  # any other file is somebody's: binding fails
            path.unlink(missing_ok=True)
        with _short(path) as name:
            sock.bind(name)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(old)
    return sock


def dial(path: Path, timeout_s: float) -> socket.socket:
    """Connect to a listener; raise OSError when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        with _short(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def limit_waits(sock: socket.socket, *, send_s: float, receive_s: float = 0.0) -> None:
    """Make a blocking socket raise BlockingIOError when nothing moves for so long; 0: never.

    The kernel's own timeouts: Python's cost a poll before every call, and are of the whole socket.
    """
    for option, limit_s in ((socket.SO_SNDTIMEO, send_s), (socket.SO_RCVTIMEO, receive_s)):
        seconds, rest = divmod(limit_s, 1)
        timeval = struct.pack("ll", int(seconds), int(rest * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, option, timeval)


def peer_uid(sock: socket.socket) -> int:
    """Return the Unix user of the other end, as the kernel saw it connect."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
