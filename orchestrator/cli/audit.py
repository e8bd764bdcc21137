"""`cloister audit`: what every HSM has recorded of what was done with it."""

from __future__ import annotations

from orchestrator.cli.command import CLUSTER, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import HsmOption
from orchestrator.model.errors import RefusedError

app = group("audit", "Audit logs: one gapless, hash-chained log per HSM.")

_COLUMNS = ("hsm_id", "number", "at", "event", "actor", "subject", "outcome")


@command(app, "list", CLUSTER)
def list_(call: Invocation, *, hsm: HsmOption = None) -> None:
    """Show the audit log of one HSM, or of all that answer, oldest first."""
    cluster, plane = call.cluster_id, call.plane
    if hsm:
        chosen = [str(plane.records.resolve_hsm(cluster, hsm)[1])]
    else:
        chosen = [view.hsm_id for view in plane.hsms(cluster) if view.seq is not None]
    records = [
        {
            "hsm_id": hsm_id,
            "number": record.number,
            "at": record.at,
            "event": record.event,
            "actor": record.actor,
            "subject": record.subject,
            "outcome": record.outcome,
            "prev": record.prev,
        }
        for hsm_id in chosen
        for record in call.inspection.audit(cluster, hsm_id)
    ]
    call.show({"records": records}, columns=_COLUMNS, next_step="audit verify")


@command(app, "verify", CLUSTER)
def verify(call: Invocation) -> None:
    """Check every HSM's log: no gap, an unbroken hash chain, a signed head.

    Exits with 1 when a log fails or its HSM does not answer.
    """
    with call.progress("Verifying"):
        checks = call.inspection.verify_audit(call.cluster_id)
    call.show({"logs": checks})
    if failed := [check for check in checks if check.problem]:
        named = "; ".join(f"{check.hsm_id}: {check.problem}" for check in failed)
        raise RefusedError("audit-broken", named)
