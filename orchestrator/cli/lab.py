"""`cloister lab`: zones, hosts and HSM processes on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import next_steps
from orchestrator.cli.command import CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import HsmArgument

app = group("lab", "The embedded lab: zones, hosts and HSMs as processes of this machine.")

_COLUMNS = ("hsm_id", "host", "availability_zone", "state", "pid", "uptime_s")


@command(app, "up")
def up(
    call: Invocation,
    *,
    azs: Annotated[
        int, typer.Option("--azs", metavar="N", min=1, max=10, help="Availability zones.")
    ] = 3,
) -> None:
    """Start the lab: a supervisor, and one host per zone with a key of its own."""
    home = call.services.home()
    with call.progress("Starting the lab"):
        status = call.services.lab().up(home, azs)
    call.show(status, columns=_COLUMNS, next_step=next_steps.CREATE_CLUSTER)


@command(app, "status")
def status(call: Invocation) -> None:
    """Show the supervisor and the HSM processes."""
    found = call.services.lab().status(call.services.home())
    call.show(found, columns=_COLUMNS, next_step="" if found.is_up else "lab up")


@command(app, "down")
def down(call: Invocation) -> None:
    """Stop every process of the lab; its state stays."""
    home = call.services.home()
    with call.progress("Stopping the lab"):
        call.services.lab().down(home)
    call.show({"home": home, "is_up": False}, next_step="lab up")


@command(app, "destroy", Needs(confirmation=True))
def destroy(
    call: Invocation,
    *,
    include_backups: Annotated[
        bool, typer.Option("--include-backups", help="Also the backups in the vault.")
    ] = False,
) -> None:
    """Stop the lab and delete its tokens, states and database for good."""
    home = call.services.home()
    what = "all HSMs, keys and backups" if include_backups else "all HSMs and keys"
    call.confirm(f"Destroy {what} in {home}?")
    with call.progress("Destroying the lab"):
        call.services.lab().destroy(home, include_backups=include_backups)
    call.show({"home": home, "is_up": False, "backups_kept": not include_backups})


@command(app, "kill")
def kill(call: Invocation, hsm: HsmArgument) -> None:
    """Kill an HSM's process with SIGKILL and hold it down until `lab start`."""
    agent = call.services.lab().kill(call.services.home(), hsm)
    call.show(agent, next_step=f"lab start {agent.hsm_id}")


@command(app, "start")
def start(call: Invocation, hsm: HsmArgument) -> None:
    """Start an HSM that `lab kill` holds down."""
    home = call.services.home()
    with call.progress("Starting the HSM"):
        agent = call.services.lab().start(home, hsm)
    call.show(agent, next_step="cluster verify")


@command(app, "sign-csr", CLUSTER)
def sign_csr(call: Invocation) -> None:
    """Sign the cluster's CSR with a throw-away CA, for those who just try things out.

    The CA's key stays in the lab: for keys that matter use a CA of your own,
    see `cloister cluster initialize --help`.
    """
    csr = call.plane.csr(call.cluster_id)
    certificate, anchor = call.services.lab().sign_csr(call.services.home(), csr)
    call.show(
        {"signed_cert": certificate, "trust_anchor": anchor},
        next_step=f"cluster initialize --signed-cert {certificate} --trust-anchor {anchor}",
    )
