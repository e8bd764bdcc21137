"""What every decision asks first."""

from __future__ import annotations

from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError
from orchestrator.model.roles import Operation, require
from orchestrator.model.state import Phase, State, User


def need(condition: bool, code: str, message: str) -> None:  # an assertion
    """Raise RefusedError with `code` unless `condition` holds."""
    if not condition:
        raise RefusedError(code, message)


def authorize(state: State, actor: e.Actor, operation: Operation) -> User:
    """Check that the actor exists and its role may do this in an active cluster."""
    need_active(state)
    require(actor.role, operation)
    return state.user(actor.role, actor.name)


def need_active(state: State) -> None:
    """Raise RefusedError unless the cluster is activated."""
    need(
        state.meta.phase is Phase.ACTIVE,
        "not-active",
        f"cluster {state.meta.cluster} is {state.meta.phase}: activate it first",
    )
