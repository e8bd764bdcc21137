"""`cloister gateway`: PKCS#11 for applications."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.command import CLUSTER, command, group
from orchestrator.cli.invocation import Invocation

if TYPE_CHECKING:
    from orchestrator.gateway.token import Token

app = group("gateway", "PKCS#11 for applications, on a unix socket.")

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="Where applications connect; default: gateway/CLUSTER.sock in the home.",
    ),
]
_COLUMNS = ("client_pid", "uid", "user", "sessions", "calls", "operations", "errors")


@command(app, "run", CLUSTER)
def run(
    call: Invocation,
    *,
    socket: SocketOption = None,
    group_name: Annotated[
        str | None,
        typer.Option("--group", metavar="GROUP", help="Unix group that may connect (mode 0660)."),
    ] = None,
    allow_user: Annotated[
        list[str], typer.Option("--allow-user", metavar="USER", help="Let in only these users...")
    ] = [],  # noqa: B006  # Typer's way to say: repeatable
    allow_group: Annotated[
        list[str], typer.Option("--allow-group", metavar="GROUP", help="... and these groups.")
    ] = [],  # noqa: B006  # as above
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="How long a request waits when every HSM is gone.",
        ),
    ] = 30.0,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=32768, help="Clients at a time.")
    ] = 1024,
) -> None:
    """Serve PKCS#11 applications until SIGTERM; who is connected then is served to the end.

    Applications load p11-kit-client.so, find one token per gateway, and log in with
    user:password of a crypto user. A socket passed by systemd is used instead of --socket.

    Example:
      cloister gateway run --socket /run/cloister/pkcs11.sock --group tls-servers
    """
    from orchestrator.gateway import endpoint
    from orchestrator.gateway.listener import Listener
    from orchestrator.gateway.peers import PeerRules, group_id
    from orchestrator.gateway.report import status_path
    from orchestrator.wire.streams import listen
    from orchestrator.wire.system_clock import SystemClock

    rules = PeerRules.parse(allow_user, allow_group)
    gid = group_id(group_name) if group_name else None
    path = _path(call, socket)
    token = _token(call, patience)
    passed = endpoint.passed_socket(os.environ, os.getpid())
    sock = passed or endpoint.open_socket(path, gid)
    if passed is not None:
        path = Path(os.fsdecode(passed.getsockname()))
    status = listen(status_path(path))
    call.say(f"{token.cluster} serves PKCS#11 at {path}")
    Listener(token, sock, status, path, rules, SystemClock(), workers).run()
    if passed is None:
        path.unlink(missing_ok=True)
    status_path(path).unlink(missing_ok=True)


@command(app, "env", CLUSTER)
def env(call: Invocation, *, socket: SocketOption = None) -> None:
    """Print what an application needs in its environment.

    Example:
      eval "$(cloister gateway env)"
    """
    from orchestrator.gateway.endpoint import address

    value = address(_path(call, socket))
    if call.is_json:
        call.show({"P11_KIT_SERVER_ADDRESS": value})
    else:
        typer.echo(f"export P11_KIT_SERVER_ADDRESS='{value}'")


@command(app, "status", CLUSTER)
def status(call: Invocation, *, socket: SocketOption = None) -> None:
    """Show a gateway's clients, their sessions and operations, and how each HSM answers them."""
    from orchestrator.gateway.report import read_status

    found = read_status(_path(call, socket))
    clients = [
        {"client_pid": c.client_pid, "uid": c.uid}
        | {name: getattr(c.worker, name) for name in _COLUMNS[2:]}
        for c in found.clients
    ]
    hsms = [
        {"client_pid": client.client_pid} | {name: getattr(h, name) for name in h.__struct_fields__}
        for client in found.clients
        for h in client.worker.hsms
    ]
    call.show(
        found,
        brief={
            "cluster_id": found.cluster_id,
            "socket": found.socket,
            "pid": found.pid,
            "served": found.served,
            "refused": found.refused,
            "clients": clients,
            "hsms": hsms,
        },
    )


def _path(call: Invocation, given: Path | None) -> Path:
    from orchestrator.gateway.endpoint import check_path

    if given is None:
        given = call.services.home() / "gateway" / f"{call.cluster_id}.sock"
    return check_path(given)


def _token(call: Invocation, patience: float) -> Token:
    from orchestrator.client.directory import endpoints_source, read_anchor
    from orchestrator.control.application import Application
    from orchestrator.gateway.token import Token

    cluster, services = call.cluster_id, call.services
    home = services.home()
    profile = services.profiles()[call.plane.records.cluster(cluster).hsm_type]

    def open_application() -> Application:
        return Application.open(home, cluster)

    # The listener forks: it must hold no connection to the database.
    call.close()
    return Token(
        cluster,
        read_anchor(home, cluster),
        endpoints_source(home, cluster),
        profile,
        open_application,
        patience,
    )
