"""`cloister cluster`: from nothing to active, and the ledger's health."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completion, credentials, files, next_steps
from orchestrator.cli.command import CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import HsmOption, PasswordStdinOption
from orchestrator.model.errors import RefusedError

app = group("cluster", "Clusters: create, initialise, activate, verify, delete.")

_COLUMNS = ("cluster_id", "state", "hsm_type", "mode", "availability_zones", "seq", "created_at")


@command(app, "create")
def create(
    call: Invocation,
    *,
    hsm_type: Annotated[
        str,
        typer.Option(metavar="TYPE", help="Firmware profile.", autocompletion=completion.profiles),
    ] = "hsm2m.medium",
    az: Annotated[
        list[str] | None,
        typer.Option(metavar="AZ …", help="Zones; default: all.", autocompletion=completion.zones),
    ] = None,
    mode: Annotated[str | None, typer.Option(metavar="MODE", help="FIPS or NON_FIPS.")] = None,
    source_backup: Annotated[
        str | None,
        typer.Option(
            metavar="BACKUP",
            help="Go on from this backup.",
            autocompletion=completion.backups,
        ),
    ] = None,
) -> None:
    """Create a cluster; its first HSM is the next step.

    Example:
      cloister cluster create --hsm-type hsm2m.medium --az lab-1a lab-1b lab-1c
    """
    backup = call.backup(source_backup) if source_backup else None
    view = call.plane.create_cluster(hsm_type, tuple(az or ()), mode, backup)
    call.go_on_with(view.cluster_id)
    call.show(view, next_step=next_steps.after(view, ()))


@command(app, "list")
def list_(call: Invocation) -> None:
    """List clusters."""
    views = call.plane.clusters()
    step = "" if views else next_steps.CREATE_CLUSTER
    call.show({"clusters": views}, columns=_COLUMNS, next_step=step)


@command(app, "describe", CLUSTER)
def describe(call: Invocation) -> None:
    """Show one cluster, its HSMs, and what is wrong with it."""
    view = call.plane.cluster(call.cluster_id)
    hosts = call.plane.host_views(call.cluster_id)
    call.show(view, next_step=next_steps.after(view, hosts))


@command(app, "csr", CLUSTER)
def csr(call: Invocation) -> None:
    """Print the cluster's certificate signing request (PEM).

    Example:
      cloister cluster csr > cluster.csr
    """
    pem = call.plane.csr(call.cluster_id).decode()
    if call.is_json:
        call.show({"cluster_id": call.cluster_id, "csr": pem})
        return
    sys.stdout.write(pem)
    call.show_next("cluster initialize --signed-cert cluster.crt --trust-anchor ca.crt", sys.stderr)


@command(app, "initialize", CLUSTER)
def initialize(
    call: Invocation,
    *,
    signed_cert: Annotated[Path, typer.Option(metavar="FILE", help="The CSR, signed (PEM).")],
    trust_anchor: Annotated[Path, typer.Option(metavar="FILE", help="Your CA's certificate.")],
) -> None:
    r"""Give the cluster the certificate that your CA signed.

    Clients trust exactly the HSMs that stand under this CA, and it cannot be
    replaced later: keep its key well. A CA of your own, and its signature:

      cloister cluster csr > cluster.csr
      openssl genrsa -aes256 -out ca.key 3072
      openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj /CN=my-ca -out ca.crt
      openssl x509 -req -in cluster.csr -CA ca.crt -CAkey ca.key -set_serial 1 -days 3650 \
        -sha256 -out cluster.crt

    Example:
      cloister cluster initialize --signed-cert cluster.crt --trust-anchor ca.crt
    """
    certificate, anchor = files.read(signed_cert), files.read(trust_anchor)
    with call.progress("Initialising"):
        view = call.plane.initialize(call.cluster_id, certificate, anchor)
    call.show(view, next_step=next_steps.after(view, ()))


@command(app, "activate", CLUSTER)
def activate(call: Invocation, *, password_stdin: PasswordStdinOption = False) -> None:
    """Set the first password of user `admin`; the cluster becomes ACTIVE.

    Example:
      cloister cluster activate --password-stdin < admin-password
    """
    cluster = call.cluster_id
    password = credentials.new_password("admin", from_stdin=password_stdin)
    with call.progress("Activating"):
        change = call.plane.activate(cluster, password)
    view = call.plane.cluster(cluster)
    step = next_steps.after(view, call.plane.host_views(cluster))
    data = {"cluster_id": cluster, "state": view.state, "username": "admin", "change": change}
    call.show(data, next_step=step)


@command(app, "verify", CLUSTER)
def verify(call: Invocation) -> None:
    """Recount every HSM's state from its stored rows and compare.

    Exits with 1 when anything differs.
    """
    with call.progress("Verifying"):
        found = call.inspection.verify(call.cluster_id)
    call.show(found)
    if not found.is_consistent:
        problems = "; ".join(found.problems) or "an HSM does not agree"
        raise RefusedError("inconsistent", f"{found.cluster_id} is not consistent: {problems}")


@command(app, "adopt", Needs(cluster=True, confirmation=True))
def adopt(call: Invocation, *, hsm: HsmOption = None) -> None:
    """Rebuild the ledger from the HSMs after the database was lost or set back.

    Of chains that truly differ, --hsm names the HSM whose chain goes on.
    """
    # Neither is resolved: the records that ids are looked up in may be what was lost.
    cluster = call.cluster_prefix
    call.confirm(f"Replace the ledger of {cluster or 'the cluster'} by what its HSMs hold?")
    with call.progress("Adopting"):
        report = call.inspection.adopt(cluster, hsm)
    call.show(report, next_step="cluster verify")


@command(app, "delete", Needs(cluster=True, confirmation=True))
def delete(call: Invocation) -> None:
    """Delete a cluster that has no HSMs left; its backups stay."""
    cluster = call.cluster_id
    call.confirm(f"Delete {cluster}?")
    call.plane.delete_cluster(cluster)
    call.show({"cluster_id": cluster, "state": "DELETED"})
