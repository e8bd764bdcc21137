"""`cloister host`: which hosts' HSMs may join."""

from __future__ import annotations

from orchestrator.cli import approvals, next_steps
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.command import CHANGE, CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import HostArgument
from orchestrator.model.roles import Role

app = group("host", "Hosts: which of them may hold the cluster's keys.")

_COLUMNS = ("host", "availability_zone", "is_admitted", "fingerprint")


@command(app, "list", CLUSTER)
def list_(call: Invocation) -> None:
    """List hosts, and which of them the cluster has admitted."""
    call.show({"hosts": call.plane.host_views(call.cluster_id)}, columns=_COLUMNS)


@command(app, "admit", CHANGE)
def admit(call: Invocation, host: HostArgument, *, approval: ApprovalOption = None) -> None:
    """Let HSMs on HOST join and receive the cluster's keys (admin).

    Compare the fingerprint with what the host itself shows first.
    """
    change = call.changes(Role.ADMIN).admit_host(
        host, approval=approvals.read(approval), request=call.request
    )
    cluster, hosts = call.plane.cluster(call.cluster_id), call.plane.host_views(call.cluster_id)
    call.show({"host": host, "change": change}, next_step=next_steps.after(cluster, hosts))


@command(app, "expel", Needs(login=True, change=True, confirmation=True))
def expel(call: Invocation, host: HostArgument, *, approval: ApprovalOption = None) -> None:
    """Let no further HSM of HOST join (admin); its present HSMs stay until deleted."""
    call.confirm(f"Expel host {host}?")
    change = call.changes(Role.ADMIN).expel_host(
        host, approval=approvals.read(approval), request=call.request
    )
    call.show({"host": host, "change": change}, next_step="hsm list")
