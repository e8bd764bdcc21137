"""`key wrap` and `key unwrap`."""

from __future__ import annotations

from orchestrator.cli.cloudhsm.console import Console, not_offered_yet
from orchestrator.cli.cloudhsm.syntax import Given


def wrap(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def unwrap(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)
