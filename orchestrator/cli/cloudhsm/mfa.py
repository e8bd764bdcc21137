"""Second factors and quorum keys: `user change-mfa`, `user change-quorum`."""

from __future__ import annotations

from orchestrator.cli.cloudhsm.console import Console, not_offered_yet
from orchestrator.cli.cloudhsm.syntax import Given


def change_mfa(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def register(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)
