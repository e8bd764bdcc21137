"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from orchestrator.model.errors import StorageError


def publish(path: Path, content: bytes) -> None:
    """Write `path`, mode 0600. After power loss a reader finds old bytes or new.

    Raises:
        StorageError: it cannot be written; what was there stays, and no draft.
    """
    draft_path: Path | None = None
    with _writing(path):
        try:
            with NamedTemporaryFile(dir=path.parent, prefix=".draft-", delete=False) as draft:
                draft_path = Path(draft.name)
                draft.write(content)
                draft.flush()
                os.fsync(draft.fileno())
            draft_path.replace(path)
        except OSError:
            if draft_path is not None:
                draft_path.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def make_directory(path: Path, *, parents: bool = False) -> None:
    """Make a directory, mode 0700, unless it is there.

    Raises:
        StorageError: it cannot be made.
    """
    with _writing(path):
        path.mkdir(mode=0o700, parents=parents, exist_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be written: {exc.strerror}; free or mend the disk"
        ) from exc


def fsync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
