"""`cloister hsm`: the HSMs of a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import approvals, completion, next_steps
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.command import CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import HsmArgument, ZoneOption

app = group("hsm", "HSMs: add, list, remove.")

_COLUMNS = ("hsm_id", "availability_zone", "host", "state", "seq", "trouble")


@command(app, "create", CLUSTER)
def create(
    call: Invocation,
    *,
    az: ZoneOption,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Default: one of the zone.", autocompletion=completion.hosts
        ),
    ] = None,
    approval: ApprovalOption = None,
) -> None:
    """Add an HSM in a zone. Until the cluster is active there is exactly one.

    On an active cluster the host must be admitted (`cloister host admit`): the
    new HSM gets the keys from a living one.

    Example:
      cloister hsm create --az lab-1b
    """
    with call.progress(f"Creating an HSM in {az}"):
        view = call.membership.create(
            call.cluster_id, az, host=host, approval=approvals.read(approval)
        )
    cluster, hosts = call.plane.cluster(call.cluster_id), call.plane.host_views(call.cluster_id)
    call.show(view, next_step=next_steps.after(cluster, hosts))


@command(app, "list", CLUSTER)
def list_(call: Invocation) -> None:
    """List HSMs, their states and how far each has come."""
    call.show({"hsms": call.plane.hsms(call.cluster_id)}, columns=_COLUMNS)


@command(app, "delete", Needs(cluster=True, confirmation=True))
def delete(
    call: Invocation,
    hsm: HsmArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also the last one without a recovery key.")
    ] = False,
    approval: ApprovalOption = None,
) -> None:
    """Remove an HSM from the cluster and destroy its token.

    The last one goes only after a backup that a recovery key can open.
    """
    cluster, hsm_id = call.hsm(hsm)
    call.confirm(f"Remove {hsm_id} from {cluster} and destroy its token?")
    with call.progress(f"Removing {hsm_id}"):
        call.membership.delete(cluster, hsm_id, force=force, approval=approvals.read(approval))
    call.show({"cluster_id": cluster, "hsm_id": hsm_id, "state": "DELETED"})
