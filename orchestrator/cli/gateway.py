"""`cloister gateway`: PKCS#11 for applications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import CLUSTER, command, group
from orchestrator.cli.invocation import Invocation

app = group("gateway", "PKCS#11 for applications, on a unix socket.")

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="Where applications connect; default: gateway/CLUSTER.sock in the home.",
        readable=False,  # the gateway's own user need not be one of its clients
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
    clients_per_user: Annotated[
        int,
        typer.Option(
            "--clients-per-user",
            metavar="N",
            min=1,
            max=32768,
            help="Of these, how many one Unix user may have; more are refused.",
        ),
    ] = 256,
) -> None:
    """Serve PKCS#11 applications until SIGTERM; who is connected then is served to the end.

    Applications load p11-kit-client.so, find one token per gateway, and log in with
    user:password of a crypto user. A socket passed by systemd is used instead of --socket.

    Example:
      cloister gateway run --socket /run/cloister/pkcs11.sock --group tls-servers
    """
    from orchestrator.gateway.main import Settings

    cluster, services = call.cluster_id, call.services
    row = call.plane.records.cluster(cluster)
    profile = services.profiles()[row.hsm_type]
    settings = Settings(
        path=_path(call, socket),
        group=group_name,
        users=tuple(allow_user),
        groups=tuple(allow_group),
        patience_s=patience,
        workers=workers,
        clients_per_user=clients_per_user,
    )
    call.close()  # the gateway forks: it must hold no connection to the database

    def ready(path: Path) -> None:
        call.say(f"{cluster} serves PKCS#11 at {path}")

    done = services.gateway().run(services.home(), cluster, profile, row.mode, settings, ready)
    call.show(
        {"cluster_id": cluster, "served": done.served, "clients_served_on": len(done.clients)}
    )


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
    found = call.services.gateway().read_status(_path(call, socket))
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
