"""Certificates and data objects as callers see them. They change through the ledger alone."""

from __future__ import annotations

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.using import fitting
from orchestrator.model.errors import UnavailableError, UsageError
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m


def list_objects(core: Core, asked: m.ListObjects, caller: Caller) -> m.ObjectPage:
    """List what the caller sees and the filter matches; without a log-in what is not private."""
    if not 1 <= asked.limit <= m.KEYS_PER_PAGE_MAX or asked.offset < 0:
        raise UsageError(f"a page has 1 to {m.KEYS_PER_PAGE_MAX} objects")
    if core.is_removed:
        raise UnavailableError(f"{core.config.hsm} has left the cluster")
    user = caller.name if caller.role is Role.CRYPTO_USER else ""
    found = [x for x in core.state.objects() if x.visible_to(user) and asked.filter.matches(x)]
    page = found[asked.offset : asked.offset + asked.limit]
    return m.ObjectPage(tuple(fitting(page)), len(found))
