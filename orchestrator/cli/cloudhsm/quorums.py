"""`quorum token-sign`."""

from __future__ import annotations

from orchestrator.cli.cloudhsm.console import Console, not_offered_yet
from orchestrator.cli.cloudhsm.syntax import Given


def delete(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def generate(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def list_tokens(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def list_values(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)


def set_value(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)
