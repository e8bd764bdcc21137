"""`quorum token-sign`: tokens to approve operations with, and how many approvals those take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from orchestrator.cli import files
from orchestrator.cli.cloudhsm.console import Console, approval_of
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.model.errors import UsageError
from orchestrator.model.services import KEY_SERVICES, Service

_FORMER_TYPE: Final = "hsm1.medium"


def generate(console: Console, given: Given) -> object:
    """Write a token for others to sign, or what proves one's own key."""
    service, path = Service(given.text("--service")), given.text("--token")
    quorum = console.changes(given).quorum
    if service is Service.REGISTRATION:
        content = quorum.registration().pack()
    elif service in KEY_SERVICES:
        if not given.has("--filter"):
            raise UsageError(f"a token of service {service} is for one key: give --filter")
        content = quorum.generate(service, console.find_key(given).ref).pack()
    else:
        content = quorum.generate(service).pack()
    files.renew(Path(path), content)
    return {"path": path}


def list_tokens(console: Console, given: Given) -> object:
    """List everybody's tokens: those of admin services one by one, those of keys by key."""
    console.session(given)  # the original shows them to people who are logged in
    tokens = console.plane.quorum(console.cluster(given)).tokens
    now = console.plane.clock.now_ms()
    of_admins = [
        {
            "username": token.name,
            "service": token.service,
            "approvals-required": token.approvals_required,
            "number-of-approvals": 0,  # they come with the operation, in the file
            "token-timeout-seconds": max(0, (token.expires_at - now) // 1000),
            "cluster-coverage": "full",
        }
        for token in tokens
        if token.service not in KEY_SERVICES
    ]
    counted = Counter((t.name, t.service, t.ref) for t in tokens if t.service in KEY_SERVICES)
    of_keys = [
        {
            "username": name,
            "service": service,
            "key-reference": f"0x{ref:016x}",
            "minimum-token-count": count,
        }
        for (name, service, ref), count in counted.items()
    ]
    return {"tokens": [*of_admins, *of_keys]}


def list_values(console: Console, given: Given) -> object:
    """Show how many approvals each of the original's services takes; 1 is off."""
    cluster = console.cluster(given)
    values = dict(console.plane.quorum(cluster).values)
    shown = {service: values.get(service, 1) for service in (Service.USER, Service.QUORUM)}
    if console.plane.records.cluster(cluster).hsm_type != _FORMER_TYPE:
        shown[Service.CLUSTER] = values.get(Service.CLUSTER, 1)
    return shown


def set_value(console: Console, given: Given) -> object:
    """Set how many approvals a service takes."""
    console.changes(given).quorum.set_value(
        Service(given.text("--service")),
        given.number("--value"),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return "Set quorum value successful"


def list_timeouts(console: Console, given: Given) -> object:
    """Show how long tokens live (guide of 2023)."""
    policy = console.plane.quorum(console.cluster(given))
    return {"generated": policy.generated_s, "approved": policy.approved_s}


def set_timeout(console: Console, given: Given) -> object:
    """Set how long tokens live (guide of 2023)."""
    console.changes(given).quorum.set_policy(
        generated_s=given.number("--generated") if given.has("--generated") else None,
        approved_s=given.number("--approved") if given.has("--approved") else None,
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return "Set token timeout successful"


def delete(console: Console, given: Given) -> object:
    """Withdraw tokens."""
    quorum = console.changes(given).quorum
    quorum.delete_tokens(given.text("--scope"), request=given.maybe("--request"))
    return "Deletion of quorum token(s) successful"
