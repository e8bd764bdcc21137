"""Files appear whole or not at all, also when the disk will not have them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.model.errors import StorageError
from orchestrator.wire.files import make_directory, publish


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the kernel refuse longer writes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    publish(path, b"old")
    with files_of_at_most(10), pytest.raises(StorageError, match=f"{path} cannot be written"):
        publish(path, bytes(100))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "a draft was left behind"
    publish(path, bytes(100))
    assert path.read_bytes() == bytes(100)
    assert path.stat().st_mode & 0o777 == 0o600


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in ("gone", "file"):
        with pytest.raises(StorageError):
            publish(tmp_path / parent / "name", b"x")
        with pytest.raises(StorageError):
            make_directory(tmp_path / parent / "name")
    publish(tmp_path / "directory-to-be", b"x")
    with pytest.raises(StorageError):
        make_directory(tmp_path / "directory-to-be")
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError):
        publish(tmp_path / "taken", b"x")
    assert not list(tmp_path.glob(".draft*"))
