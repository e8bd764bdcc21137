"""Files that commands read and write: written whole, never over something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.wire.files import publish

_READ_BYTES_MAX: Final = 64 * 1024 * 1024


def read(path: Path) -> bytes:
    """Read a file that the caller named."""
    try:
        with path.open("rb") as file:
            content = file.read(_READ_BYTES_MAX + 1)  # a pipe or a device does not tell its size
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > _READ_BYTES_MAX:
        raise UsageError(f"{path} exceeds {_READ_BYTES_MAX} bytes")
    return content


def create(path: Path, *, mode: int) -> int:
    """Create `path`, empty, and return its descriptor; what is there already stays."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as exc:
        raise RefusedError("file-exists", f"{path} exists already; it is left as it is") from exc
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc


def write_and_close(descriptor: int, content: bytes) -> None:
    """Write what `create` opened, durably."""
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_new(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file that does not exist yet; on failure none is left behind."""
    descriptor = create(path, mode=mode)
    try:
        write_and_close(descriptor, content)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """Give a new file to write to, mode 0600; on failure none is left behind."""
    descriptor = create(path, mode=0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as exc:
        path.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
        raise


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all."""
    try:
        publish(path.absolute(), content)
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc


def renew(path: Path, content: bytes) -> None:
    """Write a token file, perhaps over an earlier one, but over no key that was named by mistake.

    Raises:
        RefusedError: `file-exists`, what is there is no JSON.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            is_ours = file.read(1) in {b"{", b""}
    except FileNotFoundError:
        is_ours = True
    except OSError:
        is_ours = False
    if not is_ours:
        raise RefusedError("file-exists", f"{path} is no token file; it is left as it is")
    replace(path, content)
