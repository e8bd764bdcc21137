"""What a gateway needs, built in one place; the command line calls this."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.client.directory import endpoints_source, read_anchor
from orchestrator.control.application import Application
from orchestrator.gateway import endpoint
from orchestrator.gateway.listener import CLIENTS_PER_USER, WORKERS_MAX, Listener
from orchestrator.gateway.peers import PeerRules, group_id
from orchestrator.gateway.report import GatewayReport, read_status, status_path
from orchestrator.gateway.token import Token
from orchestrator.model.profile import FirmwareProfile
from orchestrator.wire.system_clock import SystemClock

__all__ = ["Settings", "read_status", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a gateway runs. Groups and users are names or numbers.

    Attributes:
        path: where applications connect, unless systemd has passed a socket.
        group: may open the socket.
        users: are let in, with `groups`; where neither is named, whoever may open the socket.
        groups: see `users`.
        patience_s: how long a request waits when every HSM is gone.
        workers: clients at a time.
        clients_per_user: of these, how many one Unix user may have.
    """

    path: Path
    group: str | None = None
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    patience_s: float = 30.0
    workers: int = WORKERS_MAX
    clients_per_user: int = CLIENTS_PER_USER


def run(
    home: Path,
    cluster: str,
    profile: FirmwareProfile,
    mode: str,
    settings: Settings,
    on_ready: Callable[[Path], None],
) -> GatewayReport:
    """Serve until SIGTERM; return what was done until then. Who is connected is served on.

    Raises:
        UsageError, NotFoundError, RefusedError: the settings are none to run with.
    """
    rules = PeerRules.parse(settings.users, settings.groups)
    group = group_id(settings.group) if settings.group else None
    path = endpoint.check_path(settings.path)
    token = Token(
        cluster,
        read_anchor(home, cluster),
        endpoints_source(home, cluster),
        profile,
        mode,
        lambda: Application.open(home, cluster),
        settings.patience_s,
    )
    passed = endpoint.passed_socket(os.environ, os.getpid())
    sock = passed or endpoint.open_socket(path, group)
    if passed is not None:
        path = Path(os.fsdecode(passed.getsockname()))
    status = endpoint.listen_at(status_path(path))
    limits = settings.workers, settings.clients_per_user
    listener = Listener(token, sock, status, path, rules, SystemClock(), *limits)
    on_ready(path)
    listener.run()
    if passed is None:
        path.unlink(missing_ok=True)
    status_path(path).unlink(missing_ok=True)
    return listener.report({})
