"""What a gateway tells of itself: values that go from workers to listener to `status`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import msgspec

from orchestrator.model.errors import MalformedError, UnavailableError
from orchestrator.wire.streams import dial

STATUS_TIMEOUT_S: Final = 5.0
STATUS_BYTES_MAX: Final = 16 * 1024 * 1024


class HsmReport(msgspec.Struct, frozen=True):
    """One HSM as a worker sees it. `latency_ms` is a moving average over its last requests."""

    hsm_id: str
    requests: int
    errors: int
    outstanding: int
    latency_ms: float


class WorkerReport(msgspec.Struct, frozen=True):
    """What one worker has done for its client."""

    pid: int
    user: str = ""
    sessions: int = 0
    calls: int = 0
    operations: int = 0
    errors: int = 0
    hsms: tuple[HsmReport, ...] = ()


class ClientReport(msgspec.Struct, frozen=True):
    """A client and its worker; `has_answered` is False for a worker that was too busy to tell."""

    client_pid: int
    uid: int
    since: int
    has_answered: bool
    worker: WorkerReport


class GatewayReport(msgspec.Struct, frozen=True):
    """A gateway. Times are Unix ms."""

    cluster_id: str
    socket: str
    pid: int
    started_at: int
    served: int
    refused: int
    clients: tuple[ClientReport, ...]


def status_path(listens_at: Path) -> Path:
    """Return where the gateway that listens at `listens_at` tells its status."""
    return listens_at.with_name(listens_at.name + ".status")


def read_status(listens_at: Path) -> GatewayReport:
    """Ask a gateway how it is.

    Raises:
        UnavailableError: none runs there, or it is another user's.
    """
    try:
        sock = dial(status_path(listens_at), STATUS_TIMEOUT_S)
    except PermissionError as exc:
        raise UnavailableError(
            f"the gateway at {listens_at} is another user's; ask as that user, or as root"
        ) from exc
    except OSError as exc:
        raise UnavailableError(
            f"no gateway answers at {listens_at}: {exc.strerror or exc}; give the --socket of one "
            "that runs, or start it by `cloister gateway run`"
        ) from exc
    with sock:
        return _decode(_read_all(sock))


def _read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    try:
        while piece := sock.recv(65536):
            data += piece
            if len(data) > STATUS_BYTES_MAX:
                break
    except TimeoutError as exc:
        raise UnavailableError("the gateway does not tell its status") from exc
    return bytes(data)


def _decode(data: bytes) -> GatewayReport:
    try:
        return msgspec.json.decode(data, type=GatewayReport)
    except msgspec.DecodeError as exc:
        raise MalformedError("the gateway's status is not one that this software knows") from exc
