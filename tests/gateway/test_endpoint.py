"""Where a gateway listens: what is in its way is left as it is, and said."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.gateway import endpoint
from orchestrator.gateway.report import read_status, status_path
from orchestrator.model.errors import RefusedError, UnavailableError
from tests.gateway.unix_users import as_user

OTHER = 65533
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others can enter, by a path that a socket's address holds."""
    made = Path(tempfile.mkdtemp(prefix="endpoint-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def refusal(path: Path, group: int | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        endpoint.open_socket(path, group)
    return str(caught.value)


def test_a_dead_socket_is_replaced(place: Path) -> None:
    endpoint.open_socket(place / "s", None).close()
    with endpoint.open_socket(place / "s", None), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place / "s"))
    assert stat.S_IMODE((place / "s").stat().st_mode) == 0o600


def test_what_is_no_socket_stays(place: Path) -> None:
    (place / "file").write_text("somebody's")
    (place / "directory").mkdir()
    for name in ("file", "directory"):
        assert "is no socket" in refusal(place / name)
    assert (place / "file").read_text() == "somebody's"


def test_a_socket_of_a_living_program_stays(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(place / "s"))
        other.listen()
        assert "another program listens" in refusal(place / "s")
        client.connect(str(place / "s"))


def test_a_place_that_cannot_be_is_named(place: Path) -> None:
    (place / "file").touch()
    assert f"{place / 'file'}/s cannot be used: " in refusal(place / "file" / "s")
    assert "/proc/no cannot be used: " in refusal(Path("/proc/no/s"))
    with pytest.raises(RefusedError, match="cannot be used"):
        endpoint.listen_at(place / "missing" / "s.status")


@only_root
def test_who_is_no_member_of_a_group_opens_nothing_to_it(place: Path) -> None:
    os.chown(place, OTHER, -1)
    with as_user(OTHER):
        for path in (place / "s", place / "made" / "s"):
            assert f"uid {OTHER} is no member of group 12345" in refusal(path, 12345)
    assert list(place.iterdir()) == []


@only_root
def test_the_status_of_another_users_gateway_is_his(place: Path) -> None:
    with pytest.raises(UnavailableError, match="`cloister gateway run`"):
        read_status(place / "s")
    refused = pytest.raises(UnavailableError, match="is another user's")
    with endpoint.listen_at(status_path(place / "s")), as_user(OTHER), refused:
        read_status(place / "s")


@only_root
def test_a_group_that_cannot_come_there_is_said(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed, own, made = place / "closed", place / "own", place / "made"
    closed.mkdir(0o700)
    own.mkdir(0o710)
    os.chown(own, -1, OTHER)
    for directory in (closed, own, made):
        endpoint.open_socket(directory / "s", OTHER).close()
        assert stat.S_IMODE((directory / "s").stat().st_mode) == 0o660
    [said] = caplog.messages
    assert said.startswith(f"members of group {OTHER} cannot enter {closed}, ")
